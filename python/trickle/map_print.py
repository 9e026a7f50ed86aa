# SPDX-License-Identifier: MIT
"""What people see of commands: what these printed, in one piece each; which failed and why; and the
commands results and why of a job of trickle map."""
from __future__ import annotations

import os
import sys

from . import _progress, _trickle
from ._farm import say
from ._job import TROUBLE
from .cli import EXIT_FAILED, UsageError
from .map_words import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TextIO

    from ._look import Look

FLUSH_BYTES = 1 << 18
FAILED_MAX = 10  # that are named at the end
COMMAND_MAX = 100  # characters of a command there
OUTPUT_LINES_MAX = 24  # that why shows
JOBLOG_HEAD = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"


class Nobody(Exception):
    """Standard output cannot be written any more; the message says why."""


class Printer:
    """Prints results. found: --quiet, --tag, --joblog."""

    def __init__(self, spec: bytes, found: dict[str, Any], work: _trickle.Work | None = None,
                 ) -> None:
        self.spec = spec
        self.work = work
        self.is_quiet = "--quiet" in found
        self.is_tagged = "--tag" in found
        self.failed = 0
        self.count = 0
        self.rows = [("ELEMENT", "WHY", "COMMAND")]
        self.log = joblog(found["--joblog"]) if "--joblog" in found else None
        self._held = bytearray()  # for standard output

    def result(self, index: int, status: int, payload: bytes, element: bytes | None) -> None:
        """A result, of whatever status."""
        self.count += 1
        ended = exec_result(status, payload)
        if ended is not None and not self.is_quiet:
            self._print(index, ended, element)
        if self.log is not None and ended is not None:
            self._log(self.log, index, ended, element)
        if status != 0:
            self.failed += 1
            if self.failed <= FAILED_MAX:
                self.rows.append((str(index), failure(status, payload, ended),
                                  self.command(index, element)[:COMMAND_MAX]))

    def command(self, index: int, element: bytes | None) -> str:
        if element is None:
            return "?"
        try:
            return shown(_trickle.exec_argv(self.spec, element, index))
        except ValueError as error:
            return f"({error})"

    def _print(self, index: int, ended: dict[str, Any], element: bytes | None) -> None:
        out, err = ended["stdout"], ended["stderr"]
        if self.is_tagged and element is not None:
            tag = b" ".join(_trickle.exec_fields(element)) + b"\t"
            out, err = tagged(out, tag), tagged(err, tag)
        self.put(out)
        if err:
            self.flush()
            write_stderr(err)
        for name in ("stdout", "stderr"):
            lost = ended[f"{name}_total"] - len(ended[name])
            if lost > 0 and ended[name]:  # else that is what --max-output 0 asks for
                self.flush()
                say(f"[trickle: of what element {index} wrote to {name} {lost} bytes in the middle "
                    "are left out: see --max-output]\n")

    def _log(self, log: TextIO, index: int, ended: dict[str, Any], element: bytes | None) -> None:
        runs = self.work.attempts(index) if self.work is not None else []
        host = runs[-1]["host"] if runs else ":"
        status = -1 if ended["exit_status"] is None else ended["exit_status"]
        log.write(f"{index + 1}\t{host}\t{ended['started']:.3f}\t{ended['duration']:10.3f}\t0\t"
                  f"{ended['stdout_total']}\t{status}\t{ended['signal'] or 0}\t"
                  f"{self.command(index, element)}\n")

    def put(self, out: bytes) -> None:
        """To standard output, at the next flush."""
        self._held += out
        if len(self._held) >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.log is not None:
            self.log.flush()
        if not self._held:
            return
        held, self._held = self._held, bytearray()
        with _progress.lock:
            _progress.hide()
            try:
                write_all(1, held)
            except BrokenPipeError:
                raise Nobody("stopped: nobody reads the output any more") from None
            except OSError as error:
                raise Nobody(f"stopped: the output cannot be written: {error.strerror}") from None
            finally:
                _progress.show_again()

    def sum_up(self, job: str | None, given: str = "") -> None:
        """At the end: which failed. given: what a resume needs beside the job's name."""
        self.flush()
        if not self.failed:
            return
        lines = [f"[trickle: {self.failed} of {self.count} failed:\n"]
        widths = [max(len(row[i]) for row in self.rows) for i in range(2)]
        for row in self.rows:
            cells = [text.ljust(width) for text, width in zip(row, widths)]
            lines.append("  " + "  ".join([*cells, row[2]]).rstrip() + "\n")
        if self.failed > FAILED_MAX:
            lines.append(f"  and {self.failed - FAILED_MAX} more\n")
        if job is not None:
            lines.append(f"  what happened: trickle why {job} {self.rows[1][0]}\n"
                         f"  run them again: trickle resume --retry-failed {job}{given}\n")
        say("".join(lines).rstrip("\n") + "]\n")


