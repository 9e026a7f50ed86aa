# SPDX-License-Identifier: MIT
"""The fingerprint of a function: does a resumed program run the same code?

It is made from code objects, because they are what runs: a source file may have been edited since.
So it holds for one minor version of Python, whose releases have the same byte code. A function and
all that it uses of the program's own files are *parts*, each with a digest of its own, so that one
can say which of them has changed. What counts:

    functions   instructions, with constants where they are loaded; names; defaults; closure;
                attributes. Lines, file names, comments, annotations and docstrings (constants that
                no instruction loads) do not count.
    classes     bases, attributes, annotations; methods are parts of their own. The docstring does
                not count.
    globals     that code loads, as they are now: functions, classes, data. Of a module of the
                program what the code uses, or all of it where that cannot be seen. What has another
                value in each run, such as a time, makes another fingerprint in each run.
    data        plain values by value, sets in any order, dicts in theirs; other objects as pickle
                takes them apart, and by their class. What cannot be pickled (a lock, a generator)
                counts by its class and attributes; files, os.environ and the like by their class.
    installed   what belongs to Python or to an installed package: by name and the __version__ of
                the package

Nothing here depends on the process: no id, no hash order, no file name, no bytes of marshal; bytes
of a pickle only for data of more than NODES_MAX objects or deeper than DEPTH_MAX.
"""
from __future__ import annotations

import opcode
import sys
from _blake2 import blake2b
from _pickle import PickleBuffer, dumps
from copyreg import dispatch_table

from ._bundle import OWN_NAMES, is_code
from ._codec import PROTOCOL
from ._modules import is_local, is_submodule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FunctionType, ModuleType
    from typing import Any
else:
    FunctionType = type(is_local)
    CodeType = type(is_local.__code__)
    ModuleType = type(sys)

SIZE = 16
NODES_MAX = 100_000  # of one value; beyond it, and deeper than DEPTH_MAX, its pickle counts
DEPTH_MAX = 60
MANY = 16  # items from which on it pays to look whether all are of one type
CODES_MAX = 4096  # code objects whose scan is kept
PYTHON = "version of Python"  # among parts(): whose byte code it is

CellType = type((lambda x: lambda: x)(0).__closure__[0])
MappingProxyType = type(type.__dict__)
CO_NESTED = 0x10
NOT_CODE = OWN_NAMES | {"__file__"}
# Of a class: what says where it stands, what Python keeps about it.
NOT_OF_CLASS = frozenset({
    "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__abstractmethods__",
    "__firstlineno__", "__static_attributes__", "__annotate_func__", "__annotations_cache__"})
# Objects of these modules, and of this class, are states of the process.
OPAQUE = frozenset({"_abc", "_io", "_thread", "_weakref", "_weakrefset", "threading", "trickle",
                    "weakref", "os._Environ"})


def fingerprint(func: Any, names: dict[str, Any]) -> bytes:
    """16 bytes, the same as long as func and what it uses are the same. func: a function, any
    other callable, or the name of one that was injected. names: what was injected, by name; None
    for data (see note_data)."""
    return of_parts(parts(func, names))


def parts(func: Any, names: dict[str, Any]) -> dict[str, str]:
    """What the fingerprint is made of: func first, then all that it uses, with a digest of each.
    Plain data, to be kept for describe_change()."""
    return _collect(func, names) | {PYTHON: "%d.%d" % sys.version_info[:2]}


def of_parts(found: dict[str, str]) -> bytes:
    """The fingerprint of a function that has these parts."""
    lines = [next(iter(found)), *(f"{key} {found[key]}" for key in sorted(found) if key != PYTHON)]
    return _digest("\n".join(lines).encode("utf-8", "surrogatepass"))


