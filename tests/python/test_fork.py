# SPDX-License-Identifier: MIT
"""fork, join and joinany (section 2.3 of the paper)."""
import math
import time

import pytest

import trickle
from trickle import Handle, TrickleError, fork, inject, join, joinany, same


def foo(x):
    return x + 10


def bar(x):
    return x + 20


def add(a, b=0, *rest, scale=1):
    return (a + b + sum(rest)) * scale


def fail(x):
    raise ValueError(x)


class Counter:
    def __init__(self, n=0):
        self.n = n

    def up(self, by=1):
        self.n += by
        return self.n

    def __call__(self, x):
        return self.n * x


@pytest.fixture
def ready(vms):
    inject(vms, foo, bar, add, fail, Counter)
    return vms


def test_one_function_on_one_vm(ready):
    h0, h1 = fork(ready[0], foo, 1), fork(ready[1], bar, 2)
    assert isinstance(h0, Handle)
    assert (h0.vm, h1.vm) == (ready[0], ready[1])
    assert (join(h0), join(h1)) == (11, 22)


def test_one_function_on_a_list_with_the_same_arguments(ready):
    assert join(fork(ready, add, 1, 2)) == [3, 3]
    assert join(fork(ready, add, 1, 2, 3, scale=2)) == [12, 12]
    assert join(fork(ready, foo, 5)) == [15, 15]


def test_list_of_functions_on_a_list(ready):
    assert join(fork(ready, [foo, bar], 1)) == [11, 21]
    assert join(fork(ready[0:2], [foo, bar], [1, 2])) == [11, 22]
    assert join(fork(ready, (foo, bar), range(2))) == [10, 21]


def test_one_function_with_a_list_of_arguments(ready):
    assert join(fork(ready, foo, range(len(ready)))) == [10, 11]
    assert join(fork(ready, foo, [5, 6])) == [15, 16]


def test_same_gives_the_whole_list_to_every_vm(ready):
    assert join(fork(ready, sum, same([1, 2, 3]))) == [6, 6]
    assert join(fork(ready, sum, same(range(4)))) == [6, 6]
    assert join(fork(ready[0], sum, same([1, 2]))) == 3


def test_tuple_argument_is_not_mapped(ready):
    assert join(fork(ready, sum, (1, 2, 3))) == [6, 6]


def test_list_beside_other_arguments_is_not_mapped(ready):
    assert join(fork(ready, sum, [1, 2, 3], 4)) == [10, 10]


@pytest.mark.parametrize("args", [[1], [1, 2, 3], range(3), []], ids=repr)
def test_wrong_number_of_arguments_is_an_error_before_anything_runs(ready, args):
    with pytest.raises(ValueError, match=rf"is {len(args)}, that of VMs is 2.*trickle.same"):
        fork(ready, foo, args)


def test_wrong_number_of_functions_is_an_error(ready):
    with pytest.raises(ValueError, match="number of functions is 1, that of VMs is 2"):
        fork(ready, [foo], 1)


def test_empty_list_of_vms_is_an_error():
    with pytest.raises(ValueError, match="list of VMs is empty"):
        fork([], foo, 1)


@pytest.mark.parametrize("vms", [None, 3, "vms", [1]], ids=repr)
def test_what_is_no_vm_is_an_error(vms):
    with pytest.raises(TypeError, match="a VM or a list of VMs is wanted"):
        fork(vms, foo, 1)


def test_function_by_name_class_and_builtin(ready):
    vm = ready[0]
    assert join(fork(vm, "foo", 1)) == 11
    assert join(fork(vm, vm.foo, 2)) == 12
    assert join(fork(vm, pow, 2, 5)) == 32
    assert join(fork(vm, "pow", 2, 5)) == 32
    assert join(fork(vm, math.sqrt, 9)) == 3
    assert join(fork(vm, Counter, n=4)).n == 4


def test_methods_and_callable_objects(ready):
    counters = [vm.Counter(i) for i, vm in enumerate(ready)]
    assert join(fork(ready[0], counters[0].up, by=5)) == 5
    assert join(fork(ready, [c.up for c in counters], [1, 2])) == [6, 3]
    assert join(fork(ready[1], counters[1], 10)) == 30
    with pytest.raises(TrickleError, match="lives on"):
        fork(ready[1], counters[0].up)


