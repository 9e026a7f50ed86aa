# SPDX-License-Identifier: MIT
"""A run of trickle map: the list into a work of the module "exec", its results out.

All of it is on one thread. The list is read as it comes (map_list.py), results are printed as they
are recorded; neither waits for the other for long.

A job's list may have been read to its end or not when its run ended. Where it was, a resume takes
it from the store and nobody has to give it again. Where it was not, a resume takes it as it is
given again: what is recorded of it must be the same, and it goes on behind that. When it is not
given, what is recorded of it is done, and the job stays stopped (75), because nobody knows what was
to follow.
"""
from __future__ import annotations

import json
import os
import sys

from . import _job, _progress, _trickle, cli
from ._farm import connect, farm, say
from ._work import ADD, TAKE, Stream, _Drought
from .errors import NotEnoughVMs
from .map_command import LOCAL_VMS, Plan
from .map_list import Given, ListError, Records, is_given, may_differ
from .map_print import Nobody, Printer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

KEY = "map"  # of the one stage that such a job has
FILL_SECONDS = 0.1  # waiting for the list when nothing else is to be done
BETWEEN_SECONDS = 0.02  # between two looks at the list while commands run
SILENT_SECONDS = 2.0  # a list that is said to be there and does not come


class Halted(Exception):
    """--halt: as many have failed as may, and nothing runs, or, now, what runs is to be ended."""

    def __init__(self, now: bool) -> None:
        super().__init__()
        self.now = now


class MapStream(Stream):
    """The work of a run.

    With --halt soon it is paced: VMs have no more than they run, because what has been handed to
    them would begin. When as many have failed as may nothing is added, and what runs is awaited.
    """

    dumps = None
    loads = None

    def __init__(self, plan: Plan, work: _trickle.Work, source: Records | Given, printer: Printer,
                 key: str | None) -> None:
        bar = _progress.make(plan.name, None, None, True if "--bar" in plan.found else None)
        super().__init__(work, self.elements(), _Drought(None), bar, key)
        self.source = source
        self.printer = printer
        self.halt = plan.halt
        self.is_paced = plan.halt is not None and not plan.halt[0]
        self.is_halting = False  # as many have failed as may; what runs is awaited
        self.count = 0  # of elements that were pulled
        self.done = 0  # results that were taken
        self.known: dict[int, bytes] = {}  # elements without a result

    def elements(self) -> Iterator[bytes]:
        """Ends with the list; nobody pulls while only more of it has to come."""
        ready = self.source.ready
        while ready:
            row = ready.popleft()
            element = row if isinstance(row, bytes) else _trickle.exec_element(row)
            self.known[self.count] = element
            self.count += 1
            yield element

    def feed(self) -> bool:
        source = self.source
        is_awaited = self.key is not None and self.work.turn() == ADD
        if not source.ready and not source.is_ended:
            source.fill(FILL_SECONDS if is_awaited else 0)
        if self.is_halting and not self.is_read():
            if is_awaited:
                raise Halted(False)  # of an earlier run, which went on
            return False
        state = self.work.progress()
        offered = self.count - state["added"]  # one that has not found room yet
        there = len(source.ready) + offered
        if there == 0 and not source.is_ended:
            return False
        if there > 0 and self.is_paced and not is_awaited:
            there = min(there, max(state["vms"], 1) - (state["added"] - self.done))
            if there <= 0:
                return False
        self.leave_open = source.is_open
        self.limit = max(min(self.limit, there), 1)
        return super().feed()

    def is_read(self) -> bool:
        """All of the list has been pulled."""
        return self.source.is_ended and not self.source.ready

    def wait_seconds(self) -> float:
        if self.is_exhausted:
            return super().wait_seconds()
        if self.done < self.count or self.source.ready:
            return BETWEEN_SECONDS
        self.printer.flush()
        self.source.fill(FILL_SECONDS)
        return 0

    def take(self, timeout: float) -> Any:
        taken = super().take(0)
        if taken is None and timeout > 0:
            self.printer.flush()
            if self.is_paced and not self.is_exhausted and (
                    self.key is None or self.work.turn() != TAKE):
                self.feed()  # at once: a VM may be waiting
            taken = super().take(timeout)
        return taken

    def given(self, index: int, status: int, value: bytes, attempts: int) -> None:
        self.done += 1
        self.printer.result(index, status, value, self.known.pop(index, None))
        if status != 0 and self.halt is not None and self.printer.failed >= self.halt[1]:
            if self.halt[0]:
                raise Halted(True)
            self.is_halting = True
        if self.is_halting and self.done >= self.work.progress()["added"]:
            if not self.source.ready:
                self.source.fill(0)  # may be its end
            if not self.is_read():
                raise Halted(False)

    def cancel(self, error: BaseException) -> None:
        is_now = isinstance(error, Halted) and error.now
        self.work.cancel(is_now or isinstance(error, (KeyboardInterrupt, Nobody)))

    def finish(self) -> None:
        super().finish()
        self.printer.flush()


def run(plan: Plan) -> int:
    """The exit status; the job's is the same."""
    status = cli.EXIT_FAILED
    vms = cli.RunVMs(plan.found, LOCAL_VMS)
    source = None
    try:
        if plan.again is None:
            source = begun(plan.list())  # so that a list that is wrong makes no job
            plan.spec()
        want_job(plan)
        if not vms.wait_listening():
            return cli.stopped_early()
        status = go(plan, source)
    except ListError as error:
        status = stop(str(error), cli.EXIT_FAILED if _job.is_open() else cli.EXIT_USAGE)
    except NotEnoughVMs as error:
        status = stop(f"{error}; or have them come with this command: trickle map --local")
        forget_empty()
    except _job.TROUBLE as error:
        status = stop(str(error))
    except KeyboardInterrupt:
        status = cli.EXIT_STOPPED if _job.is_open() else cli.EXIT_INTERRUPTED
    _job.status = status
    return status