def joblog(path: str) -> TextIO:
    try:
        log = open(path, "w", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    log.write(JOBLOG_HEAD)
    return log


def tagged(text: bytes, tag: bytes) -> bytes:
    return b"".join(tag + line for line in text.splitlines(keepends=True))


def write_all(fd: int, data: bytearray | bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def write_stderr(data: bytes) -> None:
    with _progress.lock:
        _progress.hide()
        try:
            sys.stderr.flush()
            write_all(2, data)
        except OSError:
            pass  # as with notices: no reason to stop
        _progress.show_again()


def exec_result(status: int, payload: bytes) -> dict[str, Any] | None:
    """None: it is a sentence."""
    return None if status == _trickle.STATUS_ERROR else _trickle.exec_result(payload)


def failure(status: int, payload: bytes, ended: dict[str, Any] | None) -> str:
    """In a few words."""
    if ended is None:
        return payload.decode("utf-8", "replace")
    if ended["outcome"] == "exit":
        return f"exit {ended['exit_status']}"
    if ended["outcome"] == "signal":
        from ._attempts import signal_name
        return signal_name(ended["signal"]) or "signal"
    why = ended["why"] or ended["outcome"]
    return why.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# --- of a job, from outside -----------------------------------------------------------------------


class Recorded:
    """The one stage of a job of trickle map."""

    def __init__(self, job: Look, stage: dict[str, Any]) -> None:
        import json
        about = json.loads(job.view.note(_trickle.NOTE_JOB, "map") or b"{}")
        self.job = job
        self.stage = stage
        self.spec = bytes.fromhex(about.get("spec", ""))
        self.names = about.get("names", [])
        self.is_json = "--jsonl" in job.run.get("options", {})

    def element(self, index: int) -> bytes | None:
        return self.job.view.element(self.stage["number"], index)

    def results(self) -> Iterator[tuple[int, int, int, bytes]]:
        """In the order of the list."""
        from .jobs import results_of
        return results_of(self.job, self.stage)

    def json(self, index: int, status: int, attempt: int, payload: bytes) -> dict[str, Any]:
        """Of a result, as results --json prints it."""
        line: dict[str, Any] = {"index": index, "status": ("ok", "failed", "error")[status],
                                "attempt": attempt}
        element = self.element(index)
        if element is not None:
            self.put_element(line, _trickle.exec_fields(element))
        ended = exec_result(status, payload)
        if ended is None:
            return line | {"why": payload.decode("utf-8", "replace")}
        for name, value in ended.items():
            if isinstance(value, bytes):
                put_text(line, name, value)
            elif not name.endswith("_head"):
                line[name] = value
        return line

    def put_element(self, line: dict[str, Any], fields: list[bytes]) -> None:
        """As it was in the list: its text, or by the names of its fields; all in base64 where one
        is not UTF-8."""
        name = "element"
        try:
            texts = [field.decode() for field in fields]
        except UnicodeDecodeError:
            from base64 import b64encode
            name = "element_base64"
            texts = [b64encode(field).decode() for field in fields]
        if self.is_json or (len(texts) == 1 and not self.names):
            line[name] = texts[0]
        else:
            line[name] = dict(zip(self.names, texts)) if self.names else texts

    def why(self, index: int, status: int, payload: bytes) -> list[str]:
        """Lines about how it ended."""
        ended = exec_result(status, payload)
        if ended is None:
            return [f"  it failed: {payload.decode('utf-8', 'replace')}"]
        how = ended["why"] or "it succeeded"
        lines = [f"  {how}, after {ended['duration']:.3g} s ({ended['cpu']:.3g} s of CPU, "
                 f"{ended['rss_max_bytes'] / (1 << 20):.0f} MB)"]
        for name in ("stdout", "stderr"):
            lines += output_lines(name, ended[name], ended[f"{name}_total"])
        return lines

    def command(self, index: int) -> str | None:
        element = self.element(index)
        return None if element is None else Printer(self.spec, {}).command(index, element)


def print_stdout(job: Look, stage: dict[str, Any]) -> int:
    """trickle results."""
    recorded = Recorded(job, stage)
    printer = Printer(recorded.spec, {})
    try:
        for _, status, _, payload in recorded.results():
            ended = exec_result(status, payload)
            if ended is not None:
                printer.put(ended["stdout"])
        printer.flush()
    except Nobody:
        raise BrokenPipeError from None
    return 0


def print_finished(job: Look) -> int | None:
    """trickle resume of a job of which all is recorded: prints it again, and gives the exit status.
    None: something is left to be done."""
    if job.info["is_damaged"] or not job.stages or not job.is_closed or job.recorded < job.added:
        return None
    recorded = Recorded(job, job.stages[0])
    found = dict(job.run["options"])
    if "--joblog" in found:
        found["--joblog"] = os.path.join(job.run["cwd"], found["--joblog"])
    printer = Printer(recorded.spec, found)
    try:
        for index, status, _, payload in recorded.results():
            printer.result(index, status, payload, recorded.element(index))
        printer.sum_up(job.name)
    except Nobody:
        return EXIT_FAILED
    say(f"[trickle: {job.name} is done: {job.recorded} results]\n")
    return EXIT_FAILED if printer.failed else 0


def output_lines(name: str, text: bytes, total: int) -> list[str]:
    """The end of what was printed."""
    kept = text.decode("utf-8", "replace").splitlines()
    if not kept:
        return []
    shown_lines = kept[-OUTPUT_LINES_MAX:]
    head = f"  {name} ({total} bytes" + (", the end of it" if len(shown_lines) < len(kept) else "")
    return [f"{head}):", *(f"    | {line}" for line in shown_lines)]


def run_text(run: dict[str, Any]) -> str:
    """What a run that failed has to say, for the story of an element. Of a long payload only the
    end is kept, which is the end of what it wrote to stderr."""
    data: bytes = run["output"]
    if run["outcome"] != "exception":
        return data.decode("utf-8", "replace")
    try:
        ended = _trickle.exec_result(data)
    except TROUBLE:
        return data.decode("utf-8", "replace")
    return f"{ended['why']}\n" + ended["stderr"].decode("utf-8", "replace")


def put_text(line: dict[str, Any], name: str, value: bytes) -> None:
    """NAME where it is UTF-8, else NAME_base64."""
    try:
        line[name] = value.decode()
    except UnicodeDecodeError:
        from base64 import b64encode
        line[f"{name}_base64"] = b64encode(value).decode()