def test_function_that_was_not_injected_is_an_error_with_advice(ready):
    def other(x):
        return x
    with pytest.raises(TrickleError, match=r"other has not been injected.*inject\(vms, other\)"):
        fork(ready[0], other, 1)


def test_function_that_changed_since_is_an_error_with_advice(ready):
    def foo(x):
        return "new"
    with pytest.raises(TrickleError, match="another object than the foo that was injected"):
        fork(ready[0], foo, 1)
    inject(ready, foo)
    assert join(fork(ready[0], foo, 1)) == "new"


def test_what_cannot_be_called_is_an_error(ready):
    with pytest.raises(TypeError, match="cannot be called"):
        fork(ready[0], 3)


def test_join_of_a_list_keeps_its_order(ready):
    handles = [fork(ready[i % 2], foo, i) for i in range(20)]
    assert join(handles) == [i + 10 for i in range(20)]
    assert join(tuple(handles[:2])) == [10, 11]
    assert join(h for h in handles[:2]) == [10, 11]
    assert join([]) == []


def test_join_twice_gives_the_same_answer(ready):
    h = fork(ready[0], Counter)
    assert join(h) is join(h)
    h = fork(ready[0], fail, 1)
    errors = []
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            join(h)
        errors.append(caught.value)
    assert errors[0] is errors[1]


def test_exception_comes_at_join_and_others_are_not_lost(ready):
    handles = fork(ready, [foo, fail], 1)
    with pytest.raises(ValueError):
        join(handles)
    assert join(handles[0]) == 11


def test_joinany_gives_one_after_the_other(ready):
    handles = [fork(ready[0], time.sleep, 0.2), fork(ready[1], foo, 1), fork(ready[1], foo, 2)]
    first, value = joinany(handles)
    assert (first, value) == (handles[1], 11)
    assert joinany(handles) == (handles[2], 12)
    assert joinany(handles) == (handles[0], None)
    assert joinany(handles)[0] in handles


def test_joinany_raises_the_exception_of_the_call_and_goes_on(ready):
    handles = [fork(ready[0], fail, 1), fork(ready[0], foo, 1)]
    with pytest.raises(ValueError):
        joinany(handles)
    assert joinany(handles) == (handles[1], 11)


def test_what_is_no_handle_is_an_error(ready):
    for wrong in (3, "ab", ready, ready[0], {}):
        with pytest.raises(TypeError):
            join(wrong)
        with pytest.raises(TypeError):
            joinany(wrong)
    with pytest.raises(TypeError, match="a handle that fork returned"):
        join([1])
    with pytest.raises(ValueError):
        joinany([])


def test_thousands_outstanding_on_one_vm(ready):
    handles = [fork(ready[0], foo, i) for i in range(5000)]
    assert join(handles) == [i + 10 for i in range(5000)]


def test_calls_run_in_the_order_they_were_forked(ready):
    counter = ready[0].Counter()
    handles = [fork(ready[0], counter.up) for _ in range(100)]
    assert counter.up() == 101
    assert join(handles) == list(range(1, 101))


def test_handle_says_whether_it_is_done(ready):
    h = fork(ready[0], foo, 1)
    join(fork(ready[0], foo, 2))
    assert h.is_done
    assert "done" in repr(h)


def test_two_vms_run_at_the_same_time(ready):
    begin = time.monotonic()
    join(fork(ready, time.sleep, 0.3))
    assert time.monotonic() - begin < 0.55


def test_unpicklable_argument_is_an_error_at_once(ready):
    with pytest.raises(TypeError, match="argument 1, of type generator"):
        fork(ready[0], foo, (x for x in []))
    with pytest.raises(TypeError, match="argument scale, of type generator"):
        fork(ready[0], add, 1, scale=(x for x in []))


def test_handles_cannot_be_sent(ready):
    with pytest.raises(TrickleError, match="belongs to this program"):
        ready[0].foo(fork(ready[0], foo, 1))


def test_fork_on_a_list_that_was_closed_raises(supervisor):
    vms = trickle.connect(1)
    vm = vms[0]
    vms.close()
    with pytest.raises(trickle.TrickleError):
        for _ in range(100):  # closing is begun, not waited for
            join(fork(vm, pow, 2, 2))
            time.sleep(0.05)
