# SPDX-License-Identifier: MIT
"""Source code by introspection: the statement that made a function or class, and the global names
that it uses.

A Snippet is checked against the object it is for: the file, compiled as a whole, must have the
code that the function has. A file that was edited since, code made by a macro or rewritten by an
import hook thus has no source here: what is sent is never something else than what runs locally.
"""
from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FunctionType
    from typing import Any
else:
    FunctionType = type(lambda: None)
    CodeType = type((lambda: None).__code__)

ONLY_AST = 0x400
FUTURE_MASK = 0x1FF0000  # the compiler flags of `from __future__ import ...`
CO_NESTED = 0x10
START_DIRECTORY = os.getcwd() if os.path.isdir(".") else "/"
DEFS = ("FunctionDef", "AsyncFunctionDef")
IMPORTS = ("Import", "ImportFrom")
KEPT = (*DEFS, *IMPORTS, "Lambda")  # nodes of a file that are asked for again and again
COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")


class Snippet:
    """A statement (or lambda) as it stands in its file.

    text is made so that compiling it after shift() newlines gives every line its number in the
    file. early: names used when the statement is executed; late: names used by function bodies.
    """

    def __init__(self, name: str, filename: str, lineno: int, text: str, flags: int,
                 is_decorated: bool = False) -> None:
        self.name = name
        self.filename = filename
        self.lineno = lineno
        self.text = text
        self.flags = flags
        self.is_decorated = is_decorated
        self._names: tuple[list[str], list[str]] | None = None
        self._tree: Any = None

    def names(self) -> tuple[list[str], list[str]]:
        if self._names is None:
            self._names = self._find_names()
        return self._names

    def _find_names(self) -> tuple[list[str], list[str]]:
        import symtable
        early: dict[str, None] = {}
        late: dict[str, None] = {}
        _collect(symtable.symtable(_flat(self.text), self.filename, "exec"), early, late, early)
        return list(early), list(late)

    def tree(self) -> Any:
        if self._tree is None:
            self._tree = compile(_flat(self.text), self.filename, "exec", ONLY_AST | self.flags,
                                 True)
        return self._tree


def _flat(text: str) -> str:
    return "if 1:\n" + text if text[:1] in " \t" else text


def compile_snippet(text: str, filename: str, lineno: int, flags: int) -> CodeType:
    """Compiles with the line numbers of the file, also what is indented there."""
    if text[:1] in " \t":
        text = "if 1:\n" + text
        lineno -= 1
    return compile("\n" * (lineno - 1) + text, filename, "exec", flags, True)


def _collect(table: Any, early: dict, late: dict, now: dict) -> None:
    kind = str(table.get_type())
    if kind.endswith("function") and table.get_name() not in COMPREHENSIONS:
        now = late
    for symbol in table.get_symbols():
        if not symbol.is_referenced():
            continue
        is_outside = kind.endswith("module") or symbol.is_global() or (
            kind.endswith("class") and symbol.is_local())
        if is_outside:
            now[symbol.get_name()] = None
    for child in table.get_children():
        _collect(child, early, late, now)


def function_code(code: CodeType, name: str) -> CodeType:
    """The code of the function that a compiled snippet makes: the outermost of this name, and
    the last, because defaults come before it."""
    level = [code]
    while level:
        level = [c for outer in level for c in outer.co_consts if isinstance(c, CodeType)]
        for inner in reversed(level):
            if inner.co_name == name:
                return inner
    raise ValueError(f"there is no function {name} in this source")


# --- files ----------------------------------------------------------------------------------


class SourceFile:
    """One file (or notebook cell, or line of a prompt) as text and tree."""

    def __init__(self, filename: str, text: str) -> None:
        self.filename = filename
        self.lines = text.splitlines(keepends=True)
        self.tree = compile(text, filename, "exec", ONLY_AST, True)
        self.text = text
        self.codes: dict[tuple[str, int], list[CodeType]] | None = None
        self.kept: list[tuple[str, Any]] | None = None
        self.snippets: dict[tuple[str, int, int], Snippet] = {}

    def nodes(self, kinds: tuple[str, ...]) -> list[Any]:
        """Those of some of the KEPT kinds, in order. A program may have thousands of works, and
        each looks for the code of its function."""
        if self.kept is None:
            self.kept = [(kind_of(node), node) for node in walk(self.tree)
                         if kind_of(node) in KEPT]
        return [node for kind, node in self.kept if kind in kinds]

    def has(self, wanted: CodeType) -> bool:
        """Is this code in the file as it is now?"""
        if self.codes is None:
            self.codes = {}
            for code in codes_in(compile(self.text, self.filename, "exec", 0, True)):
                self.codes.setdefault((code.co_name, code.co_firstlineno), []).append(code)
        return any(same_code(code, wanted)
                   for code in self.codes.get((wanted.co_name, wanted.co_firstlineno), ()))

    def snippet(self, node: Any, name: str, flags: int) -> Snippet:
        """Of a whole statement."""
        first, last = first_line_of(node), node.end_lineno
        key = name, first, flags
        if key not in self.snippets:
            self.snippets[key] = Snippet(name, self.filename, first, self.segment(first, last),
                                         flags, bool(getattr(node, "decorator_list", None)))
        return self.snippets[key]

    def segment(self, first: int, last: int) -> str:
        text = "".join(self.lines[first - 1:last])
        return text if text.endswith("\n") else text + "\n"


