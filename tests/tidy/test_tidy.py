# SPDX-License-Identifier: MIT
"""The limits of CONTRIBUTING.md and the walls of ARCHITECTURE.md, checked over all sources."""
import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FUNCTION_LINES, FILE_LINES, COLUMNS = 70, 800, 100
LEFTOVERS = re.compile(r"\b(" + "|".join(["TO" "DO", "FIX" "ME", "XX" "X", "HA" "CK"]) + r")\b")
UNSAFE = re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|strtok|gets|alloca)\s*\(")
ALLOCATES = re.compile(r"\b(malloc|calloc|realloc|reallocarray|strdup|strndup|v?asprintf)\s*\(")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
C_STANDARD = set("assert ctype errno inttypes limits math setjmp signal stdarg stdatomic stdbool "
                 "stddef stdint stdio stdlib string".split())


def sources(*endings, under=""):
    found = []
    for place, folders, names in os.walk(ROOT / under):
        folders[:] = [f for f in folders if not f.startswith(("build", ".", "__pycache__"))]
        found += [Path(place, name) for name in names if name.endswith(endings)]
    return sorted(found)


def ident(path):
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else None


ALL = sources(".c", ".h", ".py", ".pyi")
C_FILES = sources(".c", ".h")


def c_code(path):
    """The text without comments and without what is inside string and character literals; line
    numbers stay."""
    def blank(match):
        text = match.group()
        if text[0] in "\"'":
            return text[0] * 2
        return "\n" * text.count("\n") + " "
    return re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, path.read_text(),
                  flags=re.S)


def c_functions(path):
    """(name, first line, last line) of each function: those whose braces stand in column 0."""
    lines = c_code(path).split("\n")
    start = 0
    for number, line in enumerate(lines):
        if line == "{":
            first = number - 1
            while first > start and lines[first].strip() and not lines[first].endswith((";", "}")):
                first -= 1
            head = " ".join(lines[first:number])
            name = re.search(r"(\w+)\s*\(", head)
            start = number
            body = next(i for i in range(number, len(lines)) if lines[i].startswith("}"))
            if name:
                yield name.group(1), first + 1, body
            start = body


def py_functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno, node.end_lineno


@pytest.mark.parametrize("path", ALL, ids=ident)
def test_file_keeps_the_limits(path):
    lines = path.read_text().split("\n")
    assert len(lines) <= FILE_LINES + 1
    for number, line in enumerate(lines, 1):
        assert len(line) <= COLUMNS, f"{ident(path)}:{number} has {len(line)} columns"
        assert not LEFTOVERS.search(line), f"{ident(path)}:{number}: {line.strip()}"
        assert line == line.rstrip() and "\t" not in line, f"{ident(path)}:{number}: white space"
    functions = c_functions(path) if path.suffix in (".c", ".h") else py_functions(path)
    for name, first, last in functions:
        size = last - first + 1
        assert size <= FUNCTION_LINES, f"{ident(path)}:{first}: {name} has {size} lines"


@pytest.mark.parametrize("path", ALL, ids=ident)
def test_file_begins_with_its_licence(path):
    first, second = (path.read_text().split("\n") + [""])[:2]
    if first.startswith("#!"):
        first = second
    wanted = "/* SPDX-License-Identifier: MIT */" if path.suffix in (".c", ".h") else \
        "# SPDX-License-Identifier: MIT"
    assert first == wanted


# The seam itself, and an array that the public API hands over for the caller's free().
MAY_ALLOCATE = {"src/base/mem.c", "src/base/mem.h", "src/farm/inject.c"}


@pytest.mark.parametrize("path", C_FILES, ids=ident)
def test_c_uses_no_banned_functions(path):
    code = c_code(path)
    for number, line in enumerate(code.split("\n"), 1):
        assert not UNSAFE.search(line), f"{ident(path)}:{number}: {line.strip()}"
        assert "//" not in line, f"{ident(path)}:{number}: comments are /* */"
        if ident(path).startswith(("src/", "vm/")) and ident(path) not in MAY_ALLOCATE:
            assert not ALLOCATES.search(line), f"{ident(path)}:{number}: allocate by base/mem.h"


def includes(path):
    return [(kind, name) for kind, name in INCLUDE.findall(path.read_text())]


