# SPDX-License-Identifier: MIT
"""The initiator's half of migration: what lives on one VM goes to another, and proxies follow.

    source: pack ----cargo----> target: unpack     nothing has changed yet where this fails:
    source: stay                                   the source goes on as if nothing had been
    proxies point to the target; source: leave     else

While a session is packed its VM refuses requests with Elsewhere; whoever asked waits for the VM's
lock, which is held meanwhile, and asks again, where the proxy then points to. See _moving for the
VM's half.

VMs that leave by themselves (drained) are emptied by a thread of their own: a VM that is about to
end still answers requests until the element that it runs has ended, and for a moment after that.
"""
from __future__ import annotations

from _thread import start_new_thread

from ._proxy import OP_DELETE, VM, call, remember_callable, remember_data, vm_info
from ._special import NAMESPACE_ID
from ._vmlist import all_handles
from .errors import TrickleError, VMLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Migration:
    """What vm.migrate(to) has moved: `names`, a list, and the number of remote `objects`."""

    def __init__(self, to: VM, names: list[str], objects: int, left: list[str]) -> None:
        self.to = to
        self.names = names
        self.objects = objects
        self.left = left  # what stayed behind, and why

    def __str__(self) -> str:
        parts = []
        if self.objects:
            parts.append(f"{self.objects} remote object{'' if self.objects == 1 else 's'}")
        if self.names:
            parts.append(f"the name{'' if len(self.names) == 1 else 's'} {', '.join(self.names)}")
        return f"{' and '.join(parts) or 'nothing'} moved to {self.to!r}"

    def __repr__(self) -> str:
        return f"<Migration: {self}>"


def migrate(vm: VM, to: VM) -> Migration:
    """See VM.migrate."""
    if not isinstance(to, VM):
        raise TypeError(f"vm.migrate(to) takes a handle of a VM, not {type(to).__name__}")
    if to is vm:
        raise ValueError(f"{vm!r} is where it is already")
    with vm._t_moving:
        return _move(vm, [to], None)


def _move(vm: VM, targets: list[VM], only: list[str] | None) -> Migration:
    """With the VM's lock held. The first of the targets that can takes it. only: of all names just
    these, and what cannot be moved stays behind; None: all, or it is an error."""
    try:
        cargo, names, ids, left = _ask(vm, "pack", only)
        to, conflicts = _unpack(cargo, targets) if names or ids else (vm, [])
    except BaseException:
        _stay(vm)
        raise
    left += [f"{name} (it stands for something else there)" for name in conflicts]
    names = [name for name in names if name not in conflicts]
    _point(vm, to, names, ids)
    try:
        for object_id in _ask(vm, "leave"):
            to._t_request(OP_DELETE, object_id, "", b"", False)
    except VMLost:
        pass  # it has left already
    return Migration(to, names, len(ids), left)


def _unpack(cargo: bytes, targets: list[VM]) -> tuple[VM, list[str]]:
    for to in targets:
        try:
            return to, _ask(to, "unpack", cargo)
        except VMLost:
            if to is targets[-1]:
                raise
    raise TrickleError("no other VM is there to take it")


def _ask(vm: VM, *step: Any) -> Any:
    return call(vm, NAMESPACE_ID, "*move", step, None)


def _stay(vm: VM) -> None:
    try:
        _ask(vm, "stay")
    except TrickleError:
        pass  # the VM has gone, and all that was on it


def _point(vm: VM, to: VM, names: list[str], ids: list[int]) -> None:
    """Proxies, those too that are still on their way here, stand for the objects at `to` now."""
    moved = set(ids)
    for object_id in ids:
        to._t_moved.pop(object_id, None)  # it may have come from there once
        vm._t_moved[object_id] = to
    for reference in list(vm._t_live.values()):
        proxy = reference()
        if proxy is not None and proxy._t_id in moved:
            vm._t_live.pop(id(proxy), None)
            to._t_live[id(proxy)] = reference
            object.__setattr__(proxy, "_t_vm", to)
    for name, obj in vm._t_names.items():
        if name not in to._t_names:
            remember_callable(to, name, obj)
    for name in names:
        remember_data(to, name)
    vm._t_own.difference_update(names)
    to._t_own.update(names)


# --- VMs that leave -------------------------------------------------------------------------


def on_leaving(host: str, pid: int) -> None:
    """A VM has said that it ends soon. In the thread that takes notices: must not wait."""
    for vm in all_handles():
        info = vm_info(vm)
        if info["pid"] == pid and info["host"] == host:
            vm.__dict__["_t_leaving"] = True
            if vm._t_live or vm._t_own:
                empty(vm)


def empty(vm: VM) -> None:
    """Moves what lives on a VM that is leaving, soon. Called again when more has come: an answer
    that was on its way referred to an object there."""
    if not vm._t_emptying:
        vm.__dict__["_t_emptying"] = True
        try:
            start_new_thread(_empty, (vm,))
        except RuntimeError:
            pass  # the program ends


def _empty(vm: VM) -> None:
    """Moves what lives there and nowhere else: what was injected into a list is on all of its
    VMs."""
    from ._farm import say
    try:
        with vm._t_moving:
            vm.__dict__["_t_emptying"] = False
            done = _move(vm, _others(vm), list(vm._t_own))
        if not done.names and not done.objects and not done.left:
            return
        text = f"leaves: {done}"
        if done.left:
            text += f"; lost with it: {', '.join(done.left)}"
        if done.to._t_leaving:  # that was said only now
            empty(done.to)
    except BaseException as error:
        if not vm._t_live and not vm._t_own:
            return
        text = f"leaves, and what lives on it is lost: {error}"
    say(f"[trickle: {vm!r} {text}]\n")


def _others(vm: VM) -> list[VM]:
    """Who could take what lives there: first those of the same list."""
    lists = vm.__dict__.get("_t_lists", {}).keys()
    others = [other for other in all_handles()
              if other is not vm and not other._t_raw.is_lost and not other._t_leaving]
    return sorted(others, key=lambda other: lists.isdisjoint(other.__dict__.get("_t_lists", ())))
