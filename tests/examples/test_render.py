# SPDX-License-Identifier: MIT
"""The render farm of examples/render, with kill -9 of a VM and of the program: by POV-Ray and
ffmpeg where they are installed, and by stand-ins for them."""
import hashlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

FRAMES, WIDTH, HEIGHT = 24, 64, 36

POVRAY = """\
#!/usr/bin/python3
import struct, sys, time, zlib
words = reversed(sys.argv[1:])  # the first of a kind counts: +W, not +WT
options = {word[:2]: word[2:] for word in words if word[0] == "+"}
width, height, clock = int(options["+W"]), int(options["+H"]), float(options["+K"])
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
row = b"\\0" + bytes([int(255 * clock), 100, 200]) * width
with open(options["+O"], "wb") as file:
    file.write(b"\\x89PNG\\r\\n\\x1a\\n")
    file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)))
    time.sleep(0.1)  # a frame takes its time
    file.write(chunk(b"IDAT", zlib.compress(row * height)) + chunk(b"IEND", b""))
"""
FFMPEG = """\
#!/bin/sh
for last in "$@"; do :; done
echo "$@" > "$last"
"""


def stand_ins(directory):
    directory.mkdir()
    for name, text in ("povray", POVRAY), ("ffmpeg", FFMPEG):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def size_of(frame):
    """(width, height) of a PNG that is whole."""
    data = frame.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND", frame
    return struct.unpack(">II", data[16:24])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tools", ["stand-ins", "real"])
def test_a_film_whose_vm_and_program_are_killed(root, build, tmp_path, tools):
    path = os.environ["PATH"]
    if tools == "stand-ins":
        path = stand_ins(tmp_path / "bin")
    elif not (shutil.which("povray") and shutil.which("ffmpeg")):
        pytest.skip("no povray or no ffmpeg here")
    elif "LD_PRELOAD" in os.environ:
        pytest.skip("runs without preloading")
    env = os.environ | {"PATH": path, "FRAMES": str(FRAMES), "WIDTH": str(WIDTH),
                        "TRICKLE": str(build / "trickle"), "HOME": str(tmp_path)}
    done = subprocess.run([root / "examples/render/pull_the_plug", tmp_path / "film"], env=env,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=280)
    assert done.returncode == 0, done
    assert "a VM\n" in done.stderr and "the program\n" in done.stderr
    assert f"film.mp4: {FRAMES} frames" in done.stdout
    before, kept = [int(word) for word in done.stdout.splitlines()[-1].split() if word.isdigit()]
    assert before == kept >= FRAMES * 3 // 10, done.stdout  # what was recorded was not made again
    frames = sorted((tmp_path / "film/frames").iterdir())
    assert [frame.name for frame in frames] == [f"{i:04}.png" for i in range(FRAMES)]
    assert {size_of(frame) for frame in frames} == {(WIDTH, HEIGHT)}
    assert len({hashlib.sha256(Path(f).read_bytes()).digest() for f in frames}) == FRAMES
    assert (tmp_path / "film/film.mp4").stat().st_size > 0
    assert (tmp_path / "film/sheet.png").stat().st_size > 0
