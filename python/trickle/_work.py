# SPDX-License-Identifier: MIT
"""forkwork and forkgen: elements of work to whichever VM is free.

The hot loops are in C (_trickle.Work). Here is what happens around them, all of it on the calling
thread: pulling the iterable, a bounded stretch at a time, so that a slow one does not keep the
VMs waiting for what was pulled already; taking results; the progress bar; ending early.
"""
from __future__ import annotations

from _pickle import dumps
from time import monotonic

from . import _bundle, _progress
from ._codec import PROTOCOL, dumps_value, failure, first_line, loads_value
from ._farm import farm
from ._fork import injected_name
from ._inject import check_versions
from ._proxy import VM, Proxy, RemoteFunction, RemoteMethod
from ._vmlist import VMList, vms_of
from .errors import TrickleError, WorkFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from typing import Any

FEED_MAX = 65536  # elements pulled in one go, at most
FEED_SECONDS = 0.02  # what one go should take
FEED_AGAIN = 256  # forkgen: results between two goes
WAIT_SECONDS = 0.1  # between two looks at the progress bar


def forkwork(vms: VM | Sequence[VM], func: Any, work: Iterable[Any], chunksize: int | None = None,
             *, on_error: str = "raise", name: str | None = None,
             progress: bool | None = None) -> list[Any]:
    """Calls func(element) for every element of work on the VMs: the results, in work's order.

    Each VM gets the next elements when it is free. With a chunksize, func gets lists of up to that
    many elements instead, and there is one result for each list. func is injected if it was not;
    a function given by name must have been.

    on_error   "raise": the first failing element ends the work and its exception is raised here;
               "return": a WorkFailed object takes the place of the result
    name       for people: what the progress bar shows
    progress   True or False; by default there is a bar when stderr is a terminal
    """
    run = _Run(vms, func, work, chunksize, on_error, name, progress, False)
    return run.collect()


def forkgen(vms: VM | Sequence[VM], func: Any, work: Iterable[Any], chunksize: int | None = None,
            *, ordered: bool = False, on_error: str = "raise", name: str | None = None,
            progress: bool | None = None) -> Generator[Any, None, None]:
    """Like forkwork, as a generator: yields results as they come, or in order with ordered=True.

    work may be any iterable, also an endless one: it is pulled as needed, by the thread that asks
    for results. Closing the generator cancels what is left.
    """
    return _Run(vms, func, work, chunksize, on_error, name, progress, ordered).generate()


class _Run:
    """One forkwork or forkgen."""

    def __init__(self, vms: Any, func: Any, work: Any, chunksize: int | None, on_error: str,
                 name: str | None, progress: bool | None, ordered: bool) -> None:
        if chunksize is not None:
            if not isinstance(chunksize, int) or isinstance(chunksize, bool):
                raise TypeError(f"chunksize is a number, not {type(chunksize).__name__}")
            if chunksize < 1:
                raise ValueError(f"chunksize is a number from 1 on, not {chunksize}")
        if on_error not in ("raise", "return"):
            raise ValueError(f'on_error is "raise" or "return", not {on_error!r}')
        self.iterator = iter(work)
        self.chunksize = chunksize
        self.on_error = on_error
        if isinstance(vms, VMList):
            vms._refresh()
        handles = vms_of(vms)
        names = handles[0]._t_names if handles and not isinstance(vms, VMList) else (
            vms._injected if isinstance(vms, VMList) else {})
        function, own_name = _stage(func, handles, names)
        self.name = name or own_name
        elastic = vms._raw if isinstance(vms, VMList) else None
        self.work = farm().work(self.name, function, list=elastic, ordered=ordered,
                                vms=None if elastic is not None else [v._t_raw for v in handles])
        self.bar = _progress.make(self.name, work, chunksize, progress)
        self.is_exhausted = False
        self.limit = 1  # elements to pull in the next go

    # --- in ---

    def feed(self) -> bool:
        """Pulls elements, for about FEED_SECONDS. True: there is room for more."""
        before = self.work.progress()["added"]
        begin = monotonic()
        limit = self.limit
        self.is_exhausted = self.work.feed(self.iterator, self.chunksize, dumps_value, limit)
        took = monotonic() - begin
        if took > FEED_SECONDS:
            self.limit = max(limit // 2, 1)
        elif took < FEED_SECONDS / 4:
            self.limit = min(limit * 2, FEED_MAX)
        if self.is_exhausted:
            return False
        self.work.flush()
        return self.work.progress()["added"] - before >= limit

    # --- out ---

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

    def generate(self) -> Generator[Any, None, None]:
        since, fed_at, has_room = FEED_AGAIN, 0.0, True
        try:
            while True:
                if not self.is_exhausted and (since >= FEED_AGAIN
                                              or monotonic() - fed_at > FEED_SECONDS):
                    has_room = self.feed()
                    since, fed_at = 0, monotonic()
                taken = self.take(0 if has_room and not self.is_exhausted else WAIT_SECONDS)
                if taken is _END:
                    return
                if taken is not None:
                    since += 1
                    index, status, value, attempts = taken
                    yield value if status == 0 else self.failed(index, status, value, attempts)
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
            return self.work.next(timeout, loads_value)
        except StopIteration:
            return _END

    def failed(self, index: int, status: int, payload: Any, attempts: int) -> WorkFailed:
        """An element that failed: raises, or gives what takes the place of its result."""
        error = failure(status, payload)
        what = f"{'chunk' if self.chunksize else 'element'} {index} of {self.name}"
        if status == 1:
            if self.on_error == "raise":
                error.add_note(f"(raised by {what})")
                raise error
            return WorkFailed(f"{what} failed: {first_line(error)}", index, attempts, error)
        failed = WorkFailed(f"{what} failed: {error}", index, attempts)
        if self.on_error == "raise":
            raise failed
        return failed

    # --- around ---

    def show(self) -> None:
        bar = self.bar
        if bar is not None and monotonic() >= bar.next_draw:
            bar.update(self.work.progress())

    def cancel(self, error: BaseException) -> None:
        """Ends early. What runs is interrupted when the user is waiting for the end."""
        self.work.cancel(isinstance(error, KeyboardInterrupt))

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.finish()


_END = object()


def _stage(func: Any, handles: list[VM], names: dict[str, Any]) -> tuple[bytes, str]:
    """What a VM needs to open the stage, and the function's name: see Server.stage_open."""
    if isinstance(func, RemoteFunction):
        func = func._t_name
    if isinstance(func, str):
        return dumps(([], "__main__", func), PROTOCOL), func
    if isinstance(func, (Proxy, RemoteMethod)):
        raise TrickleError("work runs on any VM, so its function cannot be a remote object, which "
                           "lives on one; use fork for that")
    if not callable(func):
        raise TypeError(f"forkwork takes a function or its name, not a {type(func).__name__}")
    own = getattr(func, "__name__", None) or type(func).__name__
    name = injected_name(names, func)
    if name is not None and all(vm._t_names.get(name) is func for vm in handles):
        return dumps(([], "__main__", name), PROTOCOL), own
    bundle = _bundle.Bundle()
    place = bundle.add_function(func)
    if bundle.cloudpickled:
        check_versions(own, handles)
    return dumps(([bundle.entries], *place), PROTOCOL), own
