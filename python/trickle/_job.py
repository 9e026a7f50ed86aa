# SPDX-License-Identifier: MIT
"""The durable job of this process: opened when the farm is, closed at its end.

A program that the command runs is a job unless --no-checkpoint says no; any other one when it calls
trickle.job("name") or TRICKLE_JOB names one. Nothing is made before the program connects.

What it takes to run the program again stands in the job's store, as JSON: "run" from the start of
each run, "end" once that has ended in order. It is written without the json module, which a run
would wait for.
"""
from __future__ import annotations

import atexit
import os
import sys
from _thread import allocate_lock
from time import time

from . import _trickle
from .errors import TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXIT_STOPPED = 75  # EX_TEMPFAIL: run it again
EXIT_UNWRITTEN = 120  # the one of an interpreter that cannot write its output
NAME_MAX = 80  # of a program, as part of a job's name
SWEEP_SECONDS = 7 * 24 * 3600  # jobs that ended well are removed after that
# Kept for a resume, beside what --keep-env names. With PYTHON* comes the hash seed.
KEPT = ("PATH", "VIRTUAL_ENV", "LANG", "TZ")
KEPT_PREFIXES = ("PYTHON", "LC_")
# Differ from shell to shell, and say nothing about a program.
PASSING = ("_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES")


class Wanted:
    """The job that this process is to have."""

    def __init__(self, name: str | None, run: dict[str, Any]) -> None:
        self.name = name  # None: the program's, with a free number
        self.run = run  # the note "run", see start_of_run
        self.must_be_new = False
        self.must_exist = False
        self.on_change = "refuse"
        self.retry_failed = False
        self.is_fixed = False  # the command line has named it: the program does not


wanted: Wanted | None = None
is_off = False  # --no-checkpoint
status: int | None = None  # how the program ended, where that is known
name: str | None = None  # of the job that is open, or was last
_job: _trickle.Job | None = None
_owner = 0  # pid of the process that opened it
_lock = allocate_lock()
TROUBLE = (TrickleError, _trickle.TrickleError)  # which of them: whether a farm was ever wanted


def job(name: str, *, on_change: str = "refuse", retry_failed: bool = False) -> None:
    """Makes this program the durable job of that name: what its forkwork and forkgen calls have
    recorded is not run again when the program is started again, however it ended.

    Call it before connect(). name: letters, digits, ".", "_" and "-". The job is opened by
    connect(), and `trickle jobs` shows it from then on. Where the command line or TRICKLE_JOB names
    a job, it is that one.

    on_change     when the code or a list of work is not what was recorded: "refuse" raises
                  ResumeMismatch, "keep" keeps the results of equal elements whatever code made
                  them, "redo" runs changed code again
    retry_failed  elements that failed run again
    """
    global wanted
    if not isinstance(name, str) or not name:
        raise TypeError("trickle.job(name) takes the name of a job")
    if on_change not in ("refuse", "keep", "redo"):
        raise ValueError(f'on_change is "refuse", "keep" or "redo", not {on_change!r}')
    from . import _farm
    if _job is not None or _farm._farm is not None:
        raise TrickleError("trickle.job() comes before connect(): the farm is open already")
    if is_off or (wanted is not None and wanted.is_fixed):
        return
    _from_environment()
    if wanted is None or not wanted.is_fixed:
        wanted = Wanted(name, wanted.run if wanted is not None else start_of_run())
        wanted.on_change = on_change
        wanted.retry_failed = bool(retry_failed)


def _from_environment() -> None:
    """TRICKLE_JOB and, for a resume, TRICKLE_RESUME. They are for this process alone, not for
    programs that it starts."""
    global wanted
    named = os.environ.pop("TRICKLE_JOB", "")
    again = os.environ.pop("TRICKLE_RESUME", "")
    if named and not is_off and (wanted is None or not wanted.is_fixed):
        wanted = Wanted(named, wanted.run if wanted is not None else start_of_run())
        wanted.is_fixed = True
        if again:
            use_resume(wanted, again)


def use_resume(wanted: Wanted, text: str) -> None:
    """What `trickle resume` has to say to the program that it starts, as JSON."""
    import json
    try:
        asked = json.loads(text)
        wanted.name = asked["name"]
        wanted.on_change = asked["on_change"]
        wanted.retry_failed = asked["retry_failed"]
        keep_env(wanted.run, asked["keep_env"])
    except (ValueError, KeyError, TypeError):
        raise TrickleError("TRICKLE_RESUME is not what trickle resume makes it") from None
    wanted.must_exist = wanted.is_fixed = True


