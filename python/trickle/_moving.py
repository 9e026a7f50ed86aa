# SPDX-License-Identifier: MIT
"""The VM's half of migration: a session packed here, unpacked on another VM.

    pack      names and exported objects in one pickle, so that what they share stays shared. Then
              the session stands still: requests are refused with Elsewhere until
    stay      nothing has come of it: all is as it was, or
    leave     it is elsewhere: what was moved is forgotten here
    unpack    on the other VM: all of it, or nothing

Code is not moved but installed again from what the initiator sent (Installer.journal), where it
is not there already. Objects keep the numbers under which they are exported: these are unique
among VMs, so a proxy has to learn only where its object is now.

What cannot be moved: what cannot be pickled, code that was made on the VM itself, and names that
mean something else on the other VM.
"""
from __future__ import annotations

import sys
from _pickle import Pickler, PicklingError, dumps, loads
from io import BytesIO

from . import _install, _trickle
from ._codec import PROTOCOL, first_line, type_name
from ._special import NAMESPACE_ID
from .errors import Elsewhere, TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FunctionType
    from typing import Any

    from ._install import Installer
    from ._server import Server
else:
    FunctionType = type(first_line)

ModuleType = type(sys)
INLINE_MAX = 1 << 16  # data up to this size goes along with the code that may need it to be made


class _Packer(Pickler):
    installer: Installer

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ModuleType):
            return _install.module_named, (obj.__name__,)
        if isinstance(obj, (FunctionType, type)) and self.installer.is_injected(obj):
            place = self.installer.place_of(obj)
            if place is None:
                raise PicklingError(f"the code of {obj.__qualname__} was made on the VM itself, "
                                    "or was replaced there")
            return _install.global_name, place
        return NotImplemented


def _pickle(installer: Installer, obj: Any) -> bytes:
    buffer = BytesIO()
    pickler = _Packer(buffer, PROTOCOL)
    pickler.installer = installer
    pickler.dump(obj)
    return buffer.getvalue()


