# SPDX-License-Identifier: MIT
"""inject(): functions, classes and data to VMs, under their names."""
from __future__ import annotations

import sys
from _pickle import dumps

from . import _bundle, _install
from ._codec import PROTOCOL, failure, type_name
from ._proxy import VM, Proxy, RemoteFunction, RemoteMethod, remember_callable, remember_data
from ._proxy import vm_info
from ._vmlist import VMList, vms_of
from .errors import TrickleError, VMLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any


def inject(vms: VM | Sequence[VM], /, *objects: Any, **named: Any) -> None:
    """Puts copies of functions, classes and data into the name space of VMs.

        inject(vms, wordcount, Stack, table)    one VM, or a list of them
        inject(vms, limit=100)                  under a name of your choice

    Functions and classes keep their names; data gets the name of the variable that holds it where
    inject() is called. What a function or class uses from its own file comes along: other
    functions and classes, constants as they are now, imports. Modules that belong to Python or
    are installed must be there on the VM; modules of the program are sent. Injecting a name
    again replaces it. VMs that join the list later get all that was injected into the list.
    """
    frame = sys._getframe(1)
    wanted: dict[str, Any] = {}
    for obj in objects:
        name = _name_of(obj, frame)
        if name in wanted and wanted[name] is not obj:
            raise TrickleError(f"two of these objects are called {name!r}: give them names, "
                               f"inject(vms, {name}=..., {name}2=...)")
        wanted[name] = obj
    wanted.update(named)
    if not wanted:
        raise TypeError("inject(vms, obj, ...) needs at least one object")
    if "migrate" in wanted and not callable(wanted["migrate"]):
        raise TrickleError("vm.migrate is a method of handles: give this data another name")
    bundles = [(name, obj, _bundle_of(name, obj)) for name, obj in wanted.items()]
    if isinstance(vms, VMList):
        vms._refresh()
    handles = vms_of(vms)
    for name, _, bundle in bundles:
        if bundle.cloudpickled:
            check_versions(name, handles)
    # Everything can be sent: only now is anything sent.
    durable = sys.modules.get("trickle._durable")
    for name, obj, bundle in bundles:
        if durable is not None and durable.job is not None and not _is_called(obj):
            from ._fingerprint import note_data
            note_data(name, obj)
        _send(vms, handles, name, obj, dumps(bundle.entries, PROTOCOL))


def _bundle_of(name: str, obj: Any) -> _bundle.Bundle:
    if isinstance(obj, (Proxy, VM, VMList, RemoteFunction, RemoteMethod)):
        raise TrickleError(f"{name!r} lives on a VM and cannot be injected; trickle.fetch(proxy) "
                           "gives a copy that can")
    bundle = _bundle.Bundle()
    bundle.add_named(name, obj)
    return bundle


def check_versions(name: str, handles: list[VM]) -> None:
    for vm in handles:
        text = vm_info(vm)["version"].split(".")
        if len(text) >= 2 and text[0].isdigit() and text[1].isdigit():
            _install.check_version(name, sys.version_info[:2], (int(text[0]), int(text[1])),
                                   repr(vm)[1:-1])


def _send(vms: Any, handles: list[VM], name: str, obj: Any, payload: bytes) -> None:
    from ._farm import farm
    if isinstance(vms, VMList):
        calls = farm().inject(vms._raw, name, payload)
        vms._injected.pop(name, None)
        vms._injected[name] = obj if _is_called(obj) else None
    else:
        calls = []
        for vm in handles:
            calls += farm().inject(vm._t_raw, name, payload)
    error: BaseException | None = None
    for call in calls:
        try:
            status = call.wait()
        except VMLost:
            if not isinstance(vms, VMList):
                raise
            continue  # the list goes on without it
        if status != 0 and error is None:
            error = failure(status, call)
    if error is not None:
        raise error
    for vm in handles:
        remember(vm, name, obj)
        if isinstance(vms, VMList) or name in vm._t_names:
            vm._t_own.discard(name)
        else:
            vm._t_own.add(name)


def remember(vm: VM, name: str, obj: Any) -> None:
    """What this name on this VM stands for."""
    remember_data(vm, name)
    if obj is not None and _is_called(obj):
        remember_callable(vm, name, obj)


def _is_called(obj: Any) -> bool:
    """Is it a function or the like, rather than data?"""
    return _bundle.is_code(obj) or callable(obj)


# --- names ----------------------------------------------------------------------------------


def _name_of(obj: Any, frame: FrameType) -> str:
    """Functions and classes have names; data has that of its variable at the caller. So have
    functions that are known here by another name than their own, made by other functions."""
    own = getattr(obj, "__name__", None)
    names = _names_in(frame.f_locals, obj) or _names_in(frame.f_globals, obj)
    is_code = _bundle.is_code(obj) or type(obj).__name__ == "builtin_function_or_method"
    if is_code and isinstance(own, str) and own.isidentifier():
        is_made = "<locals>" in getattr(obj, "__qualname__", "")
        return names[0] if is_made and len(names) == 1 and own not in names else own
    if len(names) == 1:
        return names[0]
    short = repr(obj)
    short = short if len(short) <= 40 else f"<{type_name(obj)}>"
    if not names:
        raise TrickleError(f"no variable here holds {short}, so it has no name to inject it "
                           "under: inject(vms, name=obj)")
    raise TrickleError(f"{' and '.join(names)} all hold {short}: say which name is meant, "
                       f"inject(vms, {names[0]}={names[0]})")


def _names_in(variables: Any, obj: Any) -> list[str]:
    names = [name for name, value in list(variables.items()) if value is obj]
    # A prompt keeps its last values under names like _ and _12.
    return [name for name in names if not name.startswith("_")] or names