_files: dict[str, tuple[str, SourceFile]] = {}


def source_file(filename: str, space: dict | None = None) -> SourceFile | None:
    """None: there is no source, or it is not Python."""
    text = _read(filename, space)
    if text is None:
        return None
    cached = _files.get(filename)
    if cached is not None and cached[0] == text:
        return cached[1]
    try:
        file = SourceFile(filename, text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    _files[filename] = (text, file)
    return file


def _read(filename: str, space: dict | None) -> str | None:
    linecache = sys.modules.get("linecache")
    if linecache is not None and filename.startswith("<") or _is_kept(linecache, filename):
        return "".join(linecache.getlines(filename, space)) or None
    if filename.startswith("<"):
        return None
    for path in (filename, os.path.join(START_DIRECTORY, filename)):
        try:
            with open(path, "rb") as file:
                data = file.read()
            break
        except OSError:
            continue
    else:
        return _from_loader(space)
    try:
        if b"coding" not in data[:400]:
            text = data.decode("utf-8-sig")
        else:
            from importlib.util import decode_source
            text = decode_source(data)
    except (SyntaxError, ValueError):
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_kept(linecache: Any, filename: str) -> bool:
    """Notebook cells have entries in linecache under names of files that do not exist."""
    entry = linecache.cache.get(filename) if linecache is not None else None
    return entry is not None and len(entry) == 4 and entry[1] is None


def _from_loader(space: dict | None) -> str | None:
    loader = (space or {}).get("__loader__")
    get_source = getattr(loader, "get_source", None)
    try:
        return get_source(space["__name__"]) if get_source and space else None
    except Exception:
        return None


def walk(node: Any) -> Iterator[Any]:
    """All nodes below and including node, in order."""
    todo = [node]
    while todo:
        node = todo.pop()
        yield node
        children = []
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                children += [item for item in value if hasattr(item, "_fields")]
            elif hasattr(value, "_fields"):
                children.append(value)
        todo += reversed(children)


def kind_of(node: Any) -> str:
    return type(node).__name__


def first_line_of(node: Any) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])


# --- functions ------------------------------------------------------------------------------


def _shape(code: CodeType) -> tuple:
    return (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_argcount,
            code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~CO_NESTED,
            len(code.co_consts))


def same_code(a: CodeType, b: CodeType) -> bool:
    """Do both do the same? Lines and file names apart."""
    if _shape(a) != _shape(b):
        return False
    for x, y in zip(a.co_consts, b.co_consts):
        if not _same_const(x, y):
            return False
    return True


def _same_const(x: Any, y: Any) -> bool:
    if type(x) is not type(y):
        return False
    if isinstance(x, CodeType):
        return same_code(x, y)
    if isinstance(x, tuple):
        return len(x) == len(y) and all(map(_same_const, x, y))
    return repr(x) == repr(y) or isinstance(x, frozenset) and x == y


def codes_in(code: CodeType) -> Iterator[CodeType]:
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield const
            yield from codes_in(const)


def of_function(function: FunctionType) -> Snippet | None:
    """The def statement or lambda expression that made this function, if that can be found."""
    code = function.__code__
    file = source_file(code.co_filename, function.__globals__)
    if file is None or not file.has(code):
        return None
    flags = code.co_flags & FUTURE_MASK
    if code.co_name == "<lambda>":
        return _of_lambda(file, code, flags)
    for node in file.nodes(DEFS):
        if node.name == code.co_name and first_line_of(node) == code.co_firstlineno:
            return file.snippet(node, node.name, flags)
    return None


