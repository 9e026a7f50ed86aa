# SPDX-License-Identifier: MIT
"""Synchronous remote access (sections 2.2 of the paper): calls, attributes, objects."""
import gc
import os
import subprocess
import sys
import threading

import pytest

import trickle
from trickle import Proxy, TrickleError, fetch, inject

ALIVE = []


class Stack:
    def __init__(self, *items):
        self.stack = list(items)
        ALIVE.append(1)

    def __del__(self):
        if ALIVE:  # a copy made here has not been counted here
            ALIVE.pop()

    def push(self, x):
        self.stack.append(x)
        return self

    def pop(self):
        return self.stack.pop()

    def __str__(self):
        return str(self.stack)

    def fail(self):
        raise KeyError(self.stack)

    def pair(self):
        return [Stack(), (1, self)]


def alive():
    return len(ALIVE)


def echo(*args, **kwargs):
    return args, kwargs


def identity(x):
    return x


def opened():
    return open(os.devnull)


def test_injected_and_builtin_functions_are_called(vm):
    inject(vm, identity)
    assert vm.identity(3) == 3
    assert vm.range(3) == range(3)
    assert vm.sum([1, 2]) == 3
    assert vm.sorted([2, 1], reverse=True) == [2, 1]


@pytest.mark.parametrize("value", [
    None, True, 0, -1, 255, 256, 65536, 2**31, -2**63, 2**70, 1.5, float("inf"), "", "a",
    "é\ud800",
    "x" * 100_000, b"", b"\0" * 70_000, (), (1,), (1, "a", None), [], [1, [2]], {"a": 1}, {1, 2},
    frozenset({1}), 1j, range(3), slice(1, 2), ..., bytearray(b"x"), [1.5] * 1000], ids=repr)
def test_plain_values_survive_the_way_there_and_back(vm, value):
    inject(vm, identity)
    back = vm.identity(value)
    assert back == value
    assert type(back) is type(value)


def test_arguments_by_position_and_name(vm):
    inject(vm, echo)
    assert vm.echo() == ((), {})
    assert vm.echo([1, {}]) == (([1, {}],), {})
    assert vm.echo((), {}, a=1) == (((), {}), {"a": 1})
    assert vm.echo([(1,), {}]) == (([(1,), {}],), {})


def test_data_is_changed_in_place(vms):
    names = ["Alex", "Sami", "Greg", "Peter"]
    inject(vms, names)
    for i, vm in enumerate(vms):
        vm.names[i] = "*NONE*"
    assert [str(vm.names) for vm in vms] == [
        "['*NONE*', 'Sami', 'Greg', 'Peter']", "['Alex', '*NONE*', 'Greg', 'Peter']"]
    assert names == ["Alex", "Sami", "Greg", "Peter"]


def test_attribute_reads_give_immutable_values_and_references(vm):
    vm.number, vm.text, vm.pair, vm.items = 1, "a", (1, "b"), [1]
    assert (type(vm.number), type(vm.text), type(vm.pair)) == (int, str, tuple)
    assert isinstance(vm.items, Proxy)
    mixed = (1, [2])
    inject(vm, mixed)
    vm.mixed[1].append(3)
    assert vm.mixed == (1, [2, 3])


def test_nested_data_is_changed_through_items(vm):
    table = {"a": {"b": [1]}}
    inject(vm, table)
    vm.table["a"]["b"].append(2)
    vm.table["a"]["c"] = 3
    assert fetch(vm.table) == {"a": {"b": [1, 2], "c": 3}}


def test_names_are_set_and_deleted(vm):
    vm.x = [1]
    vm.x += [2]
    assert vm.x == [1, 2]
    del vm.x
    assert not hasattr(vm, "x")
    with pytest.raises(AttributeError):
        del vm.x


def test_name_can_change_between_function_and_data(vm):
    inject(vm, identity)
    assert vm.identity(1) == 1
    vm.identity = 5
    assert vm.identity == 5
    inject(vm, identity)
    assert vm.identity(2) == 2


def test_builtin_name_that_is_shadowed_by_data_is_data(vm):
    inject(vm, max=[3])
    assert vm.max == [3]


def test_exec_and_eval_see_the_names_of_the_vm(vm):
    vm.exec("a = 1\ndef f(x): return x + a")
    assert vm.eval("f(2)") == 3
    assert vm.f(4) == 5
    assert "a" in vm.dir()


def test_objects_live_on_the_vm(vm):
    inject(vm, Stack)
    s = vm.Stack()
    s.push("A")
    s.push("B")
    s.push("C")
    assert s.pop() == "C"
    assert str(s) == "['A', 'B']"
    assert s.stack == ["A", "B"]


def test_object_lives_as_long_as_a_proxy(vm):
    inject(vm, Stack, alive)
    s, t = vm.Stack(), vm.Stack()
    assert vm.alive() == 2
    again = s.push(1)
    del s
    assert vm.alive() == 2
    del again, t
    assert vm.alive() == 0


