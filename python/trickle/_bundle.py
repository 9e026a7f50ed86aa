# SPDX-License-Identifier: MIT
"""The initiator's half of injection: an object, and all that it uses from its own file, as a list
of entries that _install carries out on a VM in order.

    file         a local module, whole: importable on the VM
    source       a def, class or assignment statement, executed in its module
    code         a function without its statement (lambda, local function): code and defaults
    value        data, pickled
    import       a name for a module
    alias        a second name for something that is there
    cloudpickle  what has neither source nor a pickle: closures, local classes, prompt input

A name is followed when the code uses it as a global: functions and classes by source, modules by
import, all else by value, as it is now. What a statement needs while it is executed (base classes,
decorators, defaults) comes before it, what function bodies need may come after it.
"""
from __future__ import annotations

import sys
from _pickle import Pickler, dumps
from io import BytesIO

from . import _install, _source
from ._codec import PROTOCOL, first_line, type_name
from ._install import shown
from ._modules import is_local, module_file, submodules_used
from .errors import TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FunctionType, ModuleType
    from typing import Any
else:
    FunctionType = type(is_local)
    ModuleType = type(sys)

# Globals that every module has, or makes for itself.
OWN_NAMES = frozenset({"__name__", "__builtins__", "__doc__", "__spec__", "__package__",
                       "__loader__", "__annotations__", "__cached__", "__path__"})
# Types of objects that pickle as a global name, which exists on the VM only when it is sent.
NAMED_TYPES = frozenset({"TypeVar", "ParamSpec", "TypeVarTuple", "NewType", "TypeAliasType"})


