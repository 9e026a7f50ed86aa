# SPDX-License-Identifier: MIT
"""The VM's side: answers requests of the initiator and runs its functions.

One Server per process, used by the compute thread only. What a request names is looked up in
the name space (the module __main__) or among the exported objects: those that proxies of the
initiator stand for, each counted once per reference that was sent.

How a value is answered:

    call    plain and picklable values by value; instances of injected classes, injected
            functions and classes, iterators, and what cannot be pickled by reference
    read    (attributes, items, iteration) immutable values by value, all else by reference, so
            that vm.table['a'].append(1) changes the object that is there
    fetch   by value
"""
from __future__ import annotations

import builtins
import operator
import os
import sys
from _pickle import Pickler, dumps, loads
from io import BytesIO
from time import monotonic

from . import _codec, _trickle
from ._codec import PROTOCOL, dumps_large, dumps_value, first_line, is_large, loads_value
from ._install import Installer
from ._special import BINARY, COMPARE, INPLACE, NAMES, NAMESPACE_ID, UNARY
from .errors import Elsewhere, Moved, TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType, ModuleType
    from typing import Any
else:
    FunctionType = type(dumps_value)

PACKAGE = os.path.dirname(__file__) + os.sep
METHODS_MAX = 256
CHUNK_SECONDS = 0.002

_trickle.set_exceptions({"": TrickleError, "ENOMEM": MemoryError, "ETOOBIG": ValueError})

_IMMUTABLE = frozenset({type(None), bool, int, float, complex, str, bytes, range, type(...),
                        type(NotImplemented)})
_IMMUTABLE_NAMES = frozenset({
    ("datetime", "date"), ("datetime", "time"), ("datetime", "datetime"),
    ("datetime", "timedelta"), ("datetime", "timezone"), ("decimal", "Decimal"),
    ("fractions", "Fraction"), ("uuid", "UUID"), ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"), ("pathlib", "PureWindowsPath"), ("re", "Pattern"),
    ("ipaddress", "IPv4Address"), ("ipaddress", "IPv6Address")})


class _Reference:
    """In the place of an object while an answer is pickled."""

    __slots__ = ("reduced",)

    def __init__(self, reduced: tuple) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple:
        return self.reduced


def _is_enum_member(obj: Any) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and isinstance(obj, enum.Enum)


class Residents:
    """The objects that the initiator holds proxies of."""

    def __init__(self, namespace: ModuleType, installer: Installer) -> None:
        self.namespace = namespace
        self.installer = installer
        self.is_injected = installer.is_injected
        self.entries: dict[int, list] = {NAMESPACE_ID: [namespace, 1]}
        self.ids: dict[int, int] = {id(namespace): NAMESPACE_ID}
        # No two VMs use the same numbers, so that objects can move and keep theirs.
        self.last_id = int.from_bytes(os.urandom(5), "big") << 23 | NAMESPACE_ID
        self.has_moved = False  # objects of this VM have gone to another
        self.kinds: dict[type, str] = {}
        self.sent: list[int] = []  # ids counted for the answer that is being pickled

    def get(self, object_id: int) -> Any:
        entry = self.entries.get(object_id)
        if entry is None and self.has_moved:
            raise Elsewhere("this object has moved to another VM")
        if entry is None:
            raise TrickleError(f"the remote object {object_id} has been released already")
        return entry[0]

    def lookup(self, name: str) -> Any:
        try:
            return self.namespace.__dict__[name]
        except KeyError:
            pass
        try:
            return _OWN_BUILTINS[name]
        except KeyError:
            pass
        try:
            return builtins.__dict__[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r} on this VM: inject it first, "
                                 f"trickle.inject(vm, {name})") from None

    def reference(self, obj: Any) -> tuple:
        """How obj is pickled by reference; counts that one more was sent."""
        object_id = self.ids.get(id(obj))
        if object_id is None:
            object_id = self.last_id = self.last_id + 1
            self.ids[id(obj)] = object_id
            self.entries[object_id] = [obj, 0]
        self.entries[object_id][1] += 1
        self.sent.append(object_id)
        cls = type(obj)
        kind = self.kinds.get(cls)
        if kind is None:
            kind = self.kinds[cls] = describe(cls)
        return _codec.reference, (object_id, kind)

    def release(self, object_id: int) -> None:
        entry = self.entries.get(object_id)
        if entry is None or object_id == NAMESPACE_ID:
            return
        entry[1] -= 1
        if entry[1] == 0:
            self.forget(object_id)

    def forget(self, object_id: int) -> None:
        obj = self.entries.pop(object_id)[0]
        if self.ids.get(id(obj)) == object_id:
            del self.ids[id(obj)]

    def adopt(self, object_id: int, obj: Any, count: int) -> None:
        """An object that comes from another VM, with its number there. One that stays the same in
        every pickle (a function, a class) may have one here too."""
        self.entries[object_id] = [obj, count]
        self.ids.setdefault(id(obj), object_id)

    def take_back(self) -> None:
        """The answer is not sent after all: its references do not count."""
        for object_id in self.sent:
            self.release(object_id)
        self.sent.clear()

    def stays(self, obj: Any) -> bool:
        """True for what a call answers by reference although it may be picklable."""
        cls = type(obj)
        if self.is_injected(cls):
            return not _is_enum_member(obj)
        if hasattr(cls, "__next__"):
            return True  # the state of an iterator is the point of it
        return isinstance(obj, (type, FunctionType)) and self.is_injected(obj)


