# SPDX-License-Identifier: MIT
"""What code can ask and do while it runs as an element of work, on a VM. Anywhere else, in a plain
loop over the same function, all of this does the obvious thing, so that nothing has to be changed.

Output files. output() writes to a file beside the one that is wanted:

    .NAME.WHOSE.N.trickle-tmp      WHOSE: a digest of job, stage and index; N: 0, 1, ...

At the end of the with block it is complete and on the disk; when the element's function has
returned and its result is pickled, all files of the element are renamed, and only then is the
result sent. What happens when this process is killed:

    before that     no file; what is left over is removed by the element's next attempt
    between         some files are there, all complete; the next attempt replaces them
    after it        the files are there; whether the element runs again or not, they stay complete

Each temporary file is locked (flock) as long as its process lives, so an attempt knows what is left
over from what another attempt, which runs at the same time, writes to: it takes the next N then.
The files of the attempt that finishes last stay.
"""
from __future__ import annotations

import fcntl
import os
from _blake2 import blake2b
from _thread import allocate_lock

from . import _trickle
from ._codec import dumps_value, loads_value
from .errors import TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

SUFFIX = ".trickle-tmp"
NAME_MAX = 200  # bytes of a file's name that are kept in that of its temporary file
SWEPT = 4  # an attempt looks for so many left over files


class Element:
    """Which element of work runs: job (its name, or None when it is not durable), stage (the name
    of the work), index (from 0 on; with a chunksize, of the chunk) and attempt (1 for its first
    run, more after a VM was lost or the function has failed)."""

    __slots__ = ("job", "stage", "index", "attempt")

    def __init__(self, job: str | None, stage: str, index: int, attempt: int) -> None:
        self.job = job
        self.stage = stage
        self.index = index
        self.attempt = attempt

    def __repr__(self) -> str:
        return (f"Element(job={self.job!r}, stage={self.stage!r}, index={self.index}, "
                f"attempt={self.attempt})")


def element() -> Element | None:
    """The element of work that this code runs for, or None where no element runs.

        def convert(path):
            e = trickle.element()
            log.info("%s: element %d of %s, attempt %d", path, e.index, e.stage, e.attempt)

    An element may run more than once: when its VM is lost, when its function fails and has
    retries, when it was not yet recorded as its program ended. job, stage and index stay the same.
    """
    found = _trickle.element()
    if found is None:
        return None
    about, index, attempt = found
    return Element(about["job"], about["stage"], index, attempt)


# --- output files ---------------------------------------------------------------------------

_lock = allocate_lock()
_pending: list[output] = []  # of the element that runs
_is_asked = False  # the element's end is to be told to _end


