# SPDX-License-Identifier: MIT
"""forkwork and forkgen: elements of work to whichever VM is free.

The hot loops are in C (_trickle.Work). Here is what happens around them, all of it on the calling
thread: pulling the iterable, a bounded stretch at a time, so that a slow one does not keep the
VMs waiting for what was pulled already; taking results; the progress bar; ending early.
"""
from __future__ import annotations

from _pickle import dumps
from _thread import _local
from sys import modules
from time import monotonic

from . import _bundle, _progress
from ._codec import PROTOCOL, dumps_value, failure, first_line, loads_value
from ._farm import farm, say
from ._fork import injected_name
from ._inject import check_versions
from ._proxy import VM, Proxy, RemoteFunction, RemoteMethod, vm_info
from ._vmlist import VMList, vms_of
from .errors import ResumeMismatch, TrickleError, WorkFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from typing import Any

    from . import _trickle
    from ._attempts import Attempt

FEED_MAX = 65536  # elements pulled in one go, at most
FEED_SECONDS = 0.02  # what one go should take
FEED_AGAIN = 256  # forkgen: results between two goes
WAIT_SECONDS = 0.1  # between two looks at the progress bar
NO_VM_SECONDS = 2.0  # a VM that starts again is back sooner, also on a busy machine
MS_MAX = 0xFFFFFFFF
ADD, TAKE = 1, 2  # what Work.turn says
RETRIES_MAX = 65534


def forkwork(vms: VM | Sequence[VM], func: Any, work: Iterable[Any], chunksize: int | None = None,
             *, retries: int = 0, retry_after: float = 0.1, timeout: float | None = None,
             on_error: str = "raise", speculate: bool = False, name: str | None = None,
             progress: bool | None = None) -> list[Any]:
    """Calls func(element) for every element of work on the VMs: the results, in work's order.

    Each VM gets the next elements when it is free. With a chunksize, func gets lists of up to that
    many elements instead, there is one result for each list, and what is said of elements here
    holds for these lists. func is injected if it was not; a function given by name must have been.

    An element whose VM is lost runs again on another one; when no VM is left, the work waits for
    one. An element that ends its VM three times (or is over its time so often) has failed.

    retries      how often an element is run again when func raises an exception
    retry_after  seconds to wait before that, doubling each time
    timeout      seconds that one run of an element may take; then its VM is ended, and where the
                 code was stuck is kept
    on_error     "raise": when an element has failed nothing new is started, what runs is let
                 finish, and the exception is raised here, with a note that names the element;
                 "return": a WorkFailed object takes the place of the result
    speculate    at the end, when VMs have nothing to do, the slowest elements run a second time
                 there, and the first result counts: for functions that may run twice
    name         for people: what the progress bar shows
    progress     True or False; by default there is a bar when stderr is a terminal

    trickle.attempts(index) tells what happened to an element.
    """
    options = _options(retries, retry_after, timeout, speculate) | {"lazy": True}
    return _Run(vms, func, work, chunksize, on_error, name, progress, options).collect()


def forkgen(vms: VM | Sequence[VM], func: Any, work: Iterable[Any], chunksize: int | None = None,
            *, ordered: bool = False, retries: int = 0, retry_after: float = 0.1,
            timeout: float | None = None, on_error: str = "raise", speculate: bool = False,
            name: str | None = None, progress: bool | None = None) -> Results:
    """Like forkwork, as a generator: yields results as they come, or in order with ordered=True.

    work may be any iterable, also an endless one: it is pulled as needed, by the thread that asks
    for results. Closing the generator cancels what is left. Its method attempts(index) tells what
    happened to an element, progress() how far the work is.
    """
    options = _options(retries, retry_after, timeout, speculate)
    run = _Run(vms, func, work, chunksize, on_error, name, progress, options | {"ordered": ordered})
    return Results(run)


def attempts(index: int) -> list[Attempt]:
    """What happened to an element of the last forkwork or forkgen of this thread: its runs that
    have ended, the first first.

    Each has attempt, outcome ("done", "exception", "died", "timeout", "memory", "oom", "lost"),
    host, index and pid of the VM, started, duration, signal, exit_status, rss and output. Of works
    with very many elements the newest runs are kept.
    """
    if _last.work is None:
        raise TrickleError("this thread has not begun any forkwork or forkgen yet")
    from ._attempts import attempts_of
    return attempts_of(_last.work, index)


