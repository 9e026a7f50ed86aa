# SPDX-License-Identifier: MIT
"""VMList: what connect() returns."""
from __future__ import annotations

from _weakref import ref

from ._proxy import VM, remember_callable, remember_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from . import _trickle

_handles: dict[int, Any] = {}  # id of a _trickle.VM -> weak reference to its handle


def handle_of(raw: _trickle.VM) -> VM:
    """The one handle of a VM: two lists that hold the same VM give the same handle."""
    known = _handles.get(id(raw))
    vm = known() if known is not None else None
    if vm is None or vm.__dict__["_t_raw"] is not raw:
        key = id(raw)
        vm = VM(raw)

        def forget(gone: Any) -> None:
            if _handles.get(key) is gone:
                del _handles[key]
        _handles[key] = ref(vm, forget)
    return vm


def all_handles() -> list[VM]:
    """All that are in use."""
    found = [known() for known in list(_handles.values())]
    return [vm for vm in found if vm is not None]


class VMList:
    """The VMs of one connect(), as a list of handles.

    Indexing, iteration and len() are those of a list; a slice is a plain list of handles.
    inject() into this list and forkwork() over it include VMs that join later (up to the max
    that connect() was given) and new processes of VMs that were lost; over a slice or any other
    list they use just the VMs in it. `with connect() as vms:` gives the VMs back at the end.
    """

    def __init__(self, raw: _trickle.VMList) -> None:
        self._raw = raw
        self._vms: list[VM] = []
        self._injected: dict[str, Any] = {}  # name -> the callable, or None for data
        self._refresh()

    def _refresh(self) -> None:
        """Takes up what changed: lost VMs are replaced by their new process, new ones join."""
        count = self._raw.refresh()
        before = self._vms
        vms = [handle_of(self._raw.get(i)) for i in range(count)]
        for vm in vms:
            # The list gives its VMs back when it goes: not while a handle is used, connect()[0].
            vm.__dict__.setdefault("_t_lists", {})[id(self._raw)] = self._raw
            if not any(vm is old for old in before):
                for name, obj in self._injected.items():
                    remember_data(vm, name)
                    if obj is not None:
                        remember_callable(vm, name, obj)
        self._vms = vms

    def __len__(self) -> int:
        return len(self._vms)

    def __getitem__(self, index: Any) -> Any:
        return self._vms[index]

    def __iter__(self) -> Iterator[VM]:
        return iter(list(self._vms))

    def __reversed__(self) -> Iterator[VM]:
        return reversed(list(self._vms))

    def __contains__(self, vm: Any) -> bool:
        return any(vm is own for own in self._vms)

    def __add__(self, other: Any) -> list[VM]:
        return self._vms + list(other)

    def index(self, vm: VM) -> int:
        """The position of a handle."""
        for i, own in enumerate(self._vms):
            if own is vm:
                return i
        raise ValueError(f"{vm!r} is not in this list")

    def close(self) -> None:
        """Gives the VMs back for other programs; what was injected and made there is gone."""
        self._raw.close()

    def __enter__(self) -> VMList:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<VMList of {len(self)} VM{'' if len(self) == 1 else 's'}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        from .errors import TrickleError
        raise TrickleError("a list of VMs belongs to this program and cannot be sent or pickled")


def vms_of(vms: VM | VMList | Sequence[VM]) -> list[VM]:
    """The handles in what a user gave as VMs: one handle, a VMList, or a list of handles."""
    if isinstance(vms, VM):
        return [vms]
    if isinstance(vms, VMList):
        return list(vms._vms)
    if isinstance(vms, (list, tuple)) and all(isinstance(vm, VM) for vm in vms):
        if not vms:
            raise ValueError("the list of VMs is empty")
        return list(vms)
    raise TypeError(f"a VM or a list of VMs is wanted here, not {type(vms).__name__}")