class _Answer(Pickler):
    """Pickles what a call returned. Plain containers and scalars never reach Python code."""

    residents: Residents

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not _Reference and self.residents.stays(obj):
            return self.residents.reference(obj)
        return NotImplemented


def describe(cls: type) -> str:
    """What a proxy has to know of a type: its name, special methods and other methods."""
    mask = 0
    for i, name in enumerate(NAMES):
        if _type_has(cls, name):
            mask |= 1 << i
    methods: dict[str, None] = {}
    for base in cls.__mro__[:-1]:
        for name, value in vars(base).items():
            is_method = isinstance(value, (FunctionType, classmethod, staticmethod)) or type(
                value).__name__ in ("method_descriptor", "classmethod_descriptor",
                                    "cython_function_or_method")
            if is_method and not (name.startswith("__") and name.endswith("__")):
                methods[name] = None
    names = list(methods) if len(methods) <= METHODS_MAX else []
    module = "" if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}."
    return f"{module}{cls.__qualname__}\n{mask:x}\n{','.join(names)}"


def _type_has(cls: type, name: str) -> bool:
    """As Python looks up special methods: on the type, never on the type's own type."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name] is not None
    return False


def _special(obj: Any, name: str, args: tuple) -> Any:
    method = getattr(type(obj), name)
    return method(obj, *args)


def _own_special(name: str) -> Callable[..., Any]:
    return lambda obj, *args: _special(obj, name, args)


def _power(obj: Any, other: Any, modulus: Any = None) -> Any:
    return pow(obj, other) if modulus is None else pow(obj, other, modulus)


def _make_operators() -> dict[str, Callable[..., Any]]:
    """Special method -> the whole operator: both sides have their say here, where both are."""
    table = {name: _own_special(name) for name in UNARY}
    for name in (*BINARY, *COMPARE, *INPLACE):
        table[name] = getattr(operator, name, None) or divmod
    for name in (*BINARY, "__pow__"):
        forward = table.get(name, _power)
        table["__r" + name[2:]] = lambda obj, other, forward=forward: forward(other, obj)
    table.update({
        "__pow__": _power, "__hash__": hash, "__len__": len, "__abs__": abs, "__bool__": bool,
        "__str__": str, "__repr__": repr, "__format__": format, "__dir__": dir,
        "__contains__": operator.contains, "__round__": round, "__next__": next,
        "__getitem__": operator.getitem, "__setitem__": operator.setitem,
        "__delitem__": operator.delitem, "__delattr__": delattr,
        "__enter__": _own_special("__enter__"),
        "__exit__": lambda obj, error: _special(obj, "__exit__", (
            None if error is None else type(error), error, None)),
    })
    return table


_OPERATORS = _make_operators()
_READS = frozenset({"__getitem__", "__next__", "__enter__"})
_OWN_BUILTINS: dict[str, Callable[..., Any]] = {}


class Server:
    """What _trickle.serve() calls. namespace: the module that user code sees as __main__."""

    version = ".".join(map(str, sys.version_info[:3]))
    moved = Moved

    def __init__(self, namespace: ModuleType) -> None:
        self.namespace = namespace
        self.installer = Installer(namespace)
        self.residents = Residents(namespace, self.installer)
        self.pending: dict[int, BaseException] = {}  # iterator id -> what its last chunk met
        self.mover: Any = None
        _codec.residents = self.residents
        self._operations = {
            _trickle.OP_CALL: self._call, _trickle.OP_GETATTR: self._getattr,
            _trickle.OP_SETATTR: self._setattr, _trickle.OP_DELETE: self._delete,
            _trickle.OP_FETCH: self._fetch, _trickle.OP_INJECT: self._inject}
        self._protocol = {"*iter": self._iter, "*reversed": self._reversed, "*next": self._next,
                          "*apply": self._apply, "*copy": self._copy,
                          "*deepcopy": self._copy, "*move": self._move}
        _OWN_BUILTINS.update(_own_builtins(namespace.__dict__))

    # --- requests ---

    def request(self, op: int, object_id: int, name: str, payload: memoryview,
                ) -> tuple[int, bytes]:
        """One request: (STATUS_OK, value) or (STATUS_EXCEPTION, what was raised)."""
        try:
            answer = self._operations[op](object_id, name, payload)
            self.residents.sent.clear()
            return 0, answer
        except BaseException as error:
            self.residents.take_back()
            return 1, self.dump_exception(error)
        finally:
            _flush()

    def _call(self, object_id: int, name: str, payload: memoryview) -> bytes:
        args: Any = ()
        kwargs: dict = {}
        if len(payload):
            args = _trickle.decode(payload, loads_value)
            if type(args) is list:
                args, kwargs = args
        if object_id == 0:
            return self._value(self.residents.lookup(name)(*args, **kwargs))
        if name[0] == "*":
            return self._protocol[name](object_id, name, args)
        obj = self.residents.get(object_id)
        if name == "__call__":
            return self._value(obj(*args, **kwargs))
        operation = _OPERATORS.get(name)
        if operation is None:
            return self._value(getattr(obj, name)(*args, **kwargs))
        value = operation(obj, *args)
        if name in _READS and not (name == "__getitem__" and type(args[0]) is slice
                                   and type(obj) in (list, bytearray)):
            return self._read(value)
        if name in INPLACE and value is obj:
            return dumps(_Reference(self.residents.reference(value)), PROTOCOL)
        return self._value(value)

    def _getattr(self, object_id: int, name: str, payload: memoryview) -> bytes:
        if object_id == 0:
            return self._read(self.residents.lookup(name))
        return self._read(getattr(self.residents.get(object_id), name))

    def _setattr(self, object_id: int, name: str, payload: memoryview) -> bytes:
        target = self.residents.get(object_id or NAMESPACE_ID)
        setattr(target, name, _trickle.decode(payload, loads_value))
        return _NONE

    def _delete(self, object_id: int, name: str, payload: memoryview) -> bytes:
        self.pending.pop(object_id, None)
        self.residents.release(object_id)
        return _NONE

    def _fetch(self, object_id: int, name: str, payload: memoryview) -> bytes:
        return _trickle.encode(self.residents.get(object_id), dumps_value)

    def _inject(self, object_id: int, name: str, payload: memoryview) -> bytes:
        self.installer.install(loads(payload))
        return _NONE

    # --- what calls of proxies use beside methods ---

    def _iter(self, object_id: int, name: str, args: tuple) -> bytes:
        return self._first_chunk(iter(self.residents.get(object_id)), args[0])

    def _reversed(self, object_id: int, name: str, args: tuple) -> bytes:
        return self._first_chunk(reversed(self.residents.get(object_id)), args[0])

    def _first_chunk(self, iterator: Any, count: int) -> bytes:
        is_done, items, error = _take(iterator, count)
        if is_done:
            return self._pickle((None, True, self._readable(items)))
        mark = _Reference(self.residents.reference(iterator))
        if error is not None:
            self.pending[self.residents.ids[id(iterator)]] = error
        return self._pickle((mark, False, self._readable(items)))

    def _next(self, object_id: int, name: str, args: tuple) -> bytes:
        error = self.pending.pop(object_id, None)
        if error is not None:
            raise error
        is_done, items, error = _take(self.residents.get(object_id), args[0])
        if error is not None:
            self.pending[object_id] = error
        return self._pickle((is_done, self._readable(items)))

    def _apply(self, object_id: int, name: str, args: tuple) -> bytes:
        function, positional, by_name = args
        return self._value(function(*positional, **by_name))

    def _copy(self, object_id: int, name: str, args: tuple) -> bytes:
        import copy
        make = copy.copy if name == "*copy" else copy.deepcopy
        return self._value(make(self.residents.get(object_id)))

    def _move(self, object_id: int, name: str, args: tuple) -> bytes:
        """A step of a migration: see _moving.Mover."""
        if self.mover is None:
            from ._moving import Mover
            self.mover = Mover(self)
        step, *rest = args
        return dumps(getattr(self.mover, step)(*rest), PROTOCOL)

    # --- answers ---

    def _value(self, value: Any) -> bytes:
        """The answer of a call."""
        return _trickle.encode(value, self._pickle_or_refer)

    def _pickle_or_refer(self, value: Any) -> bytes:
        if is_large(value):
            return dumps_large(value)
        if not self.residents.stays(value):
            try:
                return self._pickle(value)
            except MemoryError:
                raise
            except Exception:
                self.residents.take_back()
        return dumps(_Reference(self.residents.reference(value)), PROTOCOL)

    def _pickle(self, value: Any) -> bytes:
        buffer = BytesIO()
        pickler = _Answer(buffer, PROTOCOL)
        pickler.residents = self.residents
        pickler.dump(value)
        return buffer.getvalue()

    def _read(self, value: Any) -> bytes:
        """The answer of a read."""
        return _trickle.encode(self._readable_one(value), dumps_value)

    def _readable_one(self, value: Any) -> Any:
        cls = type(value)
        if cls in _IMMUTABLE:
            return value
        if cls is tuple:
            return tuple([self._readable_one(item) for item in value])
        if cls is frozenset and all(type(item) in _IMMUTABLE for item in value):
            return value
        if (cls.__module__, cls.__name__) in _IMMUTABLE_NAMES or _is_enum_member(value):
            return value
        return _Reference(self.residents.reference(value))

    def _readable(self, items: list) -> list:
        return [self._readable_one(item) for item in items]

    # --- work ---

    def stage_open(self, function: memoryview) -> tuple[Callable[[Any], Any], dict[str, Any]]:
        """The function of a forkwork: what it needs is installed, then it is looked up. Beside it,
        what element() says of all of its elements: the names of job and stage."""
        units, where, name, *more = loads(function)
        for unit in units:
            self.installer.install(unit)
        found = self.installer.find(where, name)
        if not callable(found):
            raise TypeError(f"{name} on this VM is a {type(found).__name__}, not a function")
        about = more[0] if more else {"job": None, "stage": name}
        notes = os.environ.get("TRICKLE_NOTES")
        if notes:
            from ._notes import noted
            found = noted(found, notes, about["stage"])
        return found, about

    dumps = staticmethod(dumps_value)
    loads = staticmethod(loads_value)

    def dump_exception(self, error: BaseException) -> bytes:
        """Describes what user code raised, with the traceback as it is here."""
        try:
            return _codec.dump_exception(error, self._traceback(error))
        except Exception as own:
            text = f"an exception that cannot be described ({first_line(own)})"
            return _codec.dump_exception(TrickleError(text), text)

    def _traceback(self, error: BaseException) -> str:
        import traceback
        self.installer.fill_linecache()
        seen = set()
        link: BaseException | None = error
        while link is not None and id(link) not in seen:
            seen.add(id(link))
            place = link.__traceback__
            while place and place.tb_frame.f_code.co_filename.startswith(PACKAGE):
                place = place.tb_next
            link.__traceback__ = place
            link = link.__cause__ or link.__context__
        try:
            return "".join(traceback.format_exception(type(error), error, error.__traceback__))
        except Exception as own:
            return f"(the traceback cannot be shown: {first_line(own)})\n"


_NONE = dumps(None, PROTOCOL)


def _take(iterator: Any, count: int) -> tuple[bool, list, BaseException | None]:
    """Up to count items, fewer when they come slowly: (is at its end, items, what was raised)."""
    items: list = []
    end = monotonic() + CHUNK_SECONDS
    try:
        for item in iterator:
            items.append(item)
            if len(items) >= count or monotonic() > end:
                return False, items, None
    except Exception as error:
        return False, items, error
    return True, items, None


def _own_builtins(space: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """Builtins that look at their caller's frame: here that is the VM's name space."""
    return {
        "exec": lambda code, where=None, local=None: exec(
            code, space if where is None else where, local),
        "eval": lambda code, where=None, local=None: eval(
            code, space if where is None else where, local),
        "globals": lambda: space,
        "locals": lambda: space,
        "vars": lambda *obj: vars(*obj) if obj else space,
        "dir": lambda *obj: dir(*obj) if obj else sorted(space),
    }


def _flush() -> None:
    """What was printed without a newline is to be seen when the call returns."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # user code may have closed or replaced it
