# SPDX-License-Identifier: MIT
"""Injection: what arrives on a VM, under which name, and what comes along."""
import contextlib
import functools
import os.path
import traceback
import xml.etree.ElementTree
from collections import Counter, namedtuple

import pytest

import trickle
from trickle import TrickleError, inject

LIMIT = 5
TABLE = {1: "a", 2: "b"}
OPERATIONS = {"add": lambda a, b: a + b, "negate": lambda a: -a}
Point = namedtuple("Point", "x y")
COUNTER = 0


def helper(x):
    return x * LIMIT


def uses_its_file(x):
    return helper(x) + len(TABLE)


def uses_modules(path):
    return os.path.basename(path), xml.etree.ElementTree.fromstring("<a/>").tag, Counter("aab")["a"]


class Base:
    factor = LIMIT

    def name(self):
        return type(self).__name__


class Derived(Base):
    def __init__(self, x=LIMIT):
        self.x = helper(x)

    def other(self):
        return Partner().name()


class Partner(Derived):
    pass


def makes_objects():
    return Derived().x, Derived().other(), Point(1, 2).y


def doubled(function):
    def wrapper(*args):
        return 2 * function(*args)
    return wrapper


@doubled
def decorated(x):
    return x + LIMIT


@functools.lru_cache(maxsize=None)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def uses_decorated(x):
    return decorated(x), fibonacci(20), OPERATIONS["add"](x, 1), OPERATIONS["negate"](x)


def counts():
    global COUNTER
    COUNTER += 1
    return COUNTER


def also_counts():
    return counts()


def is_even(n):
    return True if n == 0 else is_odd(n - 1)


def is_odd(n):
    return False if n == 0 else is_even(n - 1)


def default_and_annotation(x: Counter = None, *, limit: int = LIMIT) -> Point:
    return x, limit


@functools.singledispatch
def kind(x):
    return "object"


@kind.register
def _(x: int):
    return "int"


@kind.register(str)
def kind_of_text(x):
    return TABLE[1]


@contextlib.contextmanager
def manager(x):
    yield x * LIMIT


def uses_manager(x):
    with manager(x) as y:
        return y


def fails():
    raise ValueError("here")


def test_function_class_and_data_go_to_one_vm_and_to_a_list(vms):
    table = {1: "a", 2: "b"}
    inject(vms, helper, Derived, table)
    assert [vm.helper(2) for vm in vms] == [10, 10]
    assert [vm.table[2] for vm in vms] == ["b", "b"]
    assert [vm.Derived(1).x for vm in vms] == [5, 5]
    inject(vms[1], is_even)
    assert vms[1].is_even(10) is True
    assert not hasattr(vms[0], "is_even")


def test_what_a_function_uses_from_its_file_comes_along(vm):
    inject(vm, uses_its_file)
    assert vm.uses_its_file(3) == 17


def test_modules_and_submodules_come_along_by_name(vm):
    inject(vm, uses_modules)
    assert vm.uses_modules("/a/b") == ("b", "a", 2)


def test_base_classes_and_classes_used_only_inside_methods_come_along(vm):
    inject(vm, makes_objects)
    assert vm.makes_objects() == (25, "Partner", 2)


def test_class_that_uses_its_own_subclass_arrives(vm):
    inject(vm, Partner)
    assert vm.Partner().other() == "Partner"


def test_decorators_caches_and_lambdas_in_data_come_along(vm):
    inject(vm, uses_decorated)
    assert vm.uses_decorated(3) == (16, 6765, 4, -3)


def test_decorated_function_can_be_injected_itself(vm):
    inject(vm, decorated, fibonacci)
    assert vm.decorated(1) == 12
    assert vm.fibonacci(10) == 55


def test_registered_functions_come_along(vm):
    inject(vm, kind)
    assert (vm.kind(None), vm.kind(1), vm.kind("x")) == ("object", "int", "a")


def test_context_manager_comes_along(vm):
    inject(vm, uses_manager)
    assert vm.uses_manager(2) == 10