# --- what a run is ----------------------------------------------------------------------------


def start_of_run() -> dict[str, Any]:
    """What is needed to run this program again: the note "run"."""
    now = time()
    return {
        "kind": "python", "trickle": _trickle.VERSION, "argv": list(sys.orig_argv),
        "is_interactive": sys.argv[0] in ("", "-") or "ipykernel" in sys.modules,
        "cwd": _cwd(), "program": _program(), "interpreter": sys.executable,
        "hash_seed": os.environ.get("PYTHONHASHSEED"), "env": _kept(os.environ),
        "keep_env": [], "others": digests(os.environ), "host": os.uname().nodename,
        "pid": os.getpid(), "started": now, "first_started": now, "local": None}


def keep_env(run: dict[str, Any], names: list[str]) -> None:
    """More variables that a resume is to restore."""
    run["keep_env"] = names
    run["env"].update({name: os.environ[name] for name in names if name in os.environ})


def is_kept(variable: str) -> bool:
    return variable in KEPT or variable.startswith(KEPT_PREFIXES)


def _kept(environment: Any) -> dict[str, str]:
    return {name: environment[name] for name in environment if is_kept(name)}


def digests(environment: Any) -> dict[str, str]:
    """Of all other variables, to tell which differ; their values are nobody's business."""
    try:
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b
    return {name: blake2b(os.fsencode(environment[name]), digest_size=8,
                          person=b"trickle env").hexdigest()
            for name in environment
            if name not in PASSING and not name.startswith("TRICKLE_") and not is_kept(name)}


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"  # it was removed