def stop(sentence: str, status: int = cli.EXIT_FAILED) -> int:
    say(f"trickle: {sentence}\n")
    return status


def begun(source: Records | Given) -> Records | Given:
    source.begin()
    return source


def want_job(plan: Plan) -> None:
    if "--no-checkpoint" in plan.found:
        _job.is_off = True
        return
    note = _job.start_of_run()
    words = len(sys.orig_argv) - len(sys.argv) + 1  # interpreter, its options, this command
    local = plan.found.get("--local")
    note |= {"argv": sys.orig_argv[:words], "is_interactive": False,
             "local": cli.vm_count(local) if local is not None else None} | plan.note()
    _job.wanted = wanted = _job.Wanted(plan.found.get("--job"), note)
    wanted.must_be_new = "--job" in plan.found
    wanted.is_fixed = True
    if plan.again is not None:
        _job.use_resume(wanted, plan.again)


def forget_empty() -> None:
    """A job for which there was not one VM was not begun."""
    if _job.is_open() and _job.wanted is not None and not _job.wanted.must_exist:
        name = _job.name
        _job.close()
        from ._look import Look
        Look(name).remove()


def go(plan: Plan, source: Records | Given | None) -> int:
    farm(module=None)  # any VM can run commands; this opens the job
    job = _job.open_wanted()
    stage = job.stage_info(KEY) if job is not None else None
    if source is None:
        source = begun(list_again(plan, job, stage))
    spec = plan.spec()
    vms = connect()
    options = {"retries": plan.retries, "speculate": "--output" in plan.found,
               "ordered": "--keep-order" in plan.found}
    if job is not None:
        options |= {"key": KEY, "fingerprint": fingerprint(spec), "keep_elements": True}
        fields = plan.form.fields
        about = {"spec": spec.hex(), "columns": fields.count, "names": fields.names}
        job.put(_trickle.NOTE_JOB, "map", json.dumps(about).encode(), False)
    work = farm().work(plan.name, spec, list=vms._raw, module="exec", **options)
    job_name = _job.name if job is not None else None
    printer = Printer(spec, plan.found, work)
    stream = MapStream(plan, work, source, printer, KEY if job is not None else None)
    try:
        for _ in stream.generate():
            pass
    except Halted as halted:
        printer.flush()
        say(f"[trickle: {printer.failed} failed: what has not begun is left"
            f"{', what ran was ended' if halted.now else ''}]\n")
        printer.sum_up(job_name, "" if stream.is_exhausted or plan.is_list_named else " < LIST")
        return cli.EXIT_FAILED
    except Nobody as error:
        say(f"[trickle: {error}]\n")
        return cli.EXIT_STOPPED if job is not None else cli.EXIT_FAILED
    finally:
        if not stream.is_exhausted and not plan.sources:
            _job.go_on = " < LIST"
    printer.sum_up(job_name)
    if source.error is not None:
        return stop(f"{source.error}; what stands before that is done" + (
            f". Correct it and go on with: trickle resume {job_name} < LIST" if job_name else ""))
    if source.is_open:
        _job.go_on = " < LIST"
        say(f"[trickle: that is as far as the list had been read: {stream.count} of its records; "
            "give it again for the rest]\n")
        return cli.EXIT_STOPPED
    return cli.EXIT_FAILED if printer.failed else 0


def fingerprint(spec: bytes) -> bytes:
    from hashlib import blake2b
    return blake2b(spec, digest_size=16, person=b"trickle map").digest()


def list_again(plan: Plan, job: Any, stage: tuple[int, bool] | None) -> Records | Given:
    """The list of a job that is resumed: as it is given again, else as the store has it."""
    known, is_closed = stage if stage is not None else (0, False)
    is_to_change = _job.wanted is not None and _job.wanted.on_change != "refuse"
    if plan.is_list_named:
        has_all = is_closed and (not is_to_change or bool(plan.sources))
    else:
        has_all = is_closed and not may_differ(is_to_change)
    given = None if has_all else given_again(plan)
    if given is not None:
        return given
    if stage is not None:
        about = json.loads(job.get(_trickle.NOTE_JOB, "map"))
        plan.form.fields.count, plan.form.fields.names = about["columns"], about["names"]
    if not is_closed:
        say(f"[trickle: the list had been read as far as its record {known}, and is not given "
            "again: these are done]\n")
    return Given(job.elements(KEY) if stage is not None else iter(()), not is_closed)


def given_again(plan: Plan) -> Records | Given | None:
    if plan.sources:
        return plan.list()
    if plan.found.get("--arg-file", "-") != "-":
        try:
            return plan.list()
        except cli.UsageError as error:
            say(f"[trickle: {error}]\n")
            return None
    if not is_given(0):
        return None
    records = plan.list()
    waited = 0.0
    while not records.had_bytes and not records.is_ended:
        if not records.fill(FILL_SECONDS):
            waited += FILL_SECONDS
            if waited - FILL_SECONDS < SILENT_SECONDS <= waited:
                say("[trickle: waiting for the list on standard input; without it what was read of "
                    "it can be done: < /dev/null]\n")
    return records if records.had_bytes else None