def describe_change(old: dict[str, str], new: dict[str, str]) -> str:
    """What differs between the parts() of a function then and now; "" if nothing does."""
    root = _shown(next(iter(new), ""))
    if old.get(PYTHON) != new.get(PYTHON):
        return (f"{root} was run by Python {old.get(PYTHON)}, and this is Python "
                f"{new.get(PYTHON)}: code that was compiled by another Python counts as changed")
    changed = [_shown(key) for key in new if key in old and old[key] != new[key]]
    if not changed:
        changed = [_shown(key) for key in new if key not in old]
        if changed:
            return f"{root} uses {_listed(changed)} now"
        gone = [_shown(key) for key in old if key not in new]
        return f"{root} does not use {_listed(gone)} any more" if gone else ""
    others = [name for name in dict.fromkeys(changed) if name != root]
    have = "has" if len(others) == 1 else "have"
    if root not in changed:
        return f"{root} uses {_listed(others)}, which {have} changed"
    if not others:
        return f"{root} has changed"
    return f"{root} has changed, and so {have} {_listed(others)}, which it uses"


def note_data(name: str, obj: Any) -> None:
    """Data was injected under this name: what it is then counts for functions that use it."""
    _injected[name] = fingerprint(obj, {}).hex()


_injected: dict[str, str] = {}
_MISSING = object()


def _shown(key: str) -> str:
    return key.partition("#")[0]


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _digest(data: Any) -> bytes:
    return blake2b(data, digest_size=SIZE).digest()


# --- code objects ---------------------------------------------------------------------------

_OP = opcode.opmap
_HAS_CONST = frozenset(opcode.hasconst)
_CACHE, _EXTENDED = _OP.get("CACHE", -1), _OP["EXTENDED_ARG"]
_SMALL_INT = _OP.get("LOAD_SMALL_INT", -1)  # 3.14
# How many bits of the argument come before the number of the name.
_LOADS = {_OP[name]: bits for name, bits in (
    ("LOAD_GLOBAL", 1), ("LOAD_NAME", 0), ("LOAD_FROM_DICT_OR_GLOBALS", 0)) if name in _OP}
_ATTRS = {_OP[name]: bits for name, bits in (
    ("LOAD_ATTR", int(sys.version_info >= (3, 12))), ("LOAD_METHOD", 0)) if name in _OP}
_IMPORT = _OP["IMPORT_NAME"]


class _Code:
    """A code object, read once."""

    def __init__(self, code: CodeType) -> None:
        self.code = code  # so that its id stays its own
        # Names that it loads: (name, attribute, attribute of that, ...).
        self.chains: dict[tuple[str, ...], None] = {}
        self.imports: dict[tuple, None] = {}  # (level, module, names)
        out = bytearray()
        _text(out, code.co_name)
        out += b"%d %d %d %x|" % (code.co_argcount, code.co_posonlyargcount,
                                  code.co_kwonlyargcount, code.co_flags & ~CO_NESTED)
        for names in (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars):
            _text(out, "\n".join(names))
        out += code.co_exceptiontable
        self._read(code, out)
        self.digest = _digest(out)

    def _read(self, code: CodeType, out: bytearray) -> None:
        names, consts = code.co_names, code.co_consts
        chain: tuple[str, ...] = ()
        recent: tuple = (0, None)  # the last two constants: level and names of an import
        extended = 0
        raw = iter(code.co_code)
        for op, low in zip(raw, raw):
            if op == _CACHE:
                continue
            arg = extended | low
            if op == _EXTENDED:
                extended = arg << 8
                continue
            extended = 0
            if chain and op not in _ATTRS:
                self.chains[chain] = None
                chain = ()
            if op in _HAS_CONST:
                out += b"%d=" % op
                self._const(out, consts[arg])
                recent = recent[1], consts[arg]
                continue
            out += b"%d %d," % (op, arg)
            if op in _LOADS:
                chain = (names[arg >> _LOADS[op]],)
            elif chain:
                chain += (names[arg >> _ATTRS[op]],)
            elif op == _IMPORT:
                level, wanted = recent
                self.imports[level, names[arg], wanted or ()] = None
            elif op == _SMALL_INT:
                recent = recent[1], arg

    def _const(self, out: bytearray, const: Any) -> None:
        if isinstance(const, CodeType):
            inner = _scan(const)
            out += b"C" + inner.digest
            self.chains |= inner.chains
            self.imports |= inner.imports
        elif isinstance(const, tuple):
            out += b"(%d:" % len(const)
            for item in const:
                self._const(out, item)
        elif not _scalar(out, const):
            assert isinstance(const, frozenset), f"a constant of type {type(const)}"
            out += b"{%d:" % len(const)
            out += b"".join(sorted(map(self._const_digest, const)))

    def _const_digest(self, const: Any) -> bytes:
        out = bytearray()
        self._const(out, const)
        return _digest(out)


