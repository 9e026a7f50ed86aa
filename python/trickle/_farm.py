# SPDX-License-Identifier: MIT
"""The farm of this process: made on first use, closed before the interpreter ends.

A small daemon thread prints what VMs have to say: lines that user code printed there, marked with
the VM, and messages for people. It ends when the farm is closed and all is printed.
"""
from __future__ import annotations

import atexit
import os
import sys
from _thread import allocate_lock, start_new_thread

from . import _progress, _trickle, errors
from ._vmlist import VMList
from .errors import NotEnoughVMs, TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CLOSE_SECONDS = 1.0
PARTIAL_SECONDS = 0.2  # how long the start of a line waits for the rest of it

_lock = allocate_lock()
_farm: _trickle.Farm | None = None
_listen: str | None = None  # as connect() was told
_owner = 0  # pid of the process that made it
_printed: Any = None  # locked until the notices thread has ended

_trickle.set_exceptions({
    "": TrickleError, "EVMLOST": errors.VMLost, "ENOVMS": errors.NotEnoughVMs,
    "ECHANGED": errors.ResumeMismatch, "ENOMEM": MemoryError, "ETOOBIG": ValueError})


def farm(listen: str | None = None, module: str | None = "python") -> _trickle.Farm:
    """The farm of this process. For the first time it is asked for: listen: where VMs can join;
    module: VMs of which module it is to have (None: any)."""
    global _farm, _listen, _owner, _printed
    if _farm is not None:
        return _with_listen(_farm, listen)
    with _lock:
        if _farm is None:
            made = _trickle.Farm(program=_program(), job=open_job(), listen=listen,
                                 module=module)
            _listen = listen
            _owner = os.getpid()
            _printed = allocate_lock()
            _printed.acquire()
            start_new_thread(_print_notices, (made, _printed))
            atexit.register(close)
            _farm = made
    return _with_listen(_farm, listen)


def _with_listen(made: _trickle.Farm, listen: str | None) -> _trickle.Farm:
    if listen is not None and listen not in (_listen, made.listening):
        where = f"listens at {made.listening}" if made.listening else "listens nowhere"
        raise TrickleError(f"this program {where} already, from its first connect() on: say "
                           "listen= there, or trickle run --listen")
    return made


def listening() -> str | None:
    """ADDR:PORT where VMs can join this program, with trickle vm --join; None: nowhere."""
    return None if _farm is None else _farm.listening


def open_job() -> _trickle.Job | None:
    """What this program records its work in, if it does: opened now if it was not."""
    if "trickle._job" in sys.modules or "TRICKLE_JOB" in os.environ:
        from ._job import open_wanted
        return open_wanted()
    return None


def _program() -> str:
    """What others see as the holder of the VMs."""
    name = sys.argv[0] if getattr(sys, "argv", None) else ""
    return os.path.basename(name) or "python"


def close() -> None:
    """Ends all leases, prints what VMs still had to say, stops the farm's threads."""
    global _farm
    closing = _farm
    if closing is None or os.getpid() != _owner:
        return  # nothing was opened, or this is a child that the program forked
    atexit.unregister(close)
    _farm = None
    closing.close(CLOSE_SECONDS)
    _printed.acquire(timeout=CLOSE_SECONDS)


def connect(max: int | None = None, *, timeout: float | None = None,
            listen: str | None = None) -> VMList:
    """Finds VMs and takes them for this program: a VMList.

    max: as many as this are wanted; fewer raise NotEnoughVMs, and none is taken. Without it, all
    VMs that are there and free. timeout: seconds to wait for missing VMs to come; without it only
    those are waited for that are starting now. listen: "ADDR:PORT" of this machine where VMs join
    that connect from where nobody can connect to (trickle vm --join); port 0 takes a free one,
    which is printed, and given by listening(). They are waited for, too, for five seconds.

    The list grows up to max while VMs come and go: see VMList.
    """
    if max is not None and (not isinstance(max, int) or isinstance(max, bool)):
        raise TypeError(f"connect(max) takes a number of VMs, not {type(max).__name__}")
    if max is not None and max < 1:
        raise ValueError(f"connect(max) takes a number of VMs from 1 on, not {max}")
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"connect(timeout=...) takes seconds from 0 on, not {timeout}")
    wait_ms = 0 if timeout is None else int(min(timeout * 1000, 0x7FFFFFFF))
    vms = VMList(farm(listen).connect(max or 0, max is not None, wait_ms))
    count = len(vms)
    if count == 0:
        vms.close()
        raise NotEnoughVMs("no VM answered; start some on this machine with: trickle vm")
    say(f"[trickle: discovered {count} VM{'' if count == 1 else 's'}]\n")
    return vms


def say(text: str) -> None:
    """Writes a notice to stderr, beside a progress bar if there is one."""
    if not text:
        return
    with _progress.lock:
        _progress.hide()
        stream = sys.stderr
        if stream is not None:
            try:
                stream.write(text)
                stream.flush()
            except (OSError, ValueError):
                pass  # a notice is no reason to stop
        _progress.show_again()


def _print_notices(source: _trickle.Farm, printed: Any) -> None:
    lines = _Lines()
    try:
        while True:
            notice = source.notice(PARTIAL_SECONDS if lines.held else None)
            if notice is None:
                say(lines.rest())
            elif notice[0] == "vm_leaving":
                from ._migrate import on_leaving
                on_leaving(notice[1], notice[2])
            else:
                say(lines.add(*notice))
    except (EOFError, RuntimeError):
        pass  # the farm was closed, or this is a forked child
    finally:
        say(lines.rest())
        printed.release()


class _Lines:
    """Makes whole lines of what VMs print. The start of a line waits a moment for its end."""

    def __init__(self) -> None:
        self.here = os.uname().nodename
        self.held: dict[tuple[str, int], bytes] = {}  # mark and pid of a VM -> start of a line

    def add(self, kind: str, host: str, pid: int, index: int, text: bytes) -> str:
        """What can be shown now."""
        if kind == "vm_joined":
            return ""
        name = f"vm {index}" if host in ("", self.here) else f"vm {host}/{index}"
        if kind != "output":
            about = f"{name} is lost: " if kind == "vm_lost" else ""
            return "".join(f"[trickle: {about}{line}]\n" for line in _decode(text).splitlines())
        mark = f"[{name}]"
        whole, newline, start = (self.held.pop((mark, pid), b"") + text).rpartition(b"\n")
        if start:
            self.held[mark, pid] = start
        return "".join(f"{mark} {line}\n" for line in _decode(whole).split("\n")) if newline else ""

    def rest(self) -> str:
        """Lines that have no end."""
        held, self.held = self.held, {}
        return "".join(f"{mark} {_decode(text)}\n" for (mark, _), text in held.items())


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")