def _of_lambda(file: SourceFile, code: CodeType, flags: int) -> Snippet | None:
    """Several lambdas may stand on one line: the one whose positions are those wanted; none when
    that is not exactly one."""
    places = [p for p in code.co_positions() if None not in p and p[2:] != (0, 0)]
    found: list[Any] = []
    for node in file.nodes(("Lambda",)):
        if node.lineno != code.co_firstlineno:
            continue
        body = node.body
        begin, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
        if any((p[0], p[2]) < begin or (p[1], p[3]) > end for p in places):
            continue
        found = [n for n in found if not _contains(n.body, node)] + [node]
    if len(found) != 1:
        return None
    text = "(" + " " * max(found[0].col_offset - 1, 0) + _expression(file, found[0]) + ")\n"
    return Snippet("<lambda>", file.filename, found[0].lineno, text, flags)


def _contains(node: Any, other: Any) -> bool:
    return any(below is other for below in walk(node))


def _expression(file: SourceFile, node: Any) -> str:
    lines = [line.encode() for line in file.lines[node.lineno - 1:node.end_lineno]]
    lines[-1] = lines[-1][:node.end_col_offset]
    lines[0] = lines[0][node.col_offset:]
    return b"".join(lines).decode()


# --- classes and other statements -----------------------------------------------------------


def _top_statements(file: SourceFile) -> Iterator[Any]:
    """Statements of the module itself, also those inside if, try, with and loops."""
    todo = list(reversed(file.tree.body))
    while todo:
        node = todo.pop()
        yield node
        if kind_of(node) not in (*DEFS, "ClassDef"):
            for field in ("finalbody", "orelse", "handlers", "body"):
                todo += reversed(getattr(node, field, None) or [])


def _binds(node: Any, name: str) -> bool:
    if kind_of(node) in (*DEFS, "ClassDef"):
        return node.name == name
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return kind_of(node) in ("Assign", "AnnAssign", "TypeAlias") and any(
        kind_of(t) == "Name" and t.id == name for t in targets if t is not None)


def of_class(cls: type, space: dict) -> Snippet | None:
    """The class statement of a class of a module's top level."""
    methods = [m for m in map(_raw_function, vars(cls).values())
               if m is not None and m.__code__.co_qualname.startswith(cls.__qualname__ + ".")]
    filename = methods[0].__code__.co_filename if methods else space.get("__file__")
    file = source_file(filename, space) if isinstance(filename, str) else None
    if file is None or not all(file.has(m.__code__) for m in methods if not _is_made_up(m)):
        return None
    for node in reversed(_binding_nodes(filename, space, cls.__name__)):
        lines = range(first_line_of(node), node.end_lineno + 1)
        if kind_of(node) == "ClassDef" and all(
                m.__code__.co_firstlineno in lines for m in methods if not _is_made_up(m)):
            return _statement(filename, space, node, cls.__name__)
    return None


def _raw_function(value: Any) -> FunctionType | None:
    value = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
    return value if isinstance(value, FunctionType) else None


def _is_made_up(method: FunctionType) -> bool:
    """Methods that a decorator wrote, as dataclass does, have no file."""
    return method.__code__.co_filename.startswith("<string")


def of_binding(name: str, space: dict) -> Snippet | None:
    """The only statement of a module that binds a name: a decorated def, or an assignment that
    makes a class (`Point = namedtuple(...)`)."""
    filename = space.get("__file__")
    if not isinstance(filename, str):
        return None
    nodes = _binding_nodes(filename, space, name)
    return _statement(filename, space, nodes[0], name) if len(nodes) == 1 else None


def registered_with(name: str, space: dict) -> list[Snippet]:
    """The functions that are decorated with @name.register, as functools.singledispatch has it:
    they belong to what name does."""
    if not hasattr(space.get(name), "register"):
        return []
    filename = space.get("__file__")
    file = source_file(filename, space) if isinstance(filename, str) else None
    if file is None:
        return []
    return [_statement(filename, space, node, name) for node in _top_statements(file)
            if any(_is_register(d, name) for d in getattr(node, "decorator_list", ()))]


def _is_register(node: Any, name: str) -> bool:
    if kind_of(node) == "Call":
        node = node.func
    return (kind_of(node) == "Attribute" and node.attr == "register"
            and kind_of(node.value) == "Name" and node.value.id == name)


def _binding_nodes(filename: str, space: dict, name: str) -> list[Any]:
    file = source_file(filename, space)
    return [] if file is None else [n for n in _top_statements(file) if _binds(n, name)]


def _statement(filename: str, space: dict, node: Any, name: str) -> Snippet:
    file = source_file(filename, space)
    assert file is not None
    return file.snippet(node, name, _future_flags(file))


def _future_flags(file: SourceFile) -> int:
    import __future__
    flags = 0
    for node in file.tree.body:
        if kind_of(node) == "ImportFrom" and node.module == "__future__":
            for alias in node.names:
                flags |= getattr(__future__, alias.name).compiler_flag
    return flags
