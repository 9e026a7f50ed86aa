# SPDX-License-Identifier: MIT
"""Fingerprints: the same as long as the code and what it uses are the same, in any process, and
another one as soon as they are not."""
import functools
import json
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisors import PACKAGES
from trickle import _fingerprint
from trickle._fingerprint import describe_change, fingerprint, parts

PROGRAM = '''
import abc, collections, dataclasses, enum, functools, json
import helpers
from helpers import scale as resize

LIMIT = 3
TABLE = {"a": {1, 2, "x", ("y", 2.5)}, "nan": float("nan"), "zero": -0.0, "all": [1, [2, [3]]]}

class Base(abc.ABC):
    """Text."""
    factor = 2
    @abc.abstractmethod
    def area(self): ...

@dataclasses.dataclass
class Square(Base):
    side: int
    tags: list = dataclasses.field(default_factory=list)
    def area(self):
        """Text."""
        return self.side ** 2 * self.factor
    @property
    def name(self): return f"square {LIMIT}"
    @staticmethod
    def unit(): return Square(1)
    @classmethod
    def of(cls, n): return cls(n)
    @functools.cached_property
    def slow(self): return resize(self.side)

class Color(enum.Enum):
    RED = 1
    GREEN = "g"

Point = collections.namedtuple("Point", "x y")

def outer(n):
    def inner(x, *, by=n):
        return x + n + by
    return inner

add = outer(4)

@functools.lru_cache
def deep(x):
    return x in {"one", "two", "three", b"four", 5, None} or deeper(x)

def deeper(x):
    if x:
        return deep(x - 1)
    return TABLE, [(lambda y: y * LIMIT)(z) for z in (1, 2)]

def work(x, *more, depth: int = 2, **rest):
    """Text."""
    import late
    from late import one
    s = Square(x)
    return (deep(x), s.area(), Color.RED, Point(1, 2), add(x), helpers.offset(x), json.dumps(x),
            helpers.deeply.constant, late, one, {**rest}, ..., 1j, 10 ** 30, b"", resize)
'''
HELPERS = '''
import deeply
STEP = 5
UNUSED = 6
def offset(x):
    return x + STEP
def scale(x):
    return x * 2
'''
FILES = {"program.py": PROGRAM, "helpers.py": HELPERS, "late.py": "def one():\n    return 1\n",
         "deeply.py": "constant = 7\nother = 8\n"}
RUN = f'''
import json, sys
sys.path.insert(0, {PACKAGES!r})
from trickle import _fingerprint
found = []
for directory in json.loads(sys.stdin.read()):
    sys.path.insert(0, directory)
    import program
    found.append((_fingerprint.fingerprint(program.work, {{}}).hex(),
                  _fingerprint.parts(program.work, {{}})))
    del sys.path[0]
    sys.path_importer_cache.clear()
    for name in ("program", "helpers", "late", "deeply"):
        sys.modules.pop(name, None)
print(json.dumps(found))
'''


def write(directory, changes):
    """The files, with changes: name -> [(old, new), ...], or the whole text."""
    directory.mkdir()
    for name, text in FILES.items():
        change = changes.get(name, ())
        if isinstance(change, str):
            change = [(text, change)]
        for old, new in change:
            assert old in text, f"{old!r} is not in {name}"
            text = text.replace(old, new)
        (directory / name).write_text(text)
    return str(directory)