class _Last(_local):
    work: Any = None  # the _trickle.Work of the thread's last forkwork or forkgen


_last = _Last()


class Results:
    """What forkgen returns: an iterator over results."""

    def __init__(self, run: _Run) -> None:
        self._work = run.work
        self._generator = run.generate()

    def __iter__(self) -> Iterator[Any]:
        return self._generator  # the same results; a loop runs faster over it

    def __next__(self) -> Any:
        return next(self._generator)

    def close(self) -> None:
        """Cancels what is left."""
        self._generator.close()

    def attempts(self, index: int) -> list[Attempt]:
        """What happened to an element: see trickle.attempts."""
        from ._attempts import attempts_of
        return attempts_of(self._work, index)

    def progress(self) -> dict[str, Any]:
        """How far it is: added (elements so far), done (results, failed ones included), failed,
        reissued (runs that were started again), vms (that serve it now), is_closed (added is
        final)."""
        return self._work.progress()


def _options(retries: int, retry_after: float, timeout: float | None, speculate: bool,
             ) -> dict[str, Any]:
    """The options of trk_work_options, checked."""
    if not isinstance(retries, int) or isinstance(retries, bool):
        raise TypeError(f"retries is a number, not {type(retries).__name__}")
    if not 0 <= retries <= RETRIES_MAX:
        raise ValueError(f"retries is a number from 0 to {RETRIES_MAX}, not {retries}")
    options = {"retries": retries, "speculate": bool(speculate),
               "retry_after_ms": _milliseconds("retry_after", retry_after, 0)}
    if timeout is not None:
        options["timeout_ms"] = _milliseconds("timeout", timeout, 1e-9)
    return options


