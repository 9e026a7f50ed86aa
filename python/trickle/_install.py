# SPDX-License-Identifier: MIT
"""The VM's half of injection: turns the entries of a bundle (see _bundle) into code and data.

Code of the initiator's __main__ lives in the VM's __main__. Code of its other modules lives in a
module of the same name here: imported from the source that was sent where the whole file came
along, else made for the purpose and holding just what was sent.

What comes along as a dependency is not installed again while the same thing is already there:
a class keeps its identity and a counter its value when a second function that uses it arrives.
"""
from __future__ import annotations

import sys
from _pickle import Unpickler, loads
from io import BytesIO

from . import _codec
from ._source import compile_snippet, function_code
from .errors import TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType, ModuleType
    from typing import Any
else:
    FunctionType = type(compile_snippet)
    ModuleType = type(sys)

CLOUDPICKLE = "_trickle_cloudpickle"  # the initiator's cloudpickle is a package of this name here


class ShippedModules:
    """A meta path finder for modules whose source the initiator sent."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, bool, str]] = {}  # name -> path, is package, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.files:
            return None
        from importlib.machinery import ModuleSpec
        filename, is_package, _ = self.files[name]
        spec = ModuleSpec(name, self, origin=filename, is_package=is_package)  # type: ignore
        spec.has_location = True
        return spec

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        filename, _, source = self.files[module.__name__]
        exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)

    def get_source(self, name: str) -> str:
        return self.files[name][2]


class Installer:
    def __init__(self, namespace: ModuleType) -> None:
        self.namespace = namespace
        self.shipped = ShippedModules()
        self.own = {"__main__"}  # names of the modules whose code the initiator sent
        self.made: set[str] = set()  # of these, the ones made here for single functions
        self.done: dict[tuple[str, str], Any] = {}
        self.journal: dict[tuple, None] = {}  # all entries, without data, in order
        self.bound: dict[tuple[str, str], Any] = {}  # (module, name) -> what code entries made
        self.needed: set[tuple[str, str]] = set()  # data that functions use
        self.lines: dict[str, dict[int, str]] = {}  # file name -> line number -> text
        self.kinds: dict[str, Callable[..., None]] = {
            "file": self._file, "source": self._source, "code": self._code,
            "value": self._value, "import": self._import, "alias": self._alias,
            "cloudpickle": self._cloudpickle}
        sys.meta_path.insert(0, self.shipped)  # type: ignore[arg-type]

    def is_injected(self, obj: Any) -> bool:
        """Is it a class or function that the initiator sent, or code here made?"""
        return getattr(obj, "__module__", None) in self.own

    def install(self, entries: list[tuple]) -> None:
        for entry in entries:
            kind = entry[0]
            self.kinds[kind](*entry[1:])
            if kind == "value":
                if entry[-1]:
                    self.needed.add(entry[1:3])
                entry = entry[:3]
            elif kind in ("source", "code", "cloudpickle"):
                entry = (*entry[:-1], True)
            if kind not in ("value", "file"):
                self.bound[entry[1:3]] = self.space(entry[1]).get(entry[2])
            self.journal[entry] = None

    def find(self, module: str, name: str) -> Any:
        found: Any = self.module(module)
        if name in found.__dict__:
            return found.__dict__[name]  # names of local functions have dots in them
        first, *rest = name.split(".")
        found = _codec.residents.lookup(first) if module == "__main__" else getattr(found, first)
        for part in rest:
            found = getattr(found, part)
        return found

    def space(self, module: str) -> dict[str, Any]:
        """The globals of a module, if it is there."""
        if module == "__main__":
            return self.namespace.__dict__
        return getattr(sys.modules.get(module), "__dict__", {})

    def module(self, name: str) -> ModuleType:
        """The module of this name: the name space, what was imported already, what was shipped,
        else a new one for single functions."""
        if name == "__main__":
            return self.namespace
        self.own.add(name)
        module = sys.modules.get(name)
        if module is None and name in self.shipped.files:
            module = _import(name)
        if module is None:
            module = ModuleType(name)
            module.__dict__["__builtins__"] = sys.modules["builtins"]
            sys.modules[name] = module
            self.made.add(name)
        return module

    def _is_done(self, module: str, name: str, entry: Any, is_dependency: bool) -> bool:
        """Nothing is to be done for a dependency that is there as it should be."""
        key = (module, name)
        if is_dependency and self.done.get(key) == entry and (
                "." in name or name in self.module(module).__dict__):
            return True
        if is_dependency and module in self.shipped.files and module not in self.made and (
                name in self.module(module).__dict__):
            return True  # its whole file was executed here
        self.done[key] = entry
        return False

    # --- for migration, see _moving ---

    def place_of(self, obj: Any) -> tuple[str, str] | None:
        """Where code that was sent, or comes with such code, is found by name; else None."""
        for place, made in self.bound.items():
            if made is obj:
                return place
        module, name = obj.__module__, obj.__qualname__
        first = name.partition(".")[0]
        if (module, first) not in self.bound and module not in self.shipped.files:
            return None
        try:
            return (module, name) if self.find(module, name) is obj else None
        except AttributeError:
            return None

    def key(self, entry: tuple) -> tuple:
        """What an entry of the journal is about."""
        if entry[0] == "file":
            return "file", entry[1]
        return ("import", entry[3]) if entry[0] == "import" and not entry[2] else entry[1:3]

    def compare(self, entry: tuple) -> bool | None:
        """None: nothing of that name is here; True: it is here just so; False: it is another."""
        kind, where = entry[0], entry[1]
        if kind == "file":
            here = self.shipped.files.get(where)
            return None if here is None else here == entry[2:5]
        if kind == "import" and not entry[2]:
            return None
        key = entry[1:3]
        found = self.space(where).get(entry[2], _MISSING)
        if kind in ("source", "code", "cloudpickle"):
            if key in self.done and (found is not _MISSING or "." in key[1]):
                return self.done[key] == _fingerprint(entry)
            return None if found is _MISSING else False
        if found is _MISSING:
            return None
        if kind == "import":
            return getattr(found, "__name__", None) == entry[3]
        if kind == "alias":
            try:
                return found is self.find(*entry[3:5])
            except AttributeError:
                return False
        return True  # data is compared when all of it is there

    def snapshot(self) -> tuple:
        """For restore()."""
        spaces = {name: dict(self.space(name)) for name in self.own if name in sys.modules}
        return (spaces, set(self.own), set(self.made), dict(self.done), dict(self.shipped.files),
                dict(self.journal), dict(self.bound), set(self.needed))

    def restore(self, snapshot: tuple) -> None:
        """Undoes what was installed since."""
        spaces = snapshot[0]
        for name in self.own:
            if name in spaces:
                space = self.space(name)
                space.clear()
                space.update(spaces[name])
            else:
                sys.modules.pop(name, None)
        (_, self.own, self.made, self.done, self.shipped.files, self.journal, self.bound,
         self.needed) = snapshot

    # --- the kinds of entries ---

    def _file(self, name: str, filename: str, is_package: bool, source: str) -> None:
        before = self.shipped.files.get(name)
        self.shipped.files[name] = (filename, is_package, source)
        self.own.add(name)
        self._keep_lines(filename, 1, source)
        module = sys.modules.get(name)
        if module is None or before == self.shipped.files[name]:
            return
        if name in self.made or before is not None:
            self.made.discard(name)
            module.__dict__.setdefault("__file__", filename)
            self.shipped.exec_module(module)

    def _source(self, module: str, name: str, filename: str, lineno: int, text: str, flags: int,
                is_dependency: bool) -> None:
        entry = ("source", module, name, filename, lineno, text)
        if self._is_done(module, name, _fingerprint(entry), is_dependency):
            return
        self._keep_lines(filename, lineno, text)
        exec(compile_snippet(text, filename, lineno, flags), self.module(module).__dict__)

    def _code(self, module: str, name: str, filename: str, lineno: int, text: str, flags: int,
              names: tuple[str, str], defaults: bytes, is_dependency: bool) -> None:
        """A function without its def statement: decorators and defaults are not evaluated here,
        the defaults come as values."""
        entry = ("code", module, name, filename, lineno, text, flags, names, defaults)
        if self._is_done(module, name, _fingerprint(entry), is_dependency):
            return
        self._keep_lines(filename, lineno, text)
        compiled = compile_snippet(text, filename, lineno, flags)
        short, qualname = names
        code = function_code(compiled, short)
        positional, by_keyword, attributes = loads(defaults)
        space = self.module(module).__dict__
        function = FunctionType(code, space, short, positional)
        function.__kwdefaults__ = by_keyword
        function.__qualname__ = qualname
        function.__module__ = module
        function.__dict__.update(attributes)
        space[name] = function

    def _value(self, module: str, name: str, data: bytes, is_dependency: bool) -> None:
        if not self._is_done(module, name, _fingerprint(("value", module, name, data)),
                             is_dependency):
            self.module(module).__dict__[name] = loads(data)

    def _import(self, module: str, name: str, target: str, others: tuple[str, ...]) -> None:
        found = _import(target)
        for other in others:
            _import(other)
        if name:
            self.module(module).__dict__[name] = found

    def _alias(self, module: str, name: str, origin: str, original: str) -> None:
        self.module(module).__dict__[name] = self.find(origin, original)

    def _cloudpickle(self, module: str, name: str, data: bytes, python: tuple[int, int],
                     shipped: bytes, is_dependency: bool) -> None:
        check_version(name, python, sys.version_info[:2], "this VM")
        entry = ("cloudpickle", module, name, data)
        if self._is_done(module, name, _fingerprint(entry), is_dependency):
            return
        if CLOUDPICKLE not in self.shipped.files:
            import zlib
            for file, source in loads(zlib.decompress(shipped)).items():
                where = f"{CLOUDPICKLE}.{file}".removesuffix(".__init__")
                self.shipped.files[where] = (f"<{where}>", file == "__init__", source)
        self.module(module).__dict__[name] = _Shipped(BytesIO(data)).load()

    # --- tracebacks ---

    def _keep_lines(self, filename: str, lineno: int, text: str) -> None:
        kept = self.lines.setdefault(filename, {})
        for number, line in enumerate(text.splitlines(keepends=True), lineno):
            kept[number] = line

    def fill_linecache(self) -> None:
        """Gives tracebacks the lines of what was sent, which may have no file here."""
        import linecache
        while self.lines:
            filename, new = self.lines.popitem()
            entry = linecache.cache.get(filename)
            lines = list(entry[2]) if entry is not None and len(entry) == 4 and (
                entry[1] is None) else []  # type: ignore[misc]
            lines += ["\n"] * (max(new) - len(lines))
            for number, line in new.items():
                lines[number - 1] = line
            linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)


_MISSING = object()


def _fingerprint(entry: tuple) -> tuple:
    """Entries of one name with the same fingerprint make the same thing."""
    if entry[0] == "source":
        return entry[3:6]
    if entry[0] == "code":
        return *entry[3:6], entry[8]
    return len(entry[3]), hash(entry[3])


class _Shipped(Unpickler):
    """Finds functions of cloudpickle in the initiator's version, whatever is installed here."""

    def find_class(self, module: str, name: str) -> Any:
        package, _, rest = module.partition(".")
        if package == "cloudpickle":
            module = f"{CLOUDPICKLE}.{rest or package}"
        return super().find_class(module, name)


def shown(name: str) -> str:
    """A name for people: local functions go under names that say where they are from."""
    return name.partition("@")[0].rpartition(".")[2]


def check_version(name: str, made: tuple[int, ...], there: tuple[int, ...], where: str) -> None:
    """Byte code is for one minor version of Python only."""
    if tuple(made) != tuple(there):
        raise TrickleError(
            f"{shown(name)} has no source that can be sent, so it goes as byte code of Python "
            f"{made[0]}.{made[1]}, and {where} is Python {there[0]}.{there[1]}: define it with "
            f"def in a file, without variables of an enclosing function, or start the VMs with "
            f"the same Python (trickle vm --python PATH)")


def _import(name: str) -> ModuleType:
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        error.add_note(f"The code that was injected uses the module {error.name}, which the "
                       f"Python of this VM ({sys.executable}, {sys.version.split()[0]}) does not "
                       "have: install it there, or start VMs with another Python, "
                       "trickle vm --python PATH.")
        raise
    return sys.modules[name]


def global_name(module: str, name: str) -> Any:
    """In pickles of injected data: a function or class that came with it."""
    return _codec.residents.installer.find(module, name)


def module_named(name: str) -> ModuleType:
    """In pickles of injected data: a module."""
    return _import(name)