def _program() -> str:
    """A path; "" in a shell or a notebook."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    return os.path.abspath(path) if isinstance(path, str) else ""


def as_json(value: Any) -> bytes:
    """Of dicts with strings as keys, lists, strings, numbers, bools and None."""
    try:
        from _json import encode_basestring_ascii as quote
    except ImportError:
        from json import dumps as quote

    def text(it: Any) -> str:
        if isinstance(it, str):
            return quote(it)
        if isinstance(it, dict):
            return "{" + ", ".join(f"{quote(k)}: {text(v)}" for k, v in it.items()) + "}"
        if isinstance(it, (list, tuple)):
            return "[" + ", ".join(map(text, it)) + "]"
        if it is None:
            return "null"
        return repr(it).lower() if isinstance(it, bool) else repr(it)
    return text(value).encode()


# --- life -------------------------------------------------------------------------------------


def open_wanted() -> _trickle.Job | None:
    """The job of this process, opened now if it was not; None: it is to have none."""
    global _job, _owner
    if _job is not None or is_off:
        return _job
    with _lock:
        if _job is not None:
            return _job
        _from_environment()
        if wanted is None:
            return None
        with _signals_blocked():  # Ctrl-C between these would leave a job that cannot be resumed
            opened = _open(wanted)
            _begin(opened, wanted)
            _owner = os.getpid()
            _job = opened
            atexit.register(close)
        _end_as_interrupted()
        from . import _durable
        _durable.use_job(opened)
        return _job


class _signals_blocked:
    """Those that end a program wait until the block is done."""

    def __enter__(self) -> None:
        import _signal
        self.before = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT, _signal.SIGTERM))

    def __exit__(self, *_: object) -> None:
        import _signal
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.before)


def _open(wanted: Wanted) -> _trickle.Job:
    global name
    find_fsck()
    try:
        name = wanted.name if wanted.name is not None else _free_name(wanted.run["program"])
        return _trickle.Job(name, must_be_new=wanted.must_be_new, must_exist=wanted.must_exist,
                            on_change=wanted.on_change, retry_failed=wanted.retry_failed)
    except (OSError, *TROUBLE) as error:
        if wanted.name is not None:
            raise
        raise TrickleError(f"what this run computes cannot be recorded: {error}; set TRICKLE_HOME "
                           "to a directory of yours, or record nothing: trickle run "
                           "--no-checkpoint") from None


def _begin(opened: _trickle.Job, wanted: Wanted) -> None:
    facts = opened.opened()
    for sentence in facts["text"].splitlines():
        _say(f"[trickle: {sentence}]\n")
    run = wanted.run
    run["epoch"] = facts["epoch"]
    if not facts["is_new"]:
        before = opened.get(_trickle.NOTE_JOB, "run")
        if before is not None:
            import json
            run["first_started"] = json.loads(before).get("first_started", run["started"])
    opened.put(_trickle.NOTE_JOB, "run", as_json(run), False)
    if facts["is_new"]:
        _sweep(name)


def _free_name(program: str) -> str:
    """The program's name and the next number. Its directory is made at once: another program of
    this name that starts now takes the next one."""
    stem = os.path.splitext(os.path.basename(program))[0] or "python"
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in stem)
    stem = stem.lstrip(".-")[:NAME_MAX] or "job"
    place = _trickle.job_home()[0] + "/jobs"
    os.makedirs(place, 0o700, exist_ok=True)
    taken = [0]
    for other in os.listdir(place):
        start, _, number = other.rpartition("-")
        if start == stem and number.isascii() and number.isdigit():
            taken.append(int(number))
    free = max(taken) + 1
    while True:
        try:
            os.mkdir(f"{place}/{stem}-{free}", 0o700)
            return f"{stem}-{free}"
        except FileExistsError:
            free += 1


def find_fsck() -> None:
    """Tells the C side where trickle-fsck is, where that is not the place it was built for."""
    if "TRICKLE_FSCK" not in os.environ:
        place = os.path.dirname(os.path.abspath(__file__))
        while place != "/":
            place = os.path.dirname(place)
            for path in (place + "/bin/trickle-fsck", place + "/src/ckpt/trickle-fsck"):
                if os.access(path, os.X_OK):
                    os.environ["TRICKLE_FSCK"] = path
                    return


def _end_as_interrupted() -> None:
    """SIGTERM (trickle cancel sends it) ends the program as Ctrl-C does, unless the program has a
    handler of its own. A second one ends it at once."""
    import _signal

    def end(number: int, frame: Any) -> None:
        _signal.signal(number, _signal.SIG_DFL)
        raise KeyboardInterrupt
    try:
        if _signal.getsignal(_signal.SIGTERM) == _signal.SIG_DFL:
            _signal.signal(_signal.SIGTERM, end)
    except ValueError:
        pass  # not the main thread: SIGTERM ends the process, which the store outlives


def is_open() -> bool:
    return _job is not None and os.getpid() == _owner


def close() -> None:
    """At the end of the process, after the farm was closed: notes how it ended."""
    global _job
    closing = _job
    if closing is None or os.getpid() != _owner:
        return
    _job = None
    from . import _durable, _farm
    _farm.close()
    _durable.use_job(None)
    error = getattr(sys, "last_value", None)  # what the interpreter has printed as uncaught
    ended = status
    if ended is None and error is not None:
        ended = EXIT_STOPPED if isinstance(error, KeyboardInterrupt) else 1
    if not _flush() and not ended:
        ended = EXIT_UNWRITTEN
    try:
        closing.put(_trickle.NOTE_JOB, "end", as_json(
            {"epoch": closing.opened()["epoch"], "status": ended, "ended": time()}), False)
        closing.close()
    except TROUBLE as problem:
        _say(f"trickle: {problem}\n")
    if ended == EXIT_STOPPED:
        _say(f"[trickle: stopped; go on with: trickle resume {name}]\n")


def _flush() -> bool:
    """Writes what the program has printed, before its job can be done: a job that is done is not
    run again for what was still in a buffer. False: it cannot be written."""
    is_written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception:  # the interpreter tries once more, and says what is wrong
            is_written = False
    return is_written


def _say(text: str) -> None:
    from ._farm import say
    say(text)


def _sweep(own: str | None) -> None:
    """Removes jobs that ended well long ago: cheap, so each new job does it."""
    try:
        place = _trickle.job_home()[0] + "/jobs"
        before = time() - SWEEP_SECONDS
        for other in os.listdir(place):
            try:
                if other != own and os.stat(f"{place}/{other}/data.mdb").st_mtime < before:
                    _sweep_one(other)
            except (OSError, LookupError, *TROUBLE):
                pass  # others may stay
    except OSError:
        pass


def _sweep_one(other: str) -> None:
    from ._look import Look
    look = Look(other)
    if look.state == "done" and look.failed == 0:
        look.remove()