def run(directories, seed="0", cwd=None):
    """(fingerprint, parts) of program.work in each of the directories, in a process of its own."""
    env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", RUN], env=env, cwd=cwd, text=True,
                          input=json.dumps(directories), stdout=subprocess.PIPE, check=True)
    return [(found, names) for found, names in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """What becomes of each of the changes below: (fingerprint, parts)."""
    place = tmp_path_factory.mktemp("variants")
    changes = {"": {}} | UNCHANGED | CHANGED
    return dict(zip(changes, run([write(place / f"{i}", change)
                                  for i, change in enumerate(changes.values())])))


def test_same_in_another_process_directory_and_under_other_hash_seeds(variants, tmp_path):
    directory = write(tmp_path / "p", {})
    for seed in ("1", "77"):
        assert run([directory], seed=seed, cwd=tmp_path) == [variants[""]]


def moved():
    first, _, last = PROGRAM.partition("\ndef deeper(x):")
    body, _, rest = last.partition("\ndef work(")
    return f"{first}\ndef work({rest}\ndef deeper(x):{body}"


UNCHANGED = {
    "comments": {"program.py": [("LIMIT = 3", "# why\nLIMIT = 3  # because")]},
    "lines between": {"program.py": [("def deep(x)", "def deep(\n        x)"),
                                     ("def work", "\n\n\n\ndef work")]},
    "docstrings": {"program.py": [('"""Text."""', '"""Another text."""')]},
    "a docstring added": {"program.py": [("def deeper(x):", 'def deeper(x):\n    "New."')]},
    "annotations": {"program.py": [("depth: int = 2", "depth: float = 2")]},
    "the order of methods": {"program.py": [
        ("    @staticmethod\n    def unit(): return Square(1)\n", ""), ("    @classmethod",
         "    @staticmethod\n    def unit(): return Square(1)\n    @classmethod")]},
    "what is not used": {"helpers.py": [("UNUSED = 6", "UNUSED = 7")],
                         "deeply.py": [("other = 8", "other = 9")],
                         "program.py": [("LIMIT = 3", "LIMIT = 3\nimport random, time\n"
                                         "NOW = time.time_ns()\nR = random.Random()")]},
    "a set in another order": {"program.py": [('1, 2, "x", ("y", 2.5)', '("y", 2.5), "x", 2, 1')]},
    "the place in the file": {"program.py": moved()},
}


@pytest.mark.parametrize("what", UNCHANGED)
def test_does_not_count(variants, what):
    assert variants[what] == variants[""]


CHANGED = {
    "work": {"program.py": [("Color.RED, Point", "Color.GREEN, Point")]},
    "a default": {"program.py": [("depth: int = 2", "depth: int = 3")]},
    "an int constant": {"program.py": [("10 ** 30", "10 ** 31")]},
    "a type of constant": {"program.py": [("10 ** 30", "1e30")]},
    "deeper": {"program.py": [("deep(x - 1)", "deep(x - 2)")]},
    "deep": {"program.py": [('b"four"', 'b"five"')]},
    "LIMIT": {"program.py": [("LIMIT = 3", "LIMIT = 4")]},
    "TABLE": {"program.py": [("[2, [3]]", "[2, [4]]")]},
    "-0.0": {"program.py": [("-0.0", "0.0")]},
    "Square.area": {"program.py": [("self.side ** 2", "self.side ** 3")]},
    "Square.name": {"program.py": [("square {LIMIT}", "Square {LIMIT}")]},
    "Base": {"program.py": [("factor = 2", "factor = 3")]},
    "Color": {"program.py": [('"g"', '"green"')]},
    "Point": {"program.py": [('"x y"', '"x z"')]},
    "a closure": {"program.py": [("outer(4)", "outer(5)")]},
    "outer.<locals>.inner": {"program.py": [("x + n + by", "x + n - by")]},
    "a lambda": {"program.py": [("y * LIMIT", "y + LIMIT")]},
    "helpers.offset": {"helpers.py": [("x + STEP", "x - STEP")]},
    "helpers.STEP": {"helpers.py": [("STEP = 5", "STEP = 6")]},
    "helpers.scale": {"helpers.py": [("x * 2", "x * 3")]},
    "deeply.constant": {"deeply.py": [("constant = 7", "constant = 8")]},
    "module late": {"late.py": [("return 1", "return 2")]},
}


@pytest.mark.parametrize("what", CHANGED)
def test_counts(variants, what):
    found, now = variants[what]
    before, then = variants[""]
    assert found != before
    text = describe_change(then, now)
    assert text.startswith("program.work ")
    for name in ("deeper", "deep", "LIMIT", "Square.area", "Square.name", "Base", "Color", "Point"):
        if name == what:
            assert f"program.{name}" in text, text
    if "." in what and " " not in what and what[0].islower() and "<" not in what:
        assert text == f"program.work uses {what}, which has changed"


def test_what_has_changed_is_named():
    old = {"f": "1", "g": "2", "LIMIT": "3", "version of Python": "3.11"}
    assert describe_change(old, dict(old)) == ""
    assert describe_change(old, old | {"f": "9"}) == "f has changed"
    assert describe_change(old, old | {"g": "9"}) == "f uses g, which has changed"
    assert describe_change(old, old | {"g": "9", "LIMIT": "9"}) == (
        "f uses g and LIMIT, which have changed")
    assert describe_change(old, old | {"g": "9", "f": "9"}) == (
        "f has changed, and so has g, which it uses")
    assert describe_change(old, old | {"h": "9"}) == "f uses h now"
    assert describe_change(old | {"h": "9"}, old) == "f does not use h any more"
    assert "3.11" in describe_change(old, old | {"version of Python": "3.12"})
    many = {f"g{i}": "1" for i in range(9)}
    assert describe_change(old | many, old | dict.fromkeys(many, "2")) == (
        "f uses g0, g1, g2 and 6 more, which have changed")


PROGRAM_OF_JOB = """
import os, sys
import trickle

def deep(x):
    return x * 2

def work(x):
    return deep(x) + table[x]

trickle.job(sys.argv[1], on_change=sys.argv[2])
table = [1, 2, 3]
vms = trickle.connect(2)
trickle.inject(vms, table=[4, 5, 6])
print(trickle.forkwork(vms, work, range(3)))
"""


def test_resumed_job_says_which_code_has_changed(run_program, tmp_path):
    name = f"changed-{os.getpid()}-{tmp_path.name}"
    first = run_program(PROGRAM_OF_JOB, name, "refuse")
    assert first.status == 0, first.err
    assert run_program("# moved\n" + PROGRAM_OF_JOB, name, "refuse").out == first.out
    for old, new, changed in (("x * 2", "x * 3", "deep, which has"), ("[1,", "[0,", "table, which"),
                              ("[4,", "[0,", "injected table, which has")):
        result = run_program(PROGRAM_OF_JOB.replace(old, new), name, "refuse")
        assert result.status == 1 and "ResumeMismatch: the code of work" in result.err
        assert f"(work uses {changed}" in result.err, result.err
    changed = PROGRAM_OF_JOB.replace("x * 2", "x * 3")
    assert run_program(changed, name, "keep").out == first.out
    assert run_program(changed, name, "redo").status == 0


def make(text, name="made", **space):
    space["__name__"] = name
    exec(compile(textwrap.dedent(text), "<made>", "exec"), space)
    return space["f"]


def test_edit_of_the_source_while_the_program_runs_does_not_count(tmp_path):
    """What runs counts, not what the file says by now."""
    import importlib.util
    path = tmp_path / "edited_meanwhile.py"
    path.write_text("def g():\n    return 1\ndef f():\n    return g()\n")
    spec = importlib.util.spec_from_file_location("edited_meanwhile", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = fingerprint(module.f, {})
    path.write_text("def g():\n    return 2\n\n\ndef f():\n    return g()\n")
    assert fingerprint(module.f, {}) == before


def test_functions_that_call_each_other():
    text = "\n".join(f"def f{i}(x): return [{', '.join(f'f{j}' for j in range(30))}]"
                     for i in range(30)) + "\ndef f(x): return f1(x)\n"
    assert fingerprint(make(text), {}) == fingerprint(make(text), {})
    changed = text.replace("def f29(x): return [", "def f29(x): return [x, ")
    assert fingerprint(make(changed), {}) != fingerprint(make(text), {})


def test_partials_methods_and_callable_objects():
    text = """
        import functools
        class C:
            def __init__(self, n): self.n = n
            def m(self, x): return x + self.n
            def __call__(self, x): return self.m(x)
        def g(x, y): return x + y
        """
    for made in ("functools.partial(g, 1)", "C(1).m", "C(1)", "functools.partial(C(1).m)"):
        one, same = (fingerprint(make(f"{textwrap.dedent(text)}f = {made}"), {}) for _ in "ab")
        other = fingerprint(make(f"{textwrap.dedent(text)}f = {made.replace('1', '2')}"), {})
        assert one == same != other, made
        code = textwrap.dedent(text).replace("x +", "x -")
        assert fingerprint(make(f"{code}f = {made}"), {}) != one, made


def test_names_that_were_injected(monkeypatch):
    f = make("def f(x): return g(x) + limit", name="__main__")

    def g(x):
        return x

    def other(x):
        return -x
    before = fingerprint(f, {})
    with_g = fingerprint(f, {"g": g})
    assert before != with_g != fingerprint(f, {"g": other})
    assert fingerprint("f", {"f": f, "g": g}) == with_g
    _fingerprint.note_data("limit", [1, 2])
    one = fingerprint(f, {"g": g, "limit": None})
    _fingerprint.note_data("limit", [1, 3])
    assert fingerprint(f, {"g": g, "limit": None}) != one
    assert "injected limit" in parts(f, {"g": g, "limit": None})
    own = make("limit = 3\ndef f(x): return x + limit", name="__main__")
    with_three = fingerprint(own, {})
    _fingerprint.note_data("limit", 4)
    assert fingerprint(own, {}) != with_three, "on the VMs another value was injected"
    monkeypatch.delitem(_fingerprint._injected, "limit")
    elsewhere = make("def f(x): return g(x) + limit")
    assert fingerprint(elsewhere, {}) == fingerprint(elsewhere, {"g": g}), (
        "what is injected is not seen by functions of modules")


def test_what_cannot_be_pickled_counts_by_its_class():
    text = "def f(): return lock, gen\n"
    one, two = (fingerprint(make(text, lock=threading.Lock(), gen=(x for x in "a")), {})
                for _ in "ab")
    assert one == two != fingerprint(make(text, lock=threading.RLock(), gen=None), {})


def test_large_and_deep_data():
    deep, circle = [], []
    for _ in range(200):
        deep = [deep]
    circle.append(circle)
    objects = [(i, str(i)) for i in range(60_000)]
    for data in (deep, circle, objects, list(range(10 ** 6)), {str(i): i for i in range(10 ** 5)}):
        one = fingerprint(make("def f(): return data\n", data=data), {})
        assert one == fingerprint(make("def f(): return data\n", data=data), {})
        assert one != fingerprint(make("def f(): return data\n", data=[*data, 1]), {})


def test_lambdas_of_one_line_are_told_apart():
    text = "def f(): return fs\n"
    def both(a, b):
        return fingerprint(make(text, fs=[a, b]), {})
    one, two = (lambda x: x + 1), (lambda x: x + 2)
    assert len({both(one, two), both(two, one), both(one, one)}) == 3


def test_fast_enough():
    from time import perf_counter

    def f(x, y=3):
        return functools.reduce(lambda a, b: a + b, [x] * y) + len(textwrap.dedent(str(x)))
    fingerprint(f, {})
    best = min(_timed(perf_counter, f) for _ in range(20))
    assert best < 0.001, f"{best * 1e3:.2f} ms"


def _timed(clock, f):
    begin = clock()
    fingerprint(f, {})
    return clock() - begin


# --- values ---

scalars = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
           | st.binary(max_size=9) | st.complex_numbers() | st.just(...))
hashable = scalars | st.tuples(scalars, scalars) | st.frozensets(scalars, max_size=4)
values = st.recursive(hashable | st.sets(hashable, max_size=4), lambda inner:
                      st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=4),
                      max_leaves=8)