def test_method_can_be_injected_as_a_function(vm):
    inject(vm, Base.name)
    assert vm.name(3) == "int"
    bound = Derived(2).other
    inject(vm, bound)
    assert vm.bound() == "Partner"


def test_functions_that_use_each_other_arrive(vm):
    inject(vm, is_even)
    assert vm.is_even(7) is False


def test_defaults_and_annotations_come_along(vm):
    inject(vm, default_and_annotation)
    assert vm.default_and_annotation(1) == (1, 5)


def test_function_inside_a_function_without_free_variables_goes_as_source(vm):
    def local(x, y=[LIMIT]):
        return helper(x) + y[0]
    inject(vm, local)
    assert vm.local(1) == 10


def test_closure_goes_with_its_variables(vm):
    n = [3]

    def closure(x):
        return helper(x) + n[0]
    inject(vm, closure)
    assert vm.closure(1) == 8


def test_local_class_arrives(vm):
    base = LIMIT

    class Local:
        def get(self):
            return base
    inject(vm, Local)
    assert vm.Local().get() == 5


def test_lambdas_on_one_line_are_told_apart(vm):
    first, second = lambda x: x + 1, lambda x: x + 2
    inject(vm, first, second, third=lambda x, y=(lambda: 7): x + y())
    assert (vm.first(0), vm.second(0), vm.third(0)) == (1, 2, 7)


def test_default_of_a_lambda_is_the_value_it_had(vm):
    functions = [lambda x, i=i: x + i for i in range(3)]
    for i, function in enumerate(functions):
        inject(vm, f=function)
        assert vm.f(10) == 10 + i


def test_function_without_any_source_arrives(vm):
    space = {"__name__": "__main__"}
    exec("def made(x):\n    return x * factor\nfactor = 4", space)
    inject(vm, space["made"])
    assert vm.made(2) == 8


def test_injecting_again_replaces(vm):
    value = [1]
    inject(vm, value)
    vm.value.append(2)
    value = [9]
    inject(vm, value)
    assert vm.value == [9]
    inject(vm, f=lambda: 1)
    inject(vm, f=lambda: 2)
    assert vm.f() == 2
    inject(vm, f=3)
    assert vm.f == 3


def test_dependency_keeps_its_state_when_a_second_function_brings_it(vm):
    inject(vm, counts)
    assert (vm.counts(), vm.counts()) == (1, 2)
    inject(vm, also_counts)
    assert vm.also_counts() == 3


def test_changed_constant_arrives_with_the_next_injection(vm, monkeypatch):
    inject(vm, uses_its_file)
    monkeypatch.setitem(globals(), "LIMIT", 100)
    inject(vm, uses_its_file)
    assert vm.uses_its_file(1) == 102


def test_data_is_named_by_its_variable(vm):
    names = ["a"]
    inject(vm, names, TABLE)
    assert vm.names == ["a"]
    assert vm.TABLE == {1: "a", 2: "b"}


def test_ambiguous_data_is_an_error_that_shows_the_keyword_form(vm):
    first = second = [1]
    with pytest.raises(TrickleError, match=r"first and second.*inject\(vms, first=first\)"):
        inject(vm, first)
    assert second is first
    inject(vm, second=second)
    assert vm.second == [1]


def test_data_without_a_variable_is_an_error_that_shows_the_keyword_form(vm):
    with pytest.raises(TrickleError, match=r"inject\(vms, name=obj\)"):
        inject(vm, [1, 2])


def test_two_objects_of_one_name_are_an_error(vm):
    def helper():
        return None
    with pytest.raises(TrickleError, match="two of these objects are called 'helper'"):
        inject(vm, helper, globals()["helper"])


def test_unpicklable_data_is_an_error_before_anything_is_sent(vm):
    first, stream = [1], (x for x in [1])
    with pytest.raises(TypeError, match="'stream' cannot be injected.*generator"):
        inject(vm, first, stream)
    assert not hasattr(vm, "first")