def reached(path, seen=None):
    """All names that a file includes, also through the project's own headers."""
    seen = set() if seen is None else seen
    for kind, name in includes(path):
        if name in seen:
            continue
        seen.add(name)
        for place in (path.parent, ROOT / "include", ROOT / "src", ROOT):
            if kind == '"' and (place / name).exists():
                reached(place / name, seen)
                break
    return seen


PURE = sources(".c", ".h", under="src/sched") + [ROOT / "vm/agent.c", ROOT / "vm/agent.h"]


@pytest.mark.parametrize("path", PURE, ids=ident)
def test_pure_rooms_have_no_io_clock_or_threads(path):
    banned = {"uv.h", "lmdb.h", "Python.h", "time.h", "sys/time.h", "unistd.h", "pthread.h"}
    assert not banned & reached(path)
    assert "stdio.h" not in {name for _, name in includes(path)}
    assert not re.search(r"\b(time|clock|clock_gettime|random|rand|getrandom|read|write)\s*\(",
                         c_code(path))


@pytest.mark.parametrize("path", C_FILES, ids=ident)
def test_python_stays_in_its_room(path):
    if not ident(path).startswith("python/"):
        assert "Python.h" not in reached(path)


@pytest.mark.parametrize("path", sources(".c", ".h", under="python"), ids=ident)
def test_the_extension_uses_only_the_public_api(path):
    for kind, name in includes(path):
        if kind == '"':
            assert name.startswith("trickle/") or (path.parent / name).exists(), name
        else:
            known = name.removesuffix(".h") in C_STANDARD or name in ("Python.h", "structmember.h")
            assert known or name in POSIX_IN_EXTENSION, name


# What the extension needs of the system: to poll a descriptor, to ask who it is, and to have memory
# go back to it.
POSIX_IN_EXTENSION = {"unistd.h", "poll.h", "time.h", "pthread.h", "sched.h", "sys/types.h",
                      "malloc.h"}


@pytest.mark.parametrize("path", sources(".h", under="include"), ids=ident)
def test_public_headers_need_only_themselves(path):
    for kind, name in includes(path):
        assert name.startswith("trickle/") if kind == '"' else name.removesuffix(".h") in C_STANDARD


@pytest.mark.parametrize("one, other", [("sched", "ckpt"), ("ckpt", "sched")])
def test_scheduler_and_store_do_not_know_each_other(one, other):
    for path in sources(".c", ".h", under=f"src/{one}"):
        assert not [name for name in reached(path) if name.startswith(f"{other}/")], ident(path)


# A room may use those before it in its line.
MAY_USE = {
    "base": [], "wire": ["base"], "sched": ["base"], "ckpt": ["base"], "rai": ["base"],
    "auth": ["base"], "net": ["base", "wire", "auth"],
    "discovery": ["base", "wire", "auth"],
    "farm": ["base", "wire", "sched", "ckpt", "auth", "net", "discovery", "rai",
             "farm"],
}


@pytest.mark.parametrize("room", MAY_USE)
def test_rooms_use_only_what_is_below_them(room):
    for path in sources(".c", ".h", under=f"src/{room}"):
        for kind, name in includes(path):
            if kind == '"' and "/" in name and not name.startswith("trickle/"):
                used = name.split("/")[0]
                assert used == room or used in MAY_USE[room], f"{ident(path)} uses {name}"


def test_only_drive_steps_the_scheduler():
    callers = [ident(p) for p in sources(".c", under="src") + sources(".c", under="vm")
               if re.search(r"\bsched_step\s*\(", c_code(p)) and p.parent.name != "sched"]
    assert callers == ["src/farm/drive.c"]


@pytest.mark.parametrize("path", sources(".c"), ids=ident)
def test_every_c_file_is_built(path):
    """By a meson.build in its folder or above, or by a Python test beside it."""
    name = re.compile(rf"['\"](\S*/)?{path.stem.removeprefix('fuzz_')}(\.c)?['\"]")
    places = [place / "meson.build" for place in path.parents if ROOT in [place, *place.parents]]
    places += path.parent.glob("*.py")
    assert [place for place in places if place.exists() and name.search(place.read_text())]



def test_every_module_of_the_package_is_installed():
    build = (ROOT / "python/trickle/meson.build").read_text()
    names = [path.name for path in (ROOT / "python/trickle").glob("*.py*")]
    assert [name for name in names if f"'{name}'" not in build] == []
