# SPDX-License-Identifier: MIT
"""The list of trickle map: records from standard input, a file, or the command line.

A list may come slowly (`tail -f`, a pipe), and results have to be printed meanwhile; so nothing
here waits longer than it is told to. What is there is read, cut into records, and waits in `ready`
as lists of fields until it is added to the work.
"""
from __future__ import annotations

import os
import select
from collections import deque

from .cli import UsageError
from .map_words import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

READ_BYTES = 1 << 18
FORMATS = ("lines", "null", "csv", "tsv", "jsonl", "colsep")


class ListError(Exception):
    """Something in the list is wrong; the message is a sentence that says where."""


class Format:
    """How records are written, and what the fields of a record are."""

    def __init__(self, kind: str, *, has_header: bool = False, colsep: str = "",
                 skip_empty: bool = False, stands: str = "{}") -> None:
        self.kind = kind
        self.separator = b"\0" if kind == "null" else b"\n"
        self.has_header = has_header
        self.skip_empty = skip_empty or kind in ("csv", "tsv", "jsonl")
        self.fields = Fields(is_json=kind == "jsonl", stands=stands)
        self.colsep = colsep
        self.cut: Callable[[bytes], list[bytes] | None] = {
            "csv": _csv_row, "tsv": _tsv_row, "jsonl": self._json_row,
            "colsep": _column_cutter(colsep)}.get(kind, _one)

    @property
    def is_columns(self) -> bool:
        """Whether only its first record says how many fields there are."""
        return self.kind in ("csv", "tsv", "colsep")

    def begin(self, row: list[bytes]) -> bool:
        """The first record says what the fields are. True: it is a record of its own, too."""
        if not self.is_columns:
            return True
        names = [os.fsdecode(name) for name in row] if self.has_header else []
        if len(set(names)) < len(names):
            raise ListError("two columns have the same name in the header: name them differently, "
                            "or say --no-header and use {1}, {2}, ...")
        self.fields.count = len(row)
        self.fields.names = names
        return not self.has_header

    def check(self, row: list[bytes]) -> None:
        if self.is_columns and len(row) != self.fields.count:
            raise ListError(f"there are {len(row)} fields, and {self.fields.count} in the first "
                            "record")

    def _json_row(self, record: bytes) -> list[bytes]:
        import json
        try:
            value = json.loads(record)
        except ValueError as error:
            raise ListError(f"this is no JSON: {error}") from None
        except RecursionError:
            raise ListError("this JSON is nested too deeply") from None
        row = [record]
        for name in self.fields.names:
            if not isinstance(value, dict) or name not in value:
                raise ListError(f"there is no {name!r} in it, which the command needs")
            try:
                row.append(_json_text(value[name]))
            except UnicodeEncodeError:
                raise ListError(f"{name!r} in it has half a surrogate pair, which is no "
                                "text") from None
        return row


def _json_text(value: Any) -> bytes:
    """As an argument: texts as they are, null as nothing, all else as JSON."""
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    import json
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _one(record: bytes) -> list[bytes]:
    return [record]


def _tsv_row(record: bytes) -> list[bytes]:
    return record.removesuffix(b"\r").split(b"\t")


def _column_cutter(colsep: str) -> Callable[[bytes], list[bytes]]:
    import re
    try:
        split = re.compile(os.fsencode(colsep)).split
    except re.error as error:
        raise UsageError(f"--colsep takes a regular expression: {error}") from None
    return (lambda record: split(record.removesuffix(b"\r"))) if colsep else _one


def _csv_row(record: bytes) -> list[bytes] | None:
    """None: it goes on behind the newline."""
    import csv
    csv.field_size_limit(1 << 30)
    text = record.decode("utf-8", "surrogateescape").removesuffix("\r")
    try:
        (row,) = csv.reader([text], strict=True)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
        raise ListError(f"this is no CSV: {error}") from None
    return [cell.encode("utf-8", "surrogateescape") for cell in row]


