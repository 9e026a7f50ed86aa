# SPDX-License-Identifier: MIT
"""Reads the pictures that a browser makes: PNG with 8 bits for each of 3 or 4 colours."""
import struct
import zlib


def rows(path):
    """A list of rows of pixels (red, green, blue)."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8:at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", body)
            assert depth == 8 and colour in (2, 6), (depth, colour)
        elif kind == b"IDAT":
            packed += body
        at += size + 12
    plain, each = zlib.decompress(packed), 3 if colour == 2 else 4
    before, result = bytearray(width * each), []
    for y in range(height):
        start = y * (width * each + 1)
        line = bytearray(plain[start + 1:start + 1 + width * each])
        undo(plain[start], line, before, each)
        result.append([tuple(line[i:i + 3]) for i in range(0, len(line), each)])
        before = line
    return result


def undo(way, line, above, each):
    """Undoes one of the five ways in which a line is told by its neighbours."""
    for i in range(len(line)) if way else ():
        left = line[i - each] if i >= each else 0
        up, corner = above[i], above[i - each] if i >= each else 0
        if way == 4:
            guess = left + up - corner
            by = min((left, up, corner), key=lambda value: abs(guess - value))
        else:
            by = (0, left, up, (left + up) // 2)[way]
        line[i] = (line[i] + by) & 0xFF
