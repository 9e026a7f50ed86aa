# SPDX-License-Identifier: MIT
"""Which modules belong to the program (their source is sent) and which to its Python (the VM's
Python is expected to have them too)."""
from __future__ import annotations

import os
import sys

from . import _source
from ._source import kind_of
from .errors import TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType
    from typing import Any

INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
STDLIB = os.path.dirname(os.__file__) + os.sep

_known: dict[str, bool] = {}


def is_local(name: str, may_search: bool = False) -> bool:
    """Is this a module of the program itself: a file that is neither Python's nor installed?
    may_search: also when it is not imported yet."""
    root = name.partition(".")[0]
    if root == "__main__":
        return True
    if root in sys.stdlib_module_names or root == "trickle":
        return False
    found = _known.get(name)
    if found is None:
        module = sys.modules.get(name)
        if module is not None:
            found = _known[name] = _is_local_module(module)
        elif may_search:
            spec = _find(name)
            found = _known[name] = spec is not None and _is_local_path(spec.origin)
        else:
            return True  # made without a file: what is sent are single functions
    return found


def _is_local_module(module: ModuleType) -> bool:
    filename = getattr(module, "__file__", None)
    if filename is not None:
        return _is_local_path(filename)
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.origin in ("built-in", "frozen"):
        return False
    places = list(getattr(module, "__path__", None) or [])
    return not places or all(_is_local_path(place + os.sep) for place in places)


def _is_local_path(filename: str | None) -> bool:
    if not filename or filename in ("built-in", "frozen"):
        return False
    return not filename.startswith(STDLIB) and not any(part in filename for part in INSTALLED)


def _find(name: str) -> Any:
    """Its spec, without importing anything."""
    parent = name.rpartition(".")[0]
    if parent and parent not in sys.modules:
        return None
    from importlib.util import find_spec
    try:
        return find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def module_file(name: str) -> tuple[str, bool, str, list[str]]:
    """(file name, is it a package, source, names it imports) of a local module."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None) or _find(name)
    filename = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    is_package = hasattr(module, "__path__") or bool(
        spec is not None and spec.submodule_search_locations)
    if filename is None and is_package:
        return name, True, "", []  # a namespace package: a directory without __init__.py
    file = _source.source_file(filename) if filename else None
    if filename is None or file is None or not filename.endswith((".py", ".pyw")):
        raise TrickleError(f"the module {name} is used by what is to be injected, but it is "
                           f"neither Python source ({filename or 'no file'}) nor installed: "
                           "install it in the Python of the VMs and in this one")
    package = name if is_package else name.rpartition(".")[0]
    return filename, is_package, file.text, imported_names(file.nodes(_source.IMPORTS), package)


def imported_names(nodes: Iterable[Any], package: str) -> list[str]:
    """Names of all modules that the import statements among the nodes may import."""
    names: dict[str, None] = {}
    for node in nodes:
        if kind_of(node) == "Import":
            for alias in node.names:
                names[alias.name] = None
        elif kind_of(node) == "ImportFrom":
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[:len(parts) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            if base:
                names[base] = None
            for alias in node.names:
                if f"{base}.{alias.name}" in sys.modules or is_submodule(base, alias.name):
                    names[f"{base}.{alias.name}"] = None
    return list(names)


def is_submodule(package: str, name: str) -> bool:
    """Is package.name a module of a local package that is not imported yet?"""
    module = sys.modules.get(package)
    if module is None or not hasattr(module, "__path__") or hasattr(module, name):
        return False
    return is_local(package) and _find(f"{package}.{name}") is not None


def submodules_used(tree: Any, name: str, module: ModuleType) -> tuple[str, ...]:
    """Of `import a.b.c`, which binds just a: the submodules that `a.b.c.f` in the code means."""
    found: dict[str, None] = {}
    for node in _source.walk(tree):
        parts: list[str] = []
        while kind_of(node) == "Attribute":
            parts.append(node.attr)
            node = node.value
        if kind_of(node) != "Name" or node.id != name:
            continue
        path = module.__name__
        for part in reversed(parts):
            path = f"{path}.{part}"
            if path not in sys.modules:
                break
            found[path] = None
    return tuple(found)