class Records:
    """A list that is read from a file descriptor."""

    def __init__(self, fd: int, form: Format, name: str = "the list") -> None:
        self.fd = fd
        self.form = form
        self.name = name
        self.ready: deque[list[bytes]] = deque()
        self.is_ended = False
        self.is_open = False  # more was to follow, which is not known
        self.error: ListError | None = None  # what has ended it: what stands before that is good
        self.had_bytes = False
        self._rest = b""  # the start of a record
        self._open = b""  # a CSV record with an open quote, so far
        self._number = 0  # of lines that were cut off
        self._begun = 0  # the line where the record begins
        self._has_begun = False  # the first record has been seen
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def fill(self, seconds: float) -> bool:
        """Reads what is there, waiting for it at most so long. True: something has come, or the
        end."""
        if not self.is_ended and not self._poll.poll(seconds * 1000):
            return False
        try:
            if not self.is_ended:
                self._read()
        except ListError as error:
            self.error = error
            self.is_ended = self.is_open = True
        return True

    def _read(self) -> None:
        data = os.read(self.fd, READ_BYTES)
        self.had_bytes = self.had_bytes or data != b""
        if data:
            *whole, self._rest = (self._rest + data).split(self.form.separator)
        else:
            self.is_ended = True
            whole, self._rest = [self._rest] if self._rest else [], b""
        for record in whole:
            self._add(record)
        if self.is_ended and self._open:
            raise ListError(f"{self.name}, line {self._begun}: a quote is open to the end")

    def begin(self) -> None:
        """Waits for what says how many fields there are. Raises ListError when that, or the first
        record, is wrong."""
        while self.form.is_columns and not self._has_begun and not self.is_ended:
            self.fill(0.1)
        if self.error is not None and not self.ready:
            raise self.error

    def _add(self, record: bytes) -> None:
        self._number += 1
        if self._number == 1 and self.form.kind in ("csv", "tsv", "jsonl"):
            record = record.removeprefix(b"\xef\xbb\xbf")
        if not self._open:
            self._begun = self._number
        try:
            self._add_row(record)
        except ListError as error:
            raise ListError(f"{self.name}, line {self._begun}: {error}") from None

    def _add_row(self, record: bytes) -> None:
        if self._open:
            record, self._open = self._open + b"\n" + record, b""
        elif self.form.skip_empty and not record.strip():
            return
        row = self.form.cut(record)
        if row is None:
            self._open = record
            return
        if b"\0" in record or any(b"\0" in cell for cell in row):
            raise ListError("there is a zero byte in it, which no argument can have; -0 cuts the "
                            "list at zero bytes")
        is_first = not self._has_begun
        self._has_begun = True
        if is_first and not self.form.begin(row):
            return
        self.form.check(row)
        self.ready.append(row)


class Given:
    """A list that is there: of the command line (::: a b), or the stored one of a job."""

    error = None

    def __init__(self, rows: Iterator[Any], is_open: bool = False) -> None:
        self.ready: deque[Any] = deque()
        self.is_ended = False
        self.is_open = is_open  # more was to follow, which nobody knows
        self._rows = rows

    def fill(self, seconds: float) -> bool:
        from itertools import islice
        some = list(islice(self._rows, 1024))
        self.ready.extend(some)
        self.is_ended = not some
        return True

    def begin(self) -> None:
        pass


def arguments(sources: Sequence[Sequence[str]]) -> Given:
    """::: a b ::: c d: all combinations, the last source the fastest, as GNU parallel does."""
    from itertools import product
    rows = ([os.fsencode(value) for value in row] for row in product(*sources))
    return Given(rows)


def may_differ(is_to_change: bool) -> bool:
    """Whether standard input may be another list for a job that has all of its list: a file is, and
    with --on-change whatever is there. What else there is may be there by chance, and silent for
    ever."""
    import stat
    return is_given(0) and (is_to_change or stat.S_ISREG(os.fstat(0).st_mode))


def is_given(fd: int) -> bool:
    """Whether a list may be there: no terminal, not /dev/null, not closed, no file at its end."""
    import stat
    try:
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode):
            return info.st_size > os.lseek(fd, 0, os.SEEK_CUR)
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == os.stat("/dev/null").st_rdev:
            return False
        return not stat.S_ISDIR(info.st_mode) and not os.isatty(fd)
    except OSError:
        return False