class Bundle:
    def __init__(self) -> None:
        self.entries: list[tuple] = []
        self.done: set[tuple[str, str]] = set()  # (module, name): taken care of, or under way
        self.places: dict[int, tuple[str, str] | None] = {}
        self.kept: list[Any] = []  # objects whose id is in places
        self.files: set[str] = set()
        self.cloudpickled: str | None = None  # what needs the same Python on the VM

    # --- the entry points ---

    def add_named(self, name: str, obj: Any) -> None:
        """obj under a name in the VM's name space."""
        if isinstance(obj, ModuleType):
            self.bind_module("__main__", name, obj, ())
            return
        if is_code(obj):
            place = self.place(obj)
            if place is not None:
                self.entries = [_explicit(e) if e[1:3] == place else e for e in self.entries]
                if place != ("__main__", name):
                    self.entries.append(("alias", "__main__", name, *place))
                return
        self.value("__main__", name, obj, False)

    def add_function(self, function: Any) -> tuple[str, str]:
        """A function of work, not bound to a name: where the VM finds it."""
        place = self.place(function)
        if place is None:
            place = ("__main__", f"{getattr(function, '__qualname__', type_name(function))}@work")
            self.value(*place, function, False)
        return place

    # --- functions and classes ---

    def place(self, obj: Any) -> tuple[str, str] | None:
        """Sees to it that a function or class is on the VM: (module, name) there. None: it can
        only go by value."""
        key = id(obj)
        if key not in self.places:
            self.kept.append(obj)
            self.places[key] = None
            self.places[key] = self._place(obj)
        return self.places[key]

    def _place(self, obj: Any) -> tuple[str, str] | None:
        module = _module_of(obj)
        qualname = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", "")
        if not is_local(module):
            return None  # its module is on the VM: pickled by name
        space = space_of(obj, module)
        if "<" not in qualname and "." in qualname:
            outer = space.get(qualname.partition(".")[0])
            if is_code(outer) and _resolve(space, qualname) is obj and self.place(outer):
                return module, qualname
        elif "<" not in qualname and space.get(qualname, obj) is obj:
            snippet = _statement_of(obj, qualname, space)
            if snippet is not None:
                self.places[id(obj)] = (module, qualname)
                self.statement(module, qualname, snippet, space)
                return module, qualname
        if isinstance(obj, FunctionType) and not obj.__code__.co_freevars:
            return self._function_code(obj, module, qualname)
        return None

    def statement(self, module: str, name: str, snippet: _source.Snippet, space: dict) -> None:
        if (module, name) in self.done:
            return
        self.done.add((module, name))
        early, late = snippet.names()
        self._imports_in(snippet, space)
        self.names(module, early, space, snippet)
        self.entries.append(("source", module, name, snippet.filename, snippet.lineno,
                             snippet.text, snippet.flags, True))
        self.names(module, late, space, snippet)
        for other in _source.registered_with(name, space):
            self.statement(module, f"{name}.register:{other.lineno}", other, space)

    def _function_code(self, function: FunctionType, module: str, qualname: str,
                       ) -> tuple[str, str] | None:
        snippet = _source.of_function(function)
        if snippet is None:
            return None
        code = function.__code__
        name = qualname if "<" not in qualname else f"{qualname}@{code.co_firstlineno}"
        while "<" in name and (module, name) in self.done:
            name += "'"  # another function of this name, from the same line
        self.done.add((module, name))
        self.places[id(function)] = (module, name)
        _, late = snippet.names()
        self._imports_in(snippet, function.__globals__)
        defaults = self.pickle(repr(shown(name)), (function.__defaults__, function.__kwdefaults__,
                                      function.__dict__))
        if defaults is None:
            return None
        self.entries.append(("code", module, name, snippet.filename, snippet.lineno, snippet.text,
                             snippet.flags, (code.co_name, qualname), defaults, True))
        self.names(module, late, function.__globals__, snippet)
        return module, name

    # --- what they use ---

    def names(self, module: str, names: list[str], space: dict, user: _source.Snippet) -> None:
        for name in names:
            if name in space and name not in OWN_NAMES and (module, name) not in self.done:
                self._need(module, name, space[name], space, user)

    def _need(self, module: str, name: str, obj: Any, space: dict, user: _source.Snippet) -> None:
        if isinstance(obj, ModuleType):
            self.done.add((module, name))
            self.bind_module(module, name, obj, submodules_used(user.tree(), name, obj))
            return
        if is_code(obj) or type(obj).__name__ in NAMED_TYPES:
            place = self.place(obj)
            if place == (module, name):
                return
            if place is not None:
                self.done.add((module, name))
                self.entries.append(("alias", module, name, *place))
                return
            if self._by_binding(module, name, obj, space):
                return
        self.done.add((module, name))
        self.value(module, name, obj, True, user.name)

    def _by_binding(self, module: str, name: str, obj: Any, space: dict) -> bool:
        """A decorated function, a named tuple and the like: their whole statement."""
        if not is_local(_module_of(obj)) or isinstance(obj, FunctionType) and (
                "<lambda>" in obj.__qualname__):
            return False
        snippet = _source.of_binding(name, space)
        if snippet is None or isinstance(obj, FunctionType) and not snippet.is_decorated:
            return False
        self.places[id(obj)] = (module, name)
        self.statement(module, name, snippet, space)
        return True

    def bind_module(self, module: str, name: str, target: ModuleType, others: tuple) -> None:
        self.file(target.__name__)
        for other in others:
            self.file(other)
        self.entries.append(("import", module, name, target.__name__, tuple(others)))

    def _imports_in(self, snippet: _source.Snippet, space: dict) -> None:
        """Import statements in function bodies are executed there; their local modules go along."""
        if "import" not in snippet.text:
            return
        from ._modules import imported_names
        for name in imported_names(_source.walk(snippet.tree()), space.get("__package__") or ""):
            if is_local(name, may_search=True):
                self.file(name)

    def file(self, name: str) -> None:
        """A local module and the local modules it imports, as source."""
        if name in self.files or name == "__main__" or not is_local(name, may_search=True):
            return
        self.files.add(name)
        parent = name.rpartition(".")[0]
        if parent:
            self.file(parent)
        filename, is_package, text, imports = module_file(name)
        for other in imports:
            if is_local(other, may_search=True):
                self.file(other)
        self.entries.append(("file", name, filename, is_package, text))

    # --- data ---

    def value(self, module: str, name: str, obj: Any, is_dependency: bool,
              user: str | None = None) -> None:
        """Data by value; what cannot be pickled by cloudpickle, else an error."""
        what = f"{shown(name)!r}, which {user} uses," if user else repr(shown(name))
        data = self.pickle(what, obj, may_fail=is_code(obj))
        if data is not None:
            self.entries.append(("value", module, name, data, is_dependency))
            return
        data = self._cloudpickle(what, obj)
        self.cloudpickled = name
        self.entries.append(("cloudpickle", module, name, data, sys.version_info[:2],
                             shipped_cloudpickle(), is_dependency))

    def pickle(self, what: str, obj: Any, may_fail: bool = True) -> bytes | None:
        """None: cloudpickle is needed."""
        buffer = BytesIO()
        pickler = _Pickler(buffer, PROTOCOL)
        pickler.bundle = self
        try:
            pickler.dump(obj)
        except TrickleError as error:
            raise TrickleError(f"{what} cannot be injected: {error}") from error
        except RecursionError:
            raise TypeError(f"{what} cannot be injected: it is nested too deeply") from None
        except Exception:
            return None
        return buffer.getvalue()

    def _cloudpickle(self, what: str, obj: Any) -> bytes:
        try:
            from cloudpickle import CloudPickler
        except ImportError:
            raise TrickleError(
                f"{what} has no source that can be sent, and the module cloudpickle, which could "
                "send it, is not installed in this Python: define it with def in a file, or "
                "install cloudpickle") from None
        bundle = self

        class WithSource(CloudPickler):  # type: ignore[misc]
            def reducer_override(self, obj: Any) -> Any:
                reduced = bundle.reduce(obj)
                return super().reducer_override(obj) if reduced is NotImplemented else reduced

        buffer = BytesIO()
        try:
            WithSource(buffer, PROTOCOL).dump(obj)
        except TrickleError as error:
            raise TrickleError(f"{what} cannot be injected: {error}") from error
        except Exception as error:
            raise TypeError(f"{what} cannot be injected: a value of type {type_name(obj)} cannot "
                            f"be pickled ({first_line(error)})") from error
        return buffer.getvalue()

    def reduce(self, obj: Any) -> Any:
        """How the picklers of both kinds write what is not plain data."""
        if isinstance(obj, ModuleType):
            if not is_local(obj.__name__):
                return _install.module_named, (obj.__name__,)
            self.file(obj.__name__)
            return _install.module_named, (obj.__name__,)
        if is_code(obj) or type(obj).__name__ in NAMED_TYPES:
            module = _module_of(obj)
            if not is_local(module):
                return NotImplemented
            place = self.place(obj)
            if place is None:
                name = getattr(obj, "__name__", "")
                space = space_of(obj, module)
                if space.get(name) is obj and self._by_binding(module, name, obj, space):
                    place = self.places[id(obj)]
            if place is not None:
                return _install.global_name, place
        return NotImplemented


