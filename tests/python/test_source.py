# SPDX-License-Identifier: MIT
"""Which statement made a function or class, and which global names it uses."""
import collections
import functools
import importlib.util
import sys

import pytest

from trickle import _bundle, _modules, _source


@pytest.fixture
def module(tmp_path, request):
    """Makes a module of a text."""
    made = []

    def make(text, name="made_for_test"):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        made.append(name)
        return module
    yield make
    for name in made:
        del sys.modules[name]


def text_of(obj):
    snippet = _source.of_function(obj)
    return None if snippet is None else snippet.text


def names_of(obj):
    early, late = _source.of_function(obj).names()
    return sorted(early), sorted(late)


def test_def_with_its_decorators_and_lines(module):
    m = module("import functools\n\n@functools.wraps(len)\ndef f(x):\n    return x\n\ny = 1\n")
    snippet = _source.of_function(m.f)
    assert snippet.text == "@functools.wraps(len)\ndef f(x):\n    return x\n"
    assert (snippet.lineno, snippet.is_decorated) == (3, True)


def test_last_of_several_definitions(module):
    m = module("def f():\n    return 1\n\ndef f():\n    return 2\n")
    assert text_of(m.f) == "def f():\n    return 2\n"


def test_a_file_is_looked_through_once(module, monkeypatch):
    """However many works a program has."""
    m = module("import os\n\ndef f():\n    return 1\n\ng = lambda: 2\n")
    assert text_of(m.f) == "def f():\n    return 1\n"
    monkeypatch.setattr(_source, "walk", lambda node: pytest.fail("it is looked through again"))
    assert text_of(m.f) == "def f():\n    return 1\n" and "lambda: 2" in text_of(m.g)
    assert _modules.module_file("made_for_test")[3] == ["os"]


@pytest.mark.parametrize("line, index, wanted", [
    ("fs = [lambda x: x + 1, lambda x: x + 2]", 0, "lambda x: x + 1"),
    ("fs = [lambda x: x + 1, lambda x: x + 2]", 1, "lambda x: x + 2"),
    ("fs = [lambda: lambda: 1]", 0, "lambda: lambda: 1"),
    ("fs = [(lambda: lambda: 1)()]", 0, "lambda: 1"),
    ("é = 'é'; fs = [lambda: 'é', 2]", 0, "lambda: 'é'"),
    ("fs = [lambda x, y=(lambda: 3): (\n    x)]", 0, "lambda x, y=(lambda: 3): (\n    x"),
    ("fs = [lambda *a, k=1, **kw: (a, k,\n  kw), 0]", 0, "lambda *a, k=1, **kw: (a, k,\n  kw)"),
], ids=range(7))
def test_lambda_by_its_position(module, line, index, wanted):
    text = text_of(module(line + "\n").fs[index])
    assert text is not None and text.startswith("(")
    assert text.strip("( )\n") == wanted.rstrip(")") or wanted in text
    compile(text, "x", "exec")


def test_code_that_is_not_in_the_file_any_more_has_no_source(module):
    m = module("def f():\n    return 1\n")
    with open(m.__file__, "w") as file:
        file.write("def f():\n    return 2\n")
    assert text_of(m.f) is None


def test_generated_code_has_no_source():
    space = {"__name__": "made"}
    exec("def f():\n    return 1", space)
    assert text_of(space["f"]) is None


def test_names_are_those_of_the_right_scopes(module):
    m = module("""
import functools
def f(a, b=DEFAULT if False else 0) -> "int":
    local = a + GLOBAL
    def inner(c):
        nonlocal local
        local = c + INNER
        return [d + COMPREHENSION for d in ITERABLE if CONDITION]
    class C(BASE):
        x = CLASS
        def m(self):
            return METHOD
    (lambda e: e + LAMBDA)
    try:
        pass
    except ERROR as error:
        error
    global SET
    SET = 1
    return f"{FSTRING!r:{SPEC}}", (walrus := VALUE), walrus
""")
    early, late = names_of(m.f)
    assert early == ["DEFAULT"]
    assert late == sorted(["GLOBAL", "INNER", "COMPREHENSION", "ITERABLE", "CONDITION", "BASE",
                           "CLASS", "METHOD", "LAMBDA", "ERROR", "FSTRING", "SPEC", "VALUE"])


def test_names_a_class_needs_at_once_and_later(module):
    m = module("""
class Base: pass
FACTOR = 2
def decorate(c): return c
@decorate
class C(Base, metaclass=type):
    x = FACTOR
    y = [z for z in range(FACTOR)]
    def m(self, d=FACTOR):
        return other(self)
def other(c): return c
""")
    snippet = _source.of_class(m.C, vars(m))
    early, late = snippet.names()
    assert {"Base", "decorate", "FACTOR", "type", "range"} == set(early)
    assert set(late) == {"other"}
    assert snippet.text.startswith("@decorate\nclass C(Base")


def test_class_without_methods_and_class_in_an_if(module):
    m = module("if True:\n    class A:\n        x = 1\n    def f():\n        return A\n")
    assert _source.of_class(m.A, vars(m)).text == "    class A:\n        x = 1\n"
    assert text_of(m.f).startswith("    def f")


def test_statement_that_makes_a_named_tuple(module):
    m = module("from collections import namedtuple\nP = namedtuple('P',\n               'x y')\n")
    assert _source.of_binding("P", vars(m)).text == "P = namedtuple('P',\n               'x y')\n"
    assert _source.of_binding("Q", vars(m)) is None


def test_local_and_installed_modules(module):
    module("x = 1\n", "a_local_module")
    assert _modules.is_local("a_local_module") and _modules.is_local("__main__")
    for name in ("os", "sys", "xml.etree", "trickle", "trickle._proxy", "pytest", "cloudpickle"):
        __import__(name)
        assert not _modules.is_local(name), name


def kinds(obj):
    bundle = _bundle.Bundle()
    bundle.add_named("it", obj)
    return [(entry[0], entry[2]) for entry in bundle.entries]


def test_order_of_entries_is_one_in_which_they_can_be_executed(module):
    m = module("""
import functools
LIMIT = 3
class Base:
    def make(self):
        return Derived()
class Derived(Base):
    limit = LIMIT
@functools.lru_cache
def f():
    return Derived().make()
""")
    assert kinds(m.f)[-1] == ("alias", "it")
    order = [name for _, name in kinds(m.f)]
    assert order.index("Base") < order.index("Derived")
    assert order.index("LIMIT") < order.index("Derived")
    assert order.index("functools") < order.index("f")


def test_nothing_comes_along_that_is_not_used(module):
    m = module("A = 1\nB = 2\ndef g():\n    return B\ndef f():\n    return A\n")
    assert kinds(m.f) == [("source", "f"), ("value", "A"), ("alias", "it")]


def test_data_brings_the_classes_of_its_instances(module):
    m = module("class C:\n    pass\nvalue = {'a': [C()]}\n")
    assert kinds(m.value) == [("source", "C"), ("value", "it")]


def test_plain_data_is_one_entry():
    assert kinds({"a": [1, collections.Counter("ab"), functools.partial(len)]}) == [
        ("value", "it")]