def written(value):
    out = bytearray()
    _fingerprint._Walk({}).data(out, value)
    return bytes(out)


def rebuilt(value):
    """An equal value that shares nothing with it, sets filled the other way round."""
    kind = type(value)
    if kind in (list, tuple):
        return kind([rebuilt(item) for item in value])
    if kind in (set, frozenset):
        return kind(sorted(map(rebuilt, value), key=repr, reverse=True))
    if kind is dict:
        return {rebuilt(key): rebuilt(item) for key, item in value.items()}
    if kind in (str, bytes):
        return (value + value[:1])[:len(value)]
    return value


@settings(max_examples=60, deadline=None, database=None)
@given(values)
def test_equal_values_are_written_alike(value):
    assert written(rebuilt(value)) == written(value)


@settings(max_examples=30, deadline=None, database=None)
@given(st.lists(st.text()) | st.lists(st.integers()) | st.lists(st.floats()), st.integers(0, 40))
def test_long_lists_of_one_type(items, times):
    items = items * times
    assert written(items) == written(rebuilt(items))
    assert written(items) != written([*items, None])
    assert not items or written(items) != written(items[1:])


def test_other_values_are_written_otherwise():
    plain = [None, True, False, 0, 1, -1, 255, 10 ** 40, 0.0, -0.0, 1.0, float("nan"), float("inf"),
             1j, -1j, complex(0.0, -0.0), "", "0", "\0", "a", b"", b"0", b"a", ..., NotImplemented]
    found = [*plain, [], (), {}, set(), frozenset(), bytearray(), [[]], [()], ([],), [{}], range(3),
             "ab" * 200, "ab" * 200 + "a", ["a", "b"], ["ab"], ["", "ab"], ("a", "b"), {"a", "b"},
             {"a": "b"}, {"b": "a"}, [1, [2]], [[1], 2], [1, 2], {1: [2]}, {(1, 2): 3},
             {1: 2, 3: 4}, {3: 4, 1: 2}, list("ab" * 16), ["ab"] * 16, list(range(32)),
             [float(i) for i in range(32)], [1] * 32, [1.0] * 32, [True] * 32, ["1"] * 32,
             [b"1"] * 32, int, float, len, str.upper, "x".upper, os.path.join,
             functools.partial(int, base=2), functools.partial(int, base=3)]
    seen = {}
    for value in found:
        data = written(value)
        assert data not in seen, f"{value!r} is written like {seen[data]!r}"
        seen[data] = value