class _Pickler(Pickler):
    bundle: Bundle

    def reducer_override(self, obj: Any) -> Any:
        reduced = self.bundle.reduce(obj)
        if reduced is NotImplemented and is_code(obj) and is_local(_module_of(obj)):
            raise TypeError("by name it would not be found on the VM")  # cloudpickle takes it
        return reduced


def _explicit(entry: tuple) -> tuple:
    """What was asked for by name is installed again even if it is there."""
    return (*entry[:-1], False) if entry[0] in ("source", "code") else entry


def is_code(obj: Any) -> bool:
    """A function or class, also behind a decorator such as lru_cache."""
    return isinstance(obj, (FunctionType, type)) or (
        callable(obj) and hasattr(obj, "__wrapped__") and hasattr(obj, "__qualname__"))


def _module_of(obj: Any) -> str:
    module = getattr(obj, "__module__", None)
    return module if isinstance(module, str) else "__main__"


def space_of(obj: Any, module: str) -> dict:
    """The globals that code of obj sees: its own, not those of a decorator around it."""
    while hasattr(obj, "__wrapped__"):
        obj = obj.__wrapped__
    space = getattr(obj, "__globals__", None)
    if isinstance(space, dict) and space.get("__name__", module) == module:
        return space
    found = sys.modules.get(module)
    return found.__dict__ if found is not None else {}


def _resolve(space: dict, qualname: str) -> Any:
    first, *rest = qualname.split(".")
    found = space.get(first)
    for name in rest:
        found = getattr(found, name, None)
    return found


def _statement_of(obj: Any, name: str, space: dict) -> _source.Snippet | None:
    if isinstance(obj, type):
        return _source.of_class(obj, space)
    if isinstance(obj, FunctionType) and not hasattr(obj, "__wrapped__"):
        return _source.of_function(obj) if obj.__code__.co_name == name else None
    function = obj
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    if not isinstance(function, FunctionType):
        return None
    snippet = _source.of_function(function)
    return snippet if snippet is not None and snippet.name == name else None


_shipped: list[bytes] = []


def shipped_cloudpickle() -> bytes:
    """The source files of this Python's cloudpickle, compressed."""
    if not _shipped:
        import os
        import zlib

        import cloudpickle
        directory = os.path.dirname(cloudpickle.__file__)
        sources = {"__init__": ""}
        for file in sorted(os.listdir(directory)):
            if file.endswith(".py") and file != "__init__.py":
                with open(os.path.join(directory, file), encoding="utf-8") as source:
                    sources[file.removesuffix(".py")] = source.read()
        _shipped.append(zlib.compress(dumps(sources, PROTOCOL)))
    return _shipped[0]