class Mover:
    """Of one Server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.residents = server.residents
        self.installer = server.installer
        self.operations = server._operations
        self.is_packed = False
        self.packed_names: list[tuple[str, str]] = []
        self.packed_ids: list[int] = []
        self.released: list[int] = []

    # --- where the session is now ---

    def pack(self, only: list[str] | None) -> tuple:
        """(what unpack takes, names of the name space, ids, what stays behind and why). only: of
        all names just these, and what cannot be moved stays; None: all, or it is an error.
        Afterwards the session stands still."""
        is_partial = only is not None
        names, objects, left = self._roots(only)
        try:
            graph = _pickle(self.installer, (names, objects))
        except Exception:
            left += self._drop_bad(names, objects)
            graph = b""
        if left and not is_partial:
            raise TrickleError(f"nothing was moved, because these cannot be: {'; '.join(left)}")
        graph = graph or _pickle(self.installer, (names, objects))
        counts = {object_id: self.residents.entries[object_id][1] for object_id in objects}
        cargo = dumps((self._journal(), graph, counts, is_partial), PROTOCOL)
        self.packed_names, self.packed_ids = list(names), list(objects)
        self.released.clear()
        self.is_packed = True
        self.server._operations = {op: self._refuse for op in self.operations}
        self.server._operations[_trickle.OP_CALL] = self._call
        self.server._operations[_trickle.OP_DELETE] = self._delete
        own = [name for module, name in names if module == "__main__" and "@" not in name]
        return cargo, own, self.packed_ids, left

    def _roots(self, only: list[str] | None) -> tuple[dict, dict, list[str]]:
        """Data by (module, name); exported objects by id, each with the exception that its
        iteration has to raise next; and reasons why others cannot be moved."""
        names: dict[tuple[str, str], Any] = {}
        left = []
        for module in ("__main__", *self.installer.made):
            for name, obj in self.installer.space(module).items():
                is_code = self.installer.bound.get((module, name)) is obj
                is_wanted = only is None or (module == "__main__" and name in only)
                if name.startswith("__") or is_code or not is_wanted:
                    continue
                if isinstance(obj, (FunctionType, type)) and self.installer.is_injected(obj):
                    left.append(f"{name} (its code was made on the VM itself)")
                else:
                    names[module, name] = obj
        objects: dict[int, tuple] = {}
        for object_id, (obj, _) in self.residents.entries.items():
            if obj is self.residents.namespace.__dict__:
                left.append("the name space itself (a proxy stands for it)")
            elif object_id != NAMESPACE_ID:
                objects[object_id] = (obj, self.server.pending.get(object_id))
        return names, objects, left

    def _drop_bad(self, names: dict, objects: dict) -> list[str]:
        """Takes out what cannot be pickled; what that is, and why."""
        left = []
        for roots in (names, objects):
            for key in list(roots):
                try:
                    _pickle(self.installer, roots[key])
                except Exception as error:
                    obj = roots.pop(key)
                    what = key[1] if roots is names else f"a remote {type_name(obj[0])}"
                    left.append(f"{what} ({first_line(error)})")
        return left

    def _journal(self) -> list[tuple]:
        """The code that was sent, with data as it is now where that is small: code may need it
        while it is made."""
        entries = []
        for entry in self.installer.journal:
            if entry[0] != "value":
                entries.append(entry)
                continue
            _, module, name = entry
            try:
                data = _pickle(self.installer, self.installer.space(module)[name])
            except Exception:
                continue  # gone, or told of in left
            if len(data) <= INLINE_MAX:
                entries.append(("value", module, name, data, True))
        return entries

    def _refuse(self, object_id: int, name: str, payload: memoryview) -> bytes:
        raise Elsewhere("what lives on this VM is being moved to another")

    def _call(self, object_id: int, name: str, payload: memoryview) -> bytes:
        if object_id == NAMESPACE_ID and name == "*move":
            return self.operations[_trickle.OP_CALL](object_id, name, payload)
        return self._refuse(object_id, name, payload)

    def _delete(self, object_id: int, name: str, payload: memoryview) -> bytes:
        self.released.append(object_id)
        return self.operations[_trickle.OP_DELETE](object_id, name, payload)

    def stay(self) -> None:
        self.is_packed = False
        self.server._operations = self.operations

    def leave(self) -> list[int]:
        """The ids that were released since pack. Data is gone from here but for what functions
        use, which may still run here."""
        for module, name in self.packed_names if self.is_packed else ():
            if (module, name) not in self.installer.needed:
                self.installer.space(module).pop(name, None)
        for object_id in self.packed_ids if self.is_packed else ():
            self.server.pending.pop(object_id, None)
            self.residents.forget(object_id)
        self.residents.has_moved = True
        self.stay()
        return [object_id for object_id in self.released if object_id in set(self.packed_ids)]

    # --- where it goes ---

    def unpack(self, cargo: bytes) -> list[str]:
        """Takes all, or raises and has changed nothing. Returns the names that stay behind because
        they mean something else here."""
        journal, graph, counts, is_partial = loads(cargo)
        before = self.installer.snapshot()
        try:
            fresh = self._install(journal)
            names, objects = loads(graph)
            bindings, conflicts = self._bindings(names, objects, fresh)
            if conflicts and not is_partial:
                raise TrickleError("the VM to move to has names of its own that stand for "
                                   f"something else: {', '.join(conflicts)}; delete them there "
                                   "first")
            if not counts.keys().isdisjoint(self.residents.entries):
                raise TrickleError("objects of these numbers are there already")
        except BaseException:
            self.installer.restore(before)
            raise
        for (module, name), obj in bindings.items():
            self.installer.module(module).__dict__[name] = obj
        for object_id, (obj, pending) in objects.items():
            self.residents.adopt(object_id, obj, counts[object_id])
            if pending is not None:
                self.server.pending[object_id] = pending
        return conflicts

    def _install(self, journal: list[tuple]) -> set[tuple]:
        """What is here in the same version stays; another version is an error. The keys of what
        was not here."""
        last = {self.installer.key(entry): entry for entry in journal}
        found = {key: self.installer.compare(entry) for key, entry in last.items()}
        others = [_install.shown(key[-1]) for key, same in found.items() if same is False]
        if others:
            raise TrickleError(f"the VM to move to has other versions of {', '.join(others)}")
        fresh = {key for key, same in found.items() if same is None}
        self.installer.install([e for e in journal if self.installer.key(e) in fresh])
        return fresh

    def _bindings(self, names: dict, objects: dict, fresh: set[tuple]) -> tuple[dict, list[str]]:
        """Which names to bind, and which mean something else here already."""
        bindings, conflicts = {}, []
        moved = {id(obj) for obj, _ in objects.values()}
        for key, obj in names.items():
            module, name = key
            space = self.installer.module(module).__dict__
            if name not in space or key in fresh:
                bindings[key] = obj
                continue
            is_exported = id(space[name]) in self.residents.ids
            if not _is_equal(space[name], obj) or (is_exported and id(obj) in moved):
                conflicts.append(name)
            elif not is_exported:
                bindings[key] = obj
        return bindings, conflicts


def _is_equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    try:
        return bool(one == other) or dumps(one, PROTOCOL) == dumps(other, PROTOCOL)
    except Exception:
        return False
