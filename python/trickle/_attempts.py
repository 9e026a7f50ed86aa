# SPDX-License-Identifier: MIT
"""What happened to an element: its runs, and how they are told.

Loaded only when something failed or somebody asks.
"""
from __future__ import annotations

from datetime import datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OUTPUT_LINES_MAX = 24  # of one run, in a story
PAYLOAD_MAX = 4096  # of a longer description of an exception only the end is kept: unreadable

_WORDS = {"done": "gave a result", "exception": "failed", "died": "ended its VM",
          "timeout": "was over its time", "memory": "went over the VM's memory limit",
          "oom": "was ended by the kernel, memory had run out", "lost": "its VM was lost"}


class Attempt:
    """One run of an element that has ended.

    attempt      1 for the first
    outcome      "done", "exception" (the function raised one), "died" (it ended its VM's process),
                 "timeout", "memory" (over --memory-limit), "oom" (the kernel ended the VM because
                 memory ran out), "lost" (the VM was killed from outside, silent, out of reach)
    host, index, pid     of the VM
    started      a datetime, by the clock of this machine
    duration     in seconds
    signal       what killed the VM ("SIGSEGV"), or None
    exit_status  the VM's, when the element made it exit, or None
    rss          the most memory the VM has had, in bytes, or None where it is not known
    output       what the VM printed last; after a timeout with the traceback of the stuck code; of
                 an exception its traceback on the VM
    """

    __slots__ = ("attempt", "outcome", "host", "index", "pid", "started", "duration", "signal",
                 "exit_status", "rss", "output")

    def __init__(self, raw: dict[str, Any]) -> None:
        self.attempt: int = raw["attempt"]
        self.outcome: str = raw["outcome"]
        self.host: str = raw["host"]
        self.index: int = raw["index"]
        self.pid: int = raw["pid"]
        self.started = datetime.fromtimestamp(raw["started_ms"] / 1000)
        self.duration: float = raw["duration_ns"] / 1e9
        self.signal = signal_name(raw["signal"])
        has_exited = self.outcome == "died" and self.signal is None
        self.exit_status: int | None = raw["exit_status"] if has_exited else None
        self.rss: int | None = raw["rss_max_bytes"] or None
        text = raw.get("text")  # of commands
        self.output = _output(raw["outcome"], raw["output"]) if text is None else text

    def __str__(self) -> str:
        """One line."""
        what = _WORDS.get(self.outcome, self.outcome)
        if self.signal is not None:
            what += f", killed by {self.signal},"
        elif self.exit_status is not None:
            what += f", exit status {self.exit_status},"
        memory = f", having used {self.rss / (1 << 20):.0f} MB" if self.rss else ""
        return (f"attempt {self.attempt} on VM {self.index} of {self.host} (pid {self.pid}), "
                f"started {self.started:%H:%M:%S}: {what} after {self.duration:.3g} s{memory}")

    def __repr__(self) -> str:
        return f"<{self}>"


def signal_name(number: int) -> str | None:
    if number == 0:
        return None
    from signal import Signals
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _output(outcome: str, data: bytes) -> str:
    if outcome != "exception":
        return data.decode("utf-8", "replace")
    if len(data) >= PAYLOAD_MAX:
        return ""
    from ._codec import loads
    try:
        return loads(data)[5]
    except Exception:
        return data.decode("utf-8", "replace")  # Trickle's own sentence


def story(attempts: list[Attempt]) -> list[str]:
    """Lines that tell of all attempts, each with the end of its output."""
    lines: list[str] = []
    before = ""
    for attempt in attempts:
        lines.append(f"  {attempt}")
        output = attempt.output.rstrip()
        if output and output == before:
            lines.append("    | (the same output as before)")
        elif output:
            kept = output.splitlines()
            if len(kept) > OUTPUT_LINES_MAX:
                kept = ["...", *kept[-OUTPUT_LINES_MAX:]]
            lines += [f"    | {line}" for line in kept]
        before = output
    return lines


def attempts_of(work: Any, index: int) -> list[Attempt]:
    """Of an element of a _trickle.Work."""
    return [Attempt(raw) for raw in work.attempts(index)]