def test_unpicklable_global_is_named_together_with_its_user(vm, monkeypatch):
    monkeypatch.setitem(globals(), "TABLE", (x for x in [1]))
    with pytest.raises(TypeError, match="'TABLE', which uses_its_file uses, cannot be injected"):
        inject(vm, uses_its_file)


def test_what_lives_on_a_vm_cannot_be_injected(vms):
    vms[0].names = [1]
    proxy = vms[0].names
    for thing in (proxy, vms[0], vms, vms[0].len):
        with pytest.raises(TrickleError, match="lives on a VM"):
            inject(vms, thing=thing)
    nested = [proxy]
    with pytest.raises(TrickleError, match="'nested' cannot be injected"):
        inject(vms, nested)


def test_module_and_builtin_function_can_be_injected(vm):
    import math
    inject(vm, math, math.sqrt)
    assert vm.math.floor(2.5) == 2
    assert vm.sqrt(9) == 3


def test_traceback_shows_file_line_and_text(vm):
    inject(vm, fails)
    with pytest.raises(ValueError) as caught:
        vm.fails()
    text = "".join(traceback.format_exception(caught.value))
    line = fails.__code__.co_firstlineno + 1
    assert f'test_inject.py", line {line}, in fails' in text
    assert 'raise ValueError("here")' in text.split("direct cause")[0]


def test_traceback_of_a_lambda_shows_its_text(vm):
    inject(vm, f=lambda x: 1 // x)
    with pytest.raises(ZeroDivisionError) as caught:
        vm.f(0)
    assert "1 // x" in str(caught.value.__cause__)


LOCAL_MODULES = {
    "tools/__init__.py": "from .inner import base\nfrom . import numbers as n\nNAME = 'tools'\n",
    "tools/inner.py": "import sidekick\ndef base(x):\n    return sidekick.twice(x)\n",
    "tools/numbers.py": "ONE = 1\n",
    "sidekick.py": "def twice(x):\n    return 2 * x\n",
    "late.py": "def lately():\n    return 'late'\n",
}


def test_local_modules_come_along_whole_and_can_be_imported_there(run_program):
    result = run_program("""
import tools
from sidekick import twice
from trickle import connect, inject

def f(x):
    from late import lately
    import tools.numbers
    return tools.base(x) + twice(1) + tools.numbers.ONE, lately(), tools.__name__

vms = connect(1)
inject(vms, f, twice)
print(vms[0].f(10), vms[0].twice(4))
""", files=LOCAL_MODULES)
    assert result.out == "(23, 'late', 'tools') 8\n", result.err


def test_module_that_is_not_on_the_vm_is_named_with_advice(run_program):
    result = run_program("""
import sys, types
from trickle import connect, inject
sys.path.insert(0, 'site-packages')
import installed_here
def f():
    return installed_here.x
vms = connect(1)
try:
    inject(vms, f)
except ModuleNotFoundError as error:
    print(error.name, error.__notes__[0])
""", files={"site-packages/installed_here.py": "x = 1\n"})
    assert result.out.startswith("installed_here The code that was injected uses the module")
    assert "--python PATH" in result.out


def test_local_extension_module_is_an_error_that_says_so(run_program):
    result = run_program("""
import sys, types
from trickle import connect, inject, TrickleError
fast = types.ModuleType('fast'); fast.__file__ = '/somewhere/fast.so'; sys.modules['fast'] = fast
def f():
    return fast.x
try:
    inject(connect(1), f)
except TrickleError as error:
    print(error)
""")
    assert "neither Python source (/somewhere/fast.so) nor installed" in result.out, result.err


def test_instance_of_a_class_brings_its_class(vm):
    point = Derived(2)
    inject(vm, point)
    assert vm.point.x == 10
    assert vm.point.other() == "Partner"


def test_injected_into_the_list_is_known_to_a_slice(vms):
    inject(vms, helper)
    assert [vm.helper(1) for vm in vms[0:1]] == [5]
    assert trickle.join(trickle.fork(vms[1:], helper, [3])) == [15]