def _milliseconds(name: str, seconds: float, least: float) -> int:
    """Rounded up, and at least 1: 0 stands for the default."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"{name} is a number of seconds, not {type(seconds).__name__}")
    if not least <= seconds <= MS_MAX / 1000:
        above = "from 0 on" if least == 0 else "above 0"
        raise ValueError(f"{name} is a number of seconds {above}, and at most {MS_MAX // 1000}; "
                         f"not {seconds}")
    return min(max(-int(-seconds * 1000 // 1), 1), MS_MAX)


class Stream:
    """A work as its calling thread sees it: elements in, results out, and what happens around."""

    def __init__(self, work: _trickle.Work, iterator: Iterator[Any], drought: _Drought,
                 bar: _progress.Bar | None, key: str | None) -> None:
        self.work = work
        self.iterator = iterator
        self.drought = drought
        self.bar = bar
        self.key = key  # of the stage, in a job
        self.is_exhausted = False
        self.limit = 1  # elements to pull in the next go

    chunksize: int | None = None
    leave_open = False  # the end of the iterator is not that of the list
    dumps: Any = staticmethod(dumps_value)  # None: elements are bytes, which go as they are
    loads: Any = staticmethod(loads_value)  # None: the same of results

    # --- in ---

    def feed(self) -> bool:
        """Pulls elements, for about FEED_SECONDS. True: there is room for more."""
        before = self.work.progress()["added"]
        begin = monotonic()
        limit = self.limit
        self.is_exhausted = self.work.feed(self.iterator, self.chunksize, self.dumps, limit,
                                           self.leave_open)
        took = monotonic() - begin
        if took > FEED_SECONDS:
            self.limit = max(limit // 2, 1)
        elif took < FEED_SECONDS / 4:
            self.limit = min(limit * 2, FEED_MAX)
        if self.is_exhausted:
            return False
        self.work.flush()
        return self.work.progress()["added"] - before >= limit

    def wait_seconds(self) -> float:
        """How long to wait for a result when there is nothing to add."""
        return WAIT_SECONDS

    # --- out ---

    def generate(self) -> Generator[Any, None, None]:
        """Feeds, and yields what given() makes of each result."""
        since, fed_at, has_room = FEED_AGAIN, 0.0, True
        try:
            while True:
                turn = self.work.turn() if self.key is not None else 0
                if not self.is_exhausted and turn != TAKE and (
                        turn == ADD or since >= FEED_AGAIN or monotonic() - fed_at > FEED_SECONDS):
                    has_room = self.feed() or turn == ADD
                    since, fed_at = 0, monotonic()
                is_feeding = has_room and not self.is_exhausted and turn != TAKE
                taken = self.take(0 if is_feeding else self.wait_seconds())
                if taken is _END:
                    return
                if taken is not None:
                    since += 1
                    yield self.given(*taken)
                else:
                    since = FEED_AGAIN
                self.show()
        except BaseException as error:
            self.cancel(error)
            raise
        finally:
            self.finish()

    def take(self, timeout: float) -> Any:
        try:
            return self.work.next(timeout, self.loads)
        except StopIteration:
            return _END

    def given(self, index: int, status: int, value: Any, attempts: int) -> Any:
        return index, status, value, attempts

    # --- around ---

    def show(self) -> None:
        """Now and then: the bar, and what keeps the work waiting."""
        now = monotonic()
        bar = self.bar
        is_due = bar is not None and now >= bar.next_draw
        if is_due or now >= self.drought.next_look:
            state = self.work.progress()
            self.drought.look(state, now)
            if is_due:
                bar.update(state)

    def cancel(self, error: BaseException) -> None:
        """Ends early. What runs is interrupted when the user is waiting for the end."""
        self.work.cancel(isinstance(error, KeyboardInterrupt))

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.finish()


class _Run(Stream):
    """One forkwork or forkgen."""

    def __init__(self, vms: Any, func: Any, work: Any, chunksize: int | None, on_error: str,
                 name: str | None, progress: bool | None, options: dict[str, Any]) -> None:
        if chunksize is not None:
            if not isinstance(chunksize, int) or isinstance(chunksize, bool):
                raise TypeError(f"chunksize is a number, not {type(chunksize).__name__}")
            if chunksize < 1:
                raise ValueError(f"chunksize is a number from 1 on, not {chunksize}")
        if on_error not in ("raise", "return"):
            raise ValueError(f'on_error is "raise" or "return", not {on_error!r}')
        iterator = iter(work)
        self.chunksize = chunksize
        self.on_error = on_error
        if isinstance(vms, VMList):
            vms._refresh()
        handles = vms_of(vms)
        names = handles[0]._t_names if handles and not isinstance(vms, VMList) else (
            vms._injected if isinstance(vms, VMList) else {})
        function, self.name = _stage(func, handles, names, name)
        self.durable = modules.get("trickle._durable")  # loaded where a job is open
        if self.durable is not None and self.durable.job is not None:
            options |= self.identity(func, name, names)
        elastic = vms._raw if isinstance(vms, VMList) else None
        fixed = handles if elastic is None else None
        try:
            started = _last.work = farm().work(self.name, function, list=elastic,
                                               vms=fixed and [v._t_raw for v in fixed], **options)
        except ResumeMismatch as error:
            self.durable.release_key(self.key)
            what = self.durable.changed_code(self.key, self.parts)
            raise (ResumeMismatch(f"{error} ({what})") if what else error) from None
        if self.key is not None:
            self.durable.note_code(self.key, self.parts)
        super().__init__(started, iterator, _Drought(fixed),
                         _progress.make(self.name, work, chunksize, progress), self.key)

    key: str | None = None

    def identity(self, func: Any, name: str | None, names: dict[str, Any]) -> dict[str, Any]:
        """What tells this work apart when the job is resumed, and whether its code has changed."""
        from ._fingerprint import of_parts, parts
        if isinstance(func, RemoteFunction):
            func = func._t_name
        own = func if isinstance(func, str) else self.durable.function_name(func)
        self.key = self.durable.stage_key(own, name)
        self.parts = parts(func, names)
        return {"key": self.key, "fingerprint": of_parts(self.parts)}

    def collect(self) -> list[Any]:
        results: list[Any] = []
        try:
            while True:
                has_room = not self.is_exhausted and self.feed()
                taken = self.work.collect(results, loads_value, 0 if has_room else WAIT_SECONDS)
                if taken is True:
                    return results
                if taken is not None:
                    index = taken[0]
                    results += [None] * (index + 1 - len(results))
                    results[index] = self.failed(*taken)
                self.show()
        except BaseException as error:
            self.cancel(error)
            raise
        finally:
            self.finish()

    def given(self, index: int, status: int, value: Any, attempts: int) -> Any:
        return value if status == 0 else self.failed(index, status, value, attempts)

    def failed(self, index: int, status: int, payload: Any, attempts: int) -> WorkFailed:
        """An element that failed: raises, or gives what takes the place of its result."""
        from ._attempts import attempts_of, story
        error = failure(status, payload)
        what = f"{'chunk' if self.chunksize else 'element'} {index} of {self.name}"
        known = attempts_of(self.work, index)
        if status != 1:
            reason = str(error).removeprefix(f"element {index} ")
            failed = WorkFailed(f"{what} failed: {reason}", index, None, known)
        elif self.on_error == "raise":
            count = f", attempt {attempts} of {attempts}" if attempts > 1 else ""
            error.add_note(f"(raised by {what}{count})")
            for line in story(known[:-1]):
                error.add_note(line)
            raise error
        else:
            failed = WorkFailed(f"{what} failed: {first_line(error)}", index, error, known)
        if self.on_error == "raise":
            raise failed
        return failed

    def finish(self) -> None:
        if self.key is not None:
            self.durable.release_key(self.key)
        super().finish()


class _Drought:
    """Says so, once, when a work has no VM left and waits for one. fixed: the handles of a list
    that does not grow; None: new VMs join."""

    def __init__(self, fixed: list[VM] | None) -> None:
        self.fixed = fixed
        self.next_look = monotonic() + NO_VM_SECONDS
        self.since: float | None = None
        self.is_said = False

    def look(self, progress: dict[str, Any], now: float) -> None:
        self.next_look = now + WAIT_SECONDS
        if progress["vms"] > 0 or progress["done"] == progress["added"]:
            self.since, self.is_said = None, False
        elif self.since is None:
            self.since = now
        elif not self.is_said and now - self.since >= NO_VM_SECONDS:
            self.is_said = True
            say(f"[trickle: no VM left, waiting{self.advice()}]\n")

    def advice(self) -> str:
        if self.fixed is None:
            return "; start some with: trickle vm"
        infos = [vm_info(vm) for vm in self.fixed]
        hosts = " and ".join(sorted({info["host"] for info in infos}))
        try:
            answering = {info["supervisor"] for info in farm().vms()}
        except TrickleError:
            answering = set()
        if any(info["supervisor"] in answering for info in infos):
            return f" for those of this list, on {hosts}, to start again"
        return (f" for those of this list, but the trickle-vm that ran them on {hosts} does not "
                "answer any more; other VMs take part only where the work was given what connect() "
                "returned")


_END = object()


def _stage(func: Any, handles: list[VM], names: dict[str, Any], called: str | None,
           ) -> tuple[bytes, str]:
    """What a VM needs to open the stage, see Server.stage_open; and the name of the work: what it
    is called, or its function's."""
    if isinstance(func, RemoteFunction):
        func = func._t_name
    if isinstance(func, str):
        return _message([], ("__main__", func), called or func)
    if isinstance(func, (Proxy, RemoteMethod)):
        raise TrickleError("work runs on any VM, so its function cannot be a remote object, which "
                           "lives on one; use fork for that")
    if not callable(func):
        raise TypeError(f"forkwork takes a function or its name, not a {type(func).__name__}")
    own = getattr(func, "__name__", None) or type(func).__name__
    name = injected_name(names, func)
    if name is not None and all(vm._t_names.get(name) is func for vm in handles):
        return _message([], ("__main__", name), called or own)
    bundle = _bundle.Bundle()
    place = bundle.add_function(func)
    if bundle.cloudpickled:
        check_versions(own, handles)
    return _message([bundle.entries], place, called or own)


def _message(units: list, place: tuple[str, str], called: str) -> tuple[bytes, str]:
    job = modules.get("trickle._job")  # loaded where a program may be one
    about = {"job": job.name if job is not None and job.is_open() else None, "stage": called}
    return dumps((units, *place, about), PROTOCOL), called
