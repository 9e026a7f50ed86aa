# SPDX-License-Identifier: MIT
"""What tells the stages of a durable job apart, and values that are made once per job.

A resumed program runs again from its beginning, and each forkwork and forkgen has to find its own
records. Its key is the name= it was given, or else its function and how often that was called
before; both count the calls of one run, in the order of the program:

    name:NAME  name:NAME#2  name:NAME#3      the first, second, third use of name="NAME"
    FUNCTION#1  FUNCTION#2                   without a name

With threads there is no such order: what two threads do may come the other way round the next time.
So stages without a name all have to come from one thread, and so have those of one name; the error
says what to do while the program is still at its first run.
"""
from __future__ import annotations

import os
import sys
from _thread import RLock, _local, allocate_lock

from . import _codec
from ._codec import PROTOCOL, dumps, first_line, loads, type_name
from .errors import TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

KEY_MAX = 400  # bytes; longer names end in a digest
NOTE_ONCE, NOTE_TELEMETRY = 7, 9  # TRK_NOTE_*
NOTE_MAX = 480  # bytes of a note's name

# The job of this process: put(kind, name, bytes, wait) returns when it is durable, get(kind, name)
# gives bytes or None. Without a job, None.
job: Any = None
_had_job = False


def use_job(opened: Any) -> None:
    """A job has been opened, or None: closed. The next stage of each name is its first."""
    global job, _had_job
    with _lock:
        job = opened
        _had_job = True
        _uses.clear()
        _threads.clear()
        _open.clear()


# --- stages ---------------------------------------------------------------------------------


class _Thread(_local):
    """What tells threads apart: their numbers are used again."""

    def __init__(self) -> None:
        self.token = object()


_thread = _Thread()
_lock = allocate_lock()
_uses: dict[str, int] = {}  # "name:NAME" or a function -> how many stages it has had
_threads: dict[str, object] = {}  # "name:NAME", or "" for all without a name -> their thread
_open: dict[str, str] = {}  # key of a stage that is open -> as in _threads


def function_name(func: Any) -> str:
    """What a function is called in keys: with its module."""
    inner = func
    while type(inner).__name__ == "partial" and hasattr(inner, "func"):
        inner = inner.func
    name = getattr(inner, "__qualname__", None)
    if not isinstance(name, str):
        return type_name(inner)
    module = getattr(inner, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) else name


def stage_key(function_name: str, name: str | None) -> str:
    """The key of a stage that this thread opens, for release_key(). function_name: see above."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name is a string, not {type(name).__name__}")
    what = function_name if name is None else "name:" + name.replace("#", "##")
    what = what.encode("utf-8", "backslashreplace").decode()
    if len(what.encode()) > KEY_MAX:
        what = _shortened(what)
    group = "" if name is None else what
    with _lock:
        if _threads.setdefault(group, _thread.token) is not _thread.token:
            raise TrickleError(_crossed(function_name, name, group))
        count = _uses[what] = _uses.get(what, 0) + 1
        key = what if count == 1 and name is not None else f"{what}#{count}"
        _open[key] = group
    return key


def release_key(key: str) -> None:
    """The stage has ended. Its key is not given out again."""
    with _lock:
        _open.pop(key, None)


def note_code(key: str, parts: dict[str, str]) -> None:
    """Keeps what the code of this stage consists of, to say one day what of it has changed."""
    from ._job import as_json
    text = as_json(parts)
    if job.get(NOTE_TELEMETRY, f"code:{key}") != text:
        job.put(NOTE_TELEMETRY, f"code:{key}", text, False)


def changed_code(key: str, parts: dict[str, str]) -> str:
    """What of the code of this stage differs from what was kept, or "": nothing that is known."""
    kept = job.get(NOTE_TELEMETRY, f"code:{key}")
    if kept is None:
        return ""
    import json

    from ._fingerprint import describe_change
    return describe_change(json.loads(kept), parts)


def _shortened(text: str) -> str:
    from _blake2 import blake2b
    data = text.encode()
    start = data[:KEY_MAX // 2].decode("utf-8", "ignore")
    return f"{start}...{blake2b(data, digest_size=16).hexdigest()}"


def _crossed(function_name: str, name: str | None, group: str) -> str:
    """Why a stage of this thread has no key."""
    others = [key for key in _open if _open[key] == group]
    when = f"while {others[0]} is open" if others else "after others"
    if name is None:
        return (f"the work of {function_name} has no name= and is begun in this thread, {when} in "
                "another one: a job that is resumed could not tell which of them is which. Pass "
                "name=, another one for each, to the forkwork and forkgen calls of threads")
    return (f"the work name={name!r} is begun in this thread, {when} in another one: a job that is "
            "resumed could not tell which of them is which. Pass another name= in each thread")


# --- values ---------------------------------------------------------------------------------

_making: dict[str, list] = {}  # name -> [lock, how many want it, is its function running]


def once(name: str, fn: Callable[[], T]) -> T:
    """fn()'s value, made once per job: a program that is resumed gets the value it had before.

        seed = trickle.once("seed", lambda: random.getrandbits(64))
        paths = trickle.once("inputs", lambda: sorted(os.listdir("in")))

    For whatever decides what the program does and would be another the next time: random numbers,
    the time, what a directory or a server holds. Returns when the value is on the disk; it is a
    copy, as it will be after a resume, so it must be picklable. When fn raises nothing is recorded.
    Other threads that ask for the same name wait. Without a job it is just fn().
    """
    if not isinstance(name, str):
        raise TypeError(f"once(name, fn) takes a string as name, not {type(name).__name__}")
    if not callable(fn):
        raise TypeError(f"once({name!r}, fn) takes a function that makes the value, not "
                        f"{type(fn).__name__}: lambda: value")
    if job is None:
        from ._farm import open_job
        open_job()  # it may be wanted, and the farm not be open yet
    if job is None and not _had_job:
        _open_job()
    if job is None:
        return fn()
    if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= NOTE_MAX:
        raise ValueError(f"the name of once() is 1 to {NOTE_MAX} bytes long")
    with _lock:
        entry = _making.setdefault(name, [RLock(), 0, False])
        entry[1] += 1
    try:
        with entry[0]:
            return _once(name, fn, entry)
    finally:
        with _lock:
            entry[1] -= 1
            if entry[1] == 0:
                del _making[name]


def _open_job() -> None:
    """The job that this program is to have, as connect() does. A VM has none."""
    if _codec.residents is None and ("trickle._job" in sys.modules or "TRICKLE_JOB" in os.environ):
        from ._job import open_wanted
        open_wanted()


def _once(name: str, fn: Callable[[], Any], entry: list) -> Any:
    data = job.get(NOTE_ONCE, name)
    if data is not None:
        return _value(name, data)
    if entry[2]:
        raise TrickleError(f"once({name!r}) is asked for by its own function")
    entry[2] = True
    try:
        made = fn()
    finally:
        entry[2] = False
    try:
        data = dumps(made, PROTOCOL)
    except Exception as error:
        raise TypeError(f"the value of once({name!r}), of type {type_name(made)}, cannot be "
                        f"pickled and so not be recorded ({first_line(error)})") from error
    value = _value(name, data)
    job.put(NOTE_ONCE, name, data, True)
    return value


def _value(name: str, data: bytes) -> Any:
    try:
        return loads(data)
    except Exception as error:
        raise TrickleError(
            f"the recorded value of once({name!r}) cannot be unpickled ({first_line(error)}): its "
            "class must be found where it was when the value was made; under another name the "
            "value is made anew") from error