def test_objects_in_containers_are_released_too(vm):
    inject(vm, Stack, alive)
    s = vm.Stack()
    fresh, (one, same) = s.pair()
    assert (one, same == s, vm.alive()) == (1, True, 2)
    del fresh
    assert vm.alive() == 1
    del same, s
    assert vm.alive() == 0


def test_objects_are_released_over_an_exception(vm):
    inject(vm, Stack, alive)

    def use():
        s = vm.Stack()
        s.fail()
    with pytest.raises(KeyError):
        use()
    gc.collect()
    assert vm.alive() == 0


def test_objects_are_released_by_another_thread(vm):
    inject(vm, Stack, alive)
    held = [vm.Stack()]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert vm.alive() == 0


def test_result_of_a_fork_that_nobody_joins_is_released(vm):
    inject(vm, Stack, alive)
    trickle.fork(vm, Stack)
    assert vm.alive() == 1
    for _ in range(2):
        trickle.join(trickle.fork(vm, alive))
    assert vm.alive() == 0


def test_fetch_copies(vm):
    inject(vm, Stack)
    s = vm.Stack(1, 2)
    copy = fetch(s)
    assert isinstance(copy, Stack)
    assert copy.stack == [1, 2]
    assert fetch(s.stack) == [1, 2]
    assert fetch(5) == 5
    with pytest.raises(TypeError, match="cannot be pickled"):
        fetch(vm.eval("(x for x in [])"))


def test_unpicklable_results_come_by_reference(vm):
    inject(vm, opened)
    with vm.opened() as file:
        assert file.closed is False
        assert file.read() == ""
    assert file.closed is True


def test_modules_and_generators_are_reached_by_reference(vm):
    vm.exec("import math\ndef g():\n    yield from range(3)")
    assert vm.math.sqrt(4) == 2
    assert list(vm.g()) == [0, 1, 2]


def test_proxy_is_an_argument_for_its_own_vm(vm):
    inject(vm, Stack, identity)
    vm.items = [1]
    assert vm.len(vm.items) == 1
    s = vm.Stack(vm.items)
    vm.items.append(2)
    assert str(s) == "[[1, 2]]"
    vm.alias = vm.items
    vm.alias.append(3)
    assert vm.items == [1, 2, 3]


def test_function_of_the_vm_is_an_argument(vm):
    inject(vm, identity)
    assert list(vm.map(vm.identity, [1, 2])) == [1, 2]
    vm.items = [3]
    vm.list(vm.map(vm.items.append, [4]))
    assert vm.items == [3, 4]


def test_proxy_of_another_vm_is_refused(vms):
    vms[0].items = [1]
    with pytest.raises(TrickleError, match=r"cannot be sent to .* trickle.fetch"):
        vms[1].len(vms[0].items)
    with pytest.raises(TrickleError, match="cannot be sent"):
        vms[1].len([vms[0].items])


def test_handles_and_lists_cannot_be_sent(vms):
    for thing in (vms[0], vms):
        with pytest.raises(TrickleError, match="belongs to this program"):
            vms[0].len(thing)


def test_what_user_code_prints_appears_here_marked_with_the_vm(run_program):
    result = run_program("""
import sys
from trickle import connect
vms = connect(2)
vms[0].print("to stdout")
vms[1].exec("import sys; sys.stderr.write('to stderr\\\\nand more\\\\n')")
vms[0].print("no newline", end="")
""")
    first, *lines = result.err.splitlines()
    assert first == "[trickle: discovered 2 VMs]"
    texts = [line.partition("] ")[2] for line in lines]
    assert sorted(texts) == ["and more", "no newline", "to stderr", "to stdout"]
    assert all(line.startswith("[vm ") for line in lines)


def test_proxies_at_interpreter_exit_are_silent(run_program):
    result = run_program("""
from trickle import connect
vms = connect(1)
vms[0].items = [1]
kept = vms[0].items
class Holder:
    pass
holder = Holder()
holder.me, holder.proxy = holder, vms[0].items
import builtins
builtins.kept_too = vms[0].items
""")
    assert (result.status, result.err) == (0, "[trickle: discovered 1 VM]\n")


def test_names_and_objects_are_gone_with_the_lease(supervisor):
    with trickle.connect(4) as first:
        inject(first, identity)
        assert first[0].identity(1) == 1
    with trickle.connect(4) as second:
        assert not any(hasattr(vm, "identity") for vm in second)


def test_help_and_types_are_there():
    for name in trickle.__all__:
        assert getattr(trickle, name).__doc__, name
        assert name in dir(trickle)


def test_import_is_light(supervisor):
    heavy = "inspect typing ast cloudpickle traceback linecache pickle trickle._work"
    code = f"import sys, trickle; print([m for m in {heavy.split()} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, "
                          f"{supervisor.env['PYTHONPATH']!r}); {code}"],
                         capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"
