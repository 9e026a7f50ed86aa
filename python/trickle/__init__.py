# SPDX-License-Identifier: MIT
"""Trickle: Python functions on the VMs of this machine and of the network.

    from trickle import connect, inject, forkwork

    def square(x):
        return x * x

    vms = connect()                                 # VMs: start some with `trickle vm`
    inject(vms, square)
    print([vm.square(3) for vm in vms])             # one call after the other
    print(forkwork(vms, square, range(1000)))       # all VMs at once

connect    finds VMs                      inject     sends functions, classes and data
fork       begins a call                  join       waits for it; joinany for one of many
forkwork   a list of work on all VMs      forkgen    the same, results as they come
fetch      a copy of a remote object      same       an argument for fork that is not mapped
attempts   what happened to an element    VM.migrate moves what lives on a VM to another
job        makes the program durable     once       a value made once per job
listening  where VMs can join the program

In functions of work, where they run: element (which one it is), output (a file that is there only
when it is complete), checkpoint and restore (how far a long element has come).

Errors: TrickleError and its subclasses VMLost, NotEnoughVMs, WorkFailed, ResumeMismatch,
RemoteError; Moved in functions that call checkpoint.
"""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._durable import once
    from ._element import Element, checkpoint, element, output, restore
    from ._farm import connect, listening
    from ._fork import Handle, fork, join, joinany, same
    from ._inject import inject
    from ._proxy import VM, Proxy, fetch
    from ._vmlist import VMList
    from ._work import attempts, forkgen, forkwork
    from ._job import job
    from .errors import (Moved, NotEnoughVMs, RemoteError, ResumeMismatch, TrickleError, VMLost,
                         WorkFailed)

__version__ = "0.1.0"
__all__ = ["connect", "inject", "fork", "join", "joinany", "forkwork", "forkgen", "fetch", "same",
           "attempts", "VMList", "VM", "Proxy", "Handle", "TrickleError", "VMLost", "NotEnoughVMs",
           "WorkFailed", "RemoteError", "ResumeMismatch", "Moved", "once", "element", "Element",
           "output", "checkpoint", "restore", "job", "listening"]

# Modules are imported when a name of theirs is first used: a program that only connects and calls
# does not wait for what it does not need, and a VM needs hardly any of it.
_HOMES = {"connect": "_farm", "inject": "_inject", "fork": "_fork", "join": "_fork",
          "joinany": "_fork", "forkwork": "_work", "forkgen": "_work", "fetch": "_proxy",
          "same": "_fork", "attempts": "_work", "VMList": "_vmlist", "VM": "_proxy",
          "Proxy": "_proxy", "Handle": "_fork", "TrickleError": "errors", "VMLost": "errors",
          "NotEnoughVMs": "errors", "WorkFailed": "errors", "RemoteError": "errors",
          "ResumeMismatch": "errors", "Moved": "errors", "once": "_durable", "element": "_element",
          "Element": "_element", "output": "_element", "checkpoint": "_element",
          "restore": "_element", "job": "_job", "listening": "_farm"}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'trickle' has no attribute {name!r}")
    module = __import__(f"trickle.{home}", fromlist=[name])
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