_codes: dict[int, _Code] = {}


def _scan(code: CodeType) -> _Code:
    known = _codes.get(id(code))
    if known is None:
        if len(_codes) >= CODES_MAX:
            _codes.clear()
        known = _codes[id(code)] = _Code(code)
    return known


# --- plain values ---------------------------------------------------------------------------


def _text(out: bytearray, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    out += b"s%d:" % len(data)
    out += data if len(data) <= 256 else _digest(data)


def _bytes(out: bytearray, data: Any) -> None:
    out += b"b%d:" % len(data)
    out += data if len(data) <= 256 else _digest(data)


def _scalar(out: bytearray, obj: Any) -> bool:
    """Writes it, if it is one."""
    kind = type(obj)
    if kind is str:
        _text(out, obj)
    elif kind is int:
        out += b"i%x;" % obj
    elif obj is None or kind is bool or obj is ... or obj is NotImplemented:
        out += b"!%s;" % repr(obj).encode()
    elif kind is float:
        out += b"f%s;" % obj.hex().encode()
    elif kind is bytes:
        _bytes(out, obj)
    elif kind is complex:
        out += b"c%s,%s;" % (obj.real.hex().encode(), obj.imag.hex().encode())
    else:
        return False
    return True


def _uniform(items: Any) -> bytes | None:
    """Many items of one plain type at once."""
    kinds = set(map(type, items))
    kind = kinds.pop()
    if kinds:
        return None
    if kind is str or kind is bytes:
        joined = kind().join(items)
        data = joined.encode("utf-8", "surrogatepass") if kind is str else joined
        head = b"S" if kind is str else b"B"
        return head + _digest(repr(list(map(len, items))).encode()) + _digest(data)
    if kind is int or kind is float:
        try:
            return (b"I" if kind is int else b"F") + _digest(repr(list(items)).encode())
        except ValueError:
            return None  # an int of thousands of digits
    return None


class _TooLarge(Exception):
    """A value has too many objects, or is nested too deeply, for a walk in Python."""


# --- all that a function uses ---------------------------------------------------------------


def _collect(func: Any, names: dict[str, Any]) -> dict[str, str]:
    walk = _Walk(names)
    if isinstance(func, str):
        walk.add_injected(func)
    else:
        walk.add_root(func)
    for key, write, obj in walk.todo:  # which grows
        out = bytearray()
        write(out, obj)
        walk.found[key] = _digest(out).hex()
    return walk.found


class _Walk:
    """found: the parts, in the order in which they were met. Parts refer to each other by key, so
    that it does not matter who calls whom in a circle."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self.found: dict[str, str] = {}
        self.todo: list[tuple] = []
        self.keys: dict[int, str] = {}  # id of a function, class or module -> key
        self.kept: list[Any] = []  # objects whose id is in keys
        self.open: dict[int, int] = {}  # id of an object that is being written -> depth
        self.nodes = 0

    # --- parts ---

    def add(self, key: str, write: Any, obj: Any) -> str:
        base, number = key, 1
        while key in self.found:
            number += 1
            key = f"{base}#{number}"  # another lambda, another closure of the same function
        self.found[key] = ""
        self.todo.append((key, write, obj))
        return key

    def add_root(self, func: Any) -> None:
        if not (_is_part(func) and _is_own(func)):
            self.add(_key_of(type(func)), self.data, func)
        else:
            self.part(func)

    def add_injected(self, name: str) -> str:
        """What has this name on the VMs."""
        obj = self.names.get(name)
        if obj is not None and _is_part(obj) and _is_own(obj):
            return self.part(obj)
        key = f"injected {name}"
        if key not in self.found:
            if obj is None:
                self.add(key, _text, _injected.get(name, ""))
            else:
                self.add(key, self.data, obj)
        return key

    def part(self, obj: Any) -> str:
        """The key of a function, class or module of the program."""
        key = self.keys.get(id(obj))
        if key is None:
            self.kept.append(obj)
            if isinstance(obj, ModuleType):
                key = self.add(f"module {obj.__name__}", self.module, obj)
            elif isinstance(obj, type):
                key = self.add(_key_of(obj), self.class_, obj)
            elif isinstance(obj, FunctionType):
                key = self.add(_key_of(obj), self.function, obj)
            else:
                key = self.add(_key_of(obj), self.wrapper, obj)
            self.keys[id(obj)] = key
        return key

    def function(self, out: bytearray, obj: FunctionType) -> None:
        code = _scan(obj.__code__)
        out += b"F" + code.digest
        self.data(out, obj.__defaults__)
        self.mapping(out, obj.__kwdefaults__ or {})
        for cell in obj.__closure__ or ():
            self.data(out, cell)
        self.mapping(out, obj.__dict__)
        self.uses(out, code, obj.__globals__)

    def wrapper(self, out: bytearray, obj: Any) -> None:
        """What functools.lru_cache and the like made of a function."""
        out += b"W"
        self.data(out, type(obj))
        self.data(out, obj.__wrapped__)

    def class_(self, out: bytearray, obj: type) -> None:
        out += b"K"
        self.data(out, type(obj))
        self.data(out, obj.__bases__)
        attributes = {name: value for name, value in vars(obj).items() if name not in NOT_OF_CLASS}
        enum = sys.modules.get("enum")
        if enum is not None and isinstance(obj, enum.EnumType):
            self.data(out, [(name, one.value) for name, one in obj.__members__.items()])
            attributes = {name: value for name, value in attributes.items()
                          if name not in obj.__members__ and not _is_made_by_enum(name, value)}
        self.mapping(out, attributes)

    def module(self, out: bytearray, obj: ModuleType) -> None:
        """All of it. Its submodules are there when somebody has imported them."""
        out += b"M"
        below = obj.__name__ + "."
        self.mapping(out, {
            name: value for name, value in list(vars(obj).items()) if name not in NOT_CODE and not (
                isinstance(value, ModuleType) and value.__name__.startswith(below))})

    def file(self, out: bytearray, code: CodeType) -> None:
        """A module that is not imported here, only there."""
        scanned = _scan(code)
        out += b"M" + scanned.digest
        self.imports(out, scanned, {})

    # --- what code uses ---

    def uses(self, out: bytearray, code: _Code, space: dict) -> None:
        is_main = space.get("__name__") == "__main__"  # which sees what is injected by name
        for chain in code.chains:
            name, *attributes = chain
            if name in NOT_CODE:
                continue
            _text(out, name)
            if name in space:
                self.used(out, space, name, attributes)
            if is_main and (name in _injected or name in self.names) and (
                    space.get(name, _MISSING) is not self.names.get(name)):
                _text(out, self.add_injected(name))  # there it stands for something else
        self.imports(out, code, space)

    def used(self, out: bytearray, space: dict, name: str, attributes: list[str]) -> None:
        """A global, or of a module of the program what is used of it."""
        obj = space[name]
        for attribute in attributes:
            if not isinstance(obj, ModuleType) or not _is_own(obj):
                break
            if attribute not in obj.__dict__:
                return  # it will fail there as it would here
            space, name, obj = obj.__dict__, attribute, obj.__dict__[attribute]
        if _is_part(obj) or isinstance(obj, ModuleType):
            self.data(out, obj)
            return
        module = space.get("__name__")
        key = name if module == "__main__" else f"{module}.{name}"
        if key not in self.found:
            self.add(key, self.data, obj)
        _text(out, key)

    def imports(self, out: bytearray, code: _Code, space: dict) -> None:
        """Import statements in functions."""
        for level, name, names in code.imports:
            if level:
                package = str(space.get("__package__") or "").split(".")
                name = ".".join([*package[:len(package) - level + 1], *([name] if name else [])])
            if not name or not is_local(name, may_search=True):
                continue
            module = sys.modules.get(name)
            if module is None:
                self.file_of(out, name)
            elif not names or "*" in names:
                self.data(out, module)
            for one in names:
                if module is not None and one in module.__dict__:
                    self.used(out, module.__dict__, one, [])
                elif is_submodule(name, one):
                    self.file_of(out, f"{name}.{one}")

    def file_of(self, out: bytearray, name: str) -> None:
        if name in sys.modules:
            self.data(out, sys.modules[name])
            return
        from importlib.util import find_spec
        try:
            spec = find_spec(name)
            code = spec.loader.get_code(name)  # type: ignore
        except Exception:
            return
        key = f"module {name}"
        if code is not None and key not in self.found:
            self.add(key, self.file, code)
        _text(out, key)

    # --- values ---

    def mapping(self, out: bytearray, items: dict[str, Any]) -> None:
        """Named things, whose order says nothing."""
        out += b"<%d:" % len(items)
        for name in sorted(items):
            _text(out, name)
            self.data(out, items[name])

    def data(self, out: bytearray, obj: Any) -> None:
        """Any value, from its top."""
        if self.open:
            self.value(out, obj)
            return
        size = len(out)
        try:
            self.value(out, obj)
        except (_TooLarge, RecursionError):
            self.open.clear()
            del out[size:]
            self.pickled(out, obj)
        self.nodes = 0

    def pickled(self, out: bytearray, obj: Any) -> None:
        try:
            out += b"P" + _digest(dumps(obj, PROTOCOL))
        except Exception:
            out += b"P?"
            self.value(out, type(obj))

    def value(self, out: bytearray, obj: Any) -> None:
        if _scalar(out, obj):
            return
        if _is_part(obj) or isinstance(obj, ModuleType):
            self.code(out, obj)
            return
        depth = len(self.open)
        if id(obj) in self.open:
            out += b"^%d;" % (depth - self.open[id(obj)])
            return
        self.nodes += 1
        if self.nodes > NODES_MAX or depth > DEPTH_MAX:
            raise _TooLarge
        self.open[id(obj)] = depth
        kind = type(obj)
        write = _KINDS.get(kind)
        if write is not None:
            write(self, out, obj)
        else:
            self.object(out, obj)
        del self.open[id(obj)]

    def code(self, out: bytearray, obj: Any) -> None:
        """A function, class or module: of the program by its key, else by name."""
        if _is_own(obj):
            out += b"U"
            _text(out, self.part(obj))
            return
        module = obj.__name__ if isinstance(obj, ModuleType) else str(obj.__module__)
        out += b"N"
        _text(out, f"{module} {getattr(obj, '__qualname__', '')} {_version(module)}")
        if isinstance(obj, FunctionType) and "<locals>" in obj.__qualname__:
            self.tuple(out, obj.__closure__ or ())
            self.value(out, obj.__defaults__)

    def tuple(self, out: bytearray, items: Any) -> None:
        out += b"(%d:" % len(items)
        if len(items) >= MANY:
            uniform = _uniform(items)
            if uniform is not None:
                out += uniform
                return
        for item in items:
            self.value(out, item)

    def list(self, out: bytearray, items: list) -> None:
        out += b"["
        self.tuple(out, items)

    def dict(self, out: bytearray, obj: Any) -> None:
        out += b"D"
        self.tuple(out, list(obj))
        self.tuple(out, list(obj.values()))

    def set(self, out: bytearray, obj: Any) -> None:
        out += b"{%s" % type(obj).__name__.encode()
        if len(obj) >= MANY and set(map(type, obj)) in ({str}, {bytes}, {int}):
            self.tuple(out, sorted(obj))
            return
        digests = []
        for item in obj:
            one = bytearray()
            self.value(one, item)
            digests.append(_digest(one))
        out += b"%d:" % len(digests) + b"".join(sorted(digests))

    def buffer(self, out: bytearray, obj: Any) -> None:
        out += type(obj).__name__.encode()
        _bytes(out, obj if type(obj) is bytearray else obj.raw())

    def cell(self, out: bytearray, obj: Any) -> None:
        try:
            content = obj.cell_contents
        except ValueError:
            out += b"_"  # empty
            return
        self.value(out, content)

    def of_parts(self, out: bytearray, obj: Any) -> None:
        """property, classmethod, staticmethod"""
        out += type(obj).__name__.encode()
        for name in ("fget", "fset", "fdel", "__func__"):
            self.value(out, getattr(obj, name, None))

    def a_code(self, out: bytearray, obj: CodeType) -> None:
        out += b"C" + _scan(obj).digest

    def object(self, out: bytearray, obj: Any) -> None:
        """As pickle takes it apart; a string stands for the name of a global."""
        kind = type(obj)
        try:
            module = kind.__module__
            if module.partition(".")[0] in OPAQUE or f"{module}.{kind.__name__}" in OPAQUE:
                raise TypeError("what is in it is of this process")
            reduce = dispatch_table.get(kind)
            reduced = reduce(obj) if reduce is not None else obj.__reduce_ex__(PROTOCOL)
        except Exception:
            self.opaque(out, obj)
            return
        out += b"O"
        if isinstance(reduced, str):
            module = str(getattr(obj, "__module__", ""))
            _text(out, f"{module} {reduced} {_version(module)}")
            return
        make, args, *rest = reduced
        self.value(out, make)
        self.tuple(out, args)
        for i, more in enumerate(rest):
            if i in (1, 2) and more is not None:
                more = list(more)  # items of a list, pairs of a dict
            self.value(out, more)

    def opaque(self, out: bytearray, obj: Any) -> None:
        out += b"?"
        kind = type(obj)
        self.value(out, kind)
        inside = getattr(obj, "__dict__", None) if _is_own(kind) else None
        if type(inside) is dict:
            self.mapping(out, inside)


_KINDS = {tuple: _Walk.tuple, list: _Walk.list, dict: _Walk.dict, MappingProxyType: _Walk.dict,
          set: _Walk.set, frozenset: _Walk.set, bytearray: _Walk.buffer,
          PickleBuffer: _Walk.buffer, CellType: _Walk.cell, property: _Walk.of_parts,
          classmethod: _Walk.of_parts, staticmethod: _Walk.of_parts, CodeType: _Walk.a_code}


def _is_part(obj: Any) -> bool:
    return isinstance(obj, (FunctionType, type)) or (
        type(obj).__module__.partition(".")[0] != "trickle" and is_code(obj))


def _is_made_by_enum(name: str, value: Any) -> bool:
    """What releases of Python put into such classes differs."""
    function = getattr(value, "__func__", value)
    return name[:1] == name[-1:] == "_" and not (
        isinstance(function, FunctionType) and _is_own(function))


def _is_own(obj: Any) -> bool:
    """Is it of the program's own files?"""
    name = obj.__name__ if isinstance(obj, ModuleType) else getattr(obj, "__module__", None)
    return not isinstance(name, str) or is_local(name)


def _key_of(obj: Any) -> str:
    module = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", type(obj).__qualname__)
    return name if module in ("__main__", None) else f"{module}.{name}"


def _version(module: str) -> str:
    root = module.partition(".")[0]
    found = sys.modules.get(root)
    version = getattr(found, "__version__", None) if root != "trickle" else None
    return version if isinstance(version, str) else ""