class output:
    """A file that is there only when it is complete.

        def render(frame):
            with trickle.output(f"frames/{frame:05}.png", "wb") as file:
                file.write(draw(frame))
            return frame

    Gives a file like open(path, mode, ...), opened for writing under another name in the same
    directory, where it has to be writable. In an element of work the file gets its name when the
    function has returned, before the result is sent; anywhere else at the end of the with block.
    It replaces what has that name. An exception in the block, or one that the function raises,
    removes it. Whenever the process is killed, path is either what it was before or complete.

    mode is "w", "wb", "w+" or "w+b"; further arguments are those of open().
    """

    def __init__(self, path: Any, mode: str = "w", buffering: int = -1,
                 encoding: str | None = None, errors: str | None = None,
                 newline: str | None = None) -> None:
        if sorted(mode.replace("t", "", 1)) not in (["w"], ["b", "w"], ["+", "w"],
                                                    ["+", "b", "w"]):
            raise ValueError(f"output() writes a whole file: mode is \"w\", \"wb\", \"w+\" or "
                             f"\"w+b\", not {mode!r}")
        self.path = os.path.realpath(os.fsdecode(path))
        self._options: dict[str, Any] = {"mode": mode, "buffering": buffering,
                                         "encoding": encoding, "errors": errors,
                                         "newline": newline}
        self._file: Any = None
        self._temporary = ""
        self._descriptor = -1  # holds the lock
        self._is_complete = False

    def __repr__(self) -> str:
        return f"<trickle.output {self.path!r}>"

    def __enter__(self) -> IO[Any]:
        if self._temporary:
            raise TrickleError(f"{self!r} has been used already: make a new one")
        try:
            self._create()
            self._file = open(self._temporary, opener=lambda path, flags: os.dup(self._descriptor),
                              **self._options)
            self._register()
        except BaseException:
            self._remove()
            raise
        return self._file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._file.close()
            if kind is None:
                os.fsync(self._descriptor)
                self._is_complete = True
        finally:
            with _lock:
                is_later = self in _pending
                if is_later and not self._is_complete:
                    _pending.remove(self)
            if not self._is_complete:
                self._remove()
        if self._is_complete and not is_later:
            _rename([self])

    # --- the temporary file ---

    def _create(self) -> None:
        directory, name = os.path.split(self.path)
        if not name or os.path.isdir(self.path):
            raise IsADirectoryError(f"output() writes a file, and {self.path!r} is a directory")
        found = None if _trickle.is_forked() else element()
        start = os.path.join(directory, f".{_cut(name)}.{_whose(found)}.")
        number = 0
        while self._descriptor < 0 or number < SWEPT:
            path = f"{start}{number}{SUFFIX}"
            if _is_free(path) and self._descriptor < 0:
                self._take(path)
            number += 1
        try:
            os.fchmod(self._descriptor, os.stat(self.path).st_mode & 0o777)
        except OSError:
            pass  # there is none yet: it is a new file, as open() makes it

    def _take(self, path: str) -> None:
        """Makes the file and locks it. Somebody may be faster, here or there."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return
        except OSError as error:
            error.filename = self.path  # not the name that nobody has heard of
            raise
        if _lock_file(descriptor) is not False and _is_at(descriptor, path):
            self._temporary, self._descriptor = path, descriptor
        else:
            os.close(descriptor)

    def _register(self) -> None:
        """The rest is done at the end of the element, if one runs."""
        global _is_asked
        if _trickle.is_forked():
            return
        with _lock:
            if not _is_asked:
                _is_asked = _trickle.at_element_end(_end)
            if _is_asked:
                _pending.append(self)

    def _remove(self) -> None:
        if self._temporary:
            try:
                os.unlink(self._temporary)
            except OSError:
                pass  # its directory is gone, and the file with it
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _end(is_done: bool) -> None:
    """The element's function has returned, or raised an exception."""
    global _is_asked
    with _lock:
        outputs = _pending[:]
        _pending.clear()
        _is_asked = False
    try:
        if is_done:
            unfinished = [one for one in outputs if not one._is_complete]
            if unfinished:
                raise TrickleError(f"the function has returned while it writes {unfinished[0]!r}: "
                                   "leave the with block before")
            _rename(outputs)
    finally:
        for one in outputs:
            if one._descriptor >= 0:
                one._remove()


def _rename(outputs: list[output]) -> None:
    """Gives complete files their names. Those of one directory cost one sync of it."""
    directories = {}
    try:
        for one in outputs:
            if not _is_at(one._descriptor, one._temporary):
                raise TrickleError(f"what was written for {one.path!r} is gone: somebody has "
                                   f"removed {one._temporary}")
            os.replace(one._temporary, one.path)
            one._close()
            directories[os.path.dirname(one.path)] = None
    except BaseException:
        for one in outputs:
            if one._descriptor >= 0:
                one._remove()
        raise
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError:
            pass  # not all file systems can do that to a directory
        finally:
            os.close(descriptor)


def _is_free(path: str) -> bool:
    """Nothing is there, or what is left over of a process that was killed, which is removed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not _lock_file(descriptor):
            return False
        if _is_at(descriptor, path):
            os.unlink(path)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _lock_file(descriptor: int) -> bool | None:
    """False: somebody else has locked it. None: nothing can be locked there, so there is no telling
    what is left over."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(descriptor: int, path: str) -> bool:
    """Does the path still lead to the file that is open?"""
    try:
        there = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _cut(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:NAME_MAX])


def _whose(found: Element | None) -> str:
    text = repr(found and (found.job, found.stage, found.index))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


# --- checkpoints inside an element ----------------------------------------------------------


def checkpoint(state: Any) -> None:
    """Saves how far a long element of work has come; restore() gives it back to the element's next
    run, on whatever VM that is. Returns when it is durable.

        def train(config):
            state = trickle.restore(default={"step": 0, "weights": None})
            while state["step"] < config.steps:
                state = advance(state)
                if state["step"] % 1000 == 0:
                    trickle.checkpoint(state)
            return state["weights"]

    state is anything that can be pickled; it takes the place of what was saved before. When the VM
    is about to leave, this raises trickle.Moved, when the state is saved: let it pass, and the
    element goes on elsewhere. Does nothing outside of an element, or when its work is not durable.
    To be called by the thread that runs the element.
    """
    if _trickle.element() is not None:
        _trickle.checkpoint(dumps_value(state))


def restore(default: Any = None) -> Any:
    """The state that this element of work saved last with checkpoint(), in whichever run; default
    if it has not saved any, or outside of an element."""
    data = _trickle.restore()
    return default if data is None else loads_value(data)
