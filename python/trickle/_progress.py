# SPDX-License-Identifier: MIT
"""The progress bar: one line on stderr while forkwork or forkgen runs, when that is a terminal.

    wordcount  62% |############------| 392/634, 2 failed, 4 VMs, 81/s, 0:03 left

It is taken away while something else is written there (see _farm.say) and at the end.
"""
from __future__ import annotations

import sys
from _thread import RLock
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INTERVAL = 0.1  # seconds between two drawings
FIRST_AFTER = 0.3  # seconds: what is done sooner needs no bar
RATE_WINDOW = 5.0  # seconds that the shown rate looks back

lock = RLock()  # whoever writes to the terminal holds it
_shown: Bar | None = None


class Bar:
    """Shows how far one piece of work is. total: how many results there will be, or None."""

    def __init__(self, name: str, total: int | None, stream: Any) -> None:
        self.name = name
        self.total = total
        self.stream = stream
        self.begin = monotonic()
        self.next_draw = self.begin + FIRST_AFTER
        self.text = ""
        self.history = [(self.begin, 0)]

    def update(self, progress: dict[str, Any]) -> None:
        now = monotonic()
        self.next_draw = now + INTERVAL
        self.history.append((now, progress["done"]))
        while len(self.history) > 2 and self.history[1][0] < now - RATE_WINDOW:
            del self.history[0]
        with lock:
            global _shown
            if _shown is None:
                _shown = self
            if _shown is self:
                hide()
                self.text = self.line(progress, now)
                self._write(self.text)

    def line(self, progress: dict[str, Any], now: float) -> str:
        """The bar as text, no longer than the terminal is wide."""
        done = progress["done"]
        total = progress["added"] if progress["is_closed"] else self.total
        then, done_then = self.history[0]
        rate = (done - done_then) / (now - then) if now > then else 0.0
        parts = [f"{done}/{total}" if total is not None else f"{done} done"]
        if progress["failed"]:
            parts.append(f"{progress['failed']} failed")
        parts.append(f"{progress['vms']} VM{'' if progress['vms'] == 1 else 's'}")
        parts.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        if total is not None and rate > 0:
            parts.append(f"{_clock((total - done) / rate)} left")
        tail = ", ".join(parts)
        width = self._width() - 1
        head = self.name
        if total:
            share = min(done / total, 1.0)
            head += f" {share:4.0%}"
            room = min(width - len(head) - len(tail) - 4, 40)
            if room >= 8:
                full = int(room * share)
                head += " |" + "#" * full + "-" * (room - full) + "|"
        return f"{head} {tail}"[:width]

    def _width(self) -> int:
        import os
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except (OSError, ValueError, AttributeError):
            return 80

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self.next_draw = float("inf")  # the terminal has gone; the work goes on

    def finish(self) -> None:
        global _shown
        with lock:
            if _shown is self:
                hide()
                _shown = None
            self.text = ""


def make(name: str, work: Any, chunksize: int | None, progress: bool | None) -> Bar | None:
    """A bar for work, or None: progress None means, if stderr is a terminal."""
    stream = sys.stderr
    if progress is None:
        try:
            progress = stream is not None and stream.isatty()
        except (ValueError, AttributeError):
            progress = False
    if not progress or stream is None:
        return None
    try:
        total = len(work)
    except TypeError:
        total = None
    if total is not None and chunksize is not None:
        total = -(-total // chunksize)
    return Bar(name, total, stream)


def hide() -> None:
    """Takes the bar off the terminal. With lock held."""
    if _shown is not None and _shown.text:
        _shown._write("\r" + " " * len(_shown.text) + "\r")


def show_again() -> None:
    """Puts it back. With lock held."""
    if _shown is not None and _shown.text:
        _shown._write(_shown.text)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
