# SPDX-License-Identifier: MIT
"""Dynamic scheduling: forkwork and forkgen (section 2.4 of the paper)."""
import itertools
import os
import signal
import threading
import time

import pytest

import trickle
from trickle import TrickleError, VMList, WorkFailed, forkgen, forkwork, inject


def square(x):
    return x * x


def total(chunk):
    return sum(chunk)


def fail_on_three(x):
    if x == 3:
        raise ValueError("three", x)
    return x


def slow_square(x):
    time.sleep(0.01 * (5 - x % 5))
    return x * x


def pid(x):
    time.sleep(0.001)
    return os.getpid()


def leave(x):
    os._exit(3)


class Thing:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Thing and self.x == other.x


def make_thing(x):
    return [Thing(x)]


def thing_in(thing):
    return thing.x


def generator_result(x):
    return (i for i in range(x))


def test_results_are_in_the_order_of_the_work(vms):
    assert forkwork(vms, slow_square, range(20)) == [x * x for x in range(20)]


def test_work_goes_to_all_vms(vms):
    assert len(set(forkwork(vms, pid, range(200)))) == 2


def test_chunks_are_lists_of_up_to_that_many_elements(vms):
    assert forkwork(vms, total, range(10), chunksize=3) == [3, 12, 21, 9]
    assert forkwork(vms, total, range(10), 4) == [6, 22, 17]
    assert forkwork(vms, list, range(2), chunksize=1) == [[0], [1]]
    assert forkwork(vms, len, range(4), chunksize=100) == [4]


@pytest.mark.parametrize("chunksize, error", [(0, ValueError), (-1, ValueError), ("2", TypeError),
                                              (1.5, TypeError), (True, TypeError)])
def test_wrong_chunksize_is_an_error(vms, chunksize, error):
    with pytest.raises(error, match="chunksize is a number"):
        forkwork(vms, total, [1], chunksize=chunksize)


def test_no_work_gives_no_results(vms):
    assert forkwork(vms, square, []) == []
    assert list(forkgen(vms, square, iter(()))) == []


@pytest.mark.parametrize("work", [(1, 2), {1: "a", 2: "b"}, iter([1, 2]), range(1, 3),
                                  (x for x in (1, 2))], ids=lambda w: type(w).__name__)
def test_any_iterable_is_work(vms, work):
    assert forkwork(vms, square, work) == [1, 4]


def test_what_is_not_iterable_is_an_error(vms):
    with pytest.raises(TypeError):
        forkwork(vms, square, 5)


def test_function_is_injected_when_it_was_not(vms):
    n = 3
    assert forkwork(vms, lambda x: x + n, [1]) == [4]
    assert forkwork(vms, lambda x, y=5: x + y, [1]) == [6]
    assert forkwork(vms, str.upper, ["a"]) == ["A"]
    assert forkwork(vms, abs, [-1]) == [1]


def test_function_by_name(vms):
    inject(vms, square)
    assert forkwork(vms, "square", [2]) == [4]
    assert forkwork(vms, vms[0].square, [2]) == [4]
    assert forkwork(vms, "abs", [-2]) == [2]
    with pytest.raises(AttributeError, match="no 'nothing' on this VM"):
        forkwork(vms, "nothing", [1])


def test_changed_function_is_not_mistaken_for_the_injected_one(vms):
    def square(x):
        return "local"
    inject(vms, globals()["square"])
    assert forkwork(vms, square, [2]) == ["local"]
    assert vms[0].square(2) == 4


def test_fixed_list_and_single_vm(vms):
    one = forkwork(vms[0:1], pid, range(20))
    assert set(one) == {trickle._proxy.vm_info(vms[0])["pid"]}
    assert forkwork(vms[1], square, [3]) == [9]
    assert forkwork((vms[0], vms[1]), square, [3]) == [9]
    with pytest.raises(ValueError):
        forkwork([], square, [1])


def test_instances_of_injected_classes_are_results_by_value(vms):
    assert forkwork(vms, make_thing, [1, 2]) == [[Thing(1)], [Thing(2)]]
    inject(vms, thing_in, Thing)
    assert forkwork(vms, thing_in, [Thing(5)]) == [5]


def test_element_whose_class_is_not_there_says_what_to_do(vms):
    with pytest.raises(TrickleError, match="inject the classes"):
        forkwork(vms, "str", [Thing(1)])


def test_exception_ends_the_work_and_is_raised_with_its_type(vms):
    with pytest.raises(ValueError) as caught:
        forkwork(vms, fail_on_three, range(1000))
    assert caught.value.args == ("three", 3)
    assert "fail_on_three" in str(caught.value.__cause__)
    assert "element 3 of fail_on_three" in caught.value.__notes__[0]
    assert forkwork(vms, square, [2]) == [4]


def test_failures_can_take_the_place_of_results(vms):
    results = forkwork(vms, fail_on_three, range(5), on_error="return")
    failed = results.pop(3)
    assert results == [0, 1, 2, 4]
    assert isinstance(failed, WorkFailed)
    assert (failed.index, type(failed.exception)) == (3, ValueError)
    assert "element 3 of fail_on_three failed: ValueError: ('three', 3)" == failed.reason
    assert [a.outcome for a in failed.attempts] == ["exception"]
    with pytest.raises(ValueError, match="on_error"):
        forkwork(vms, square, [1], on_error="ignore")


def test_generator_yields_failures_too(vms):
    results = list(forkgen(vms, fail_on_three, range(5), on_error="return", ordered=True))
    assert isinstance(results[3], WorkFailed)
    with pytest.raises(ValueError):
        list(forkgen(vms, fail_on_three, range(5)))


def test_unpicklable_result_fails_with_a_sentence(vms):
    with pytest.raises(TypeError, match="value of type generator cannot be pickled"):
        forkwork(vms, generator_result, [1])


def test_unpicklable_element_fails_with_a_sentence(vms):
    with pytest.raises(TypeError, match="value of type generator cannot be pickled"):
        forkwork(vms, square, [1, (x for x in [])])
    with pytest.raises(TypeError, match="value of type list cannot be pickled"):
        forkwork(vms, total, [1, (x for x in [])], chunksize=2)


def test_proxy_as_element_or_function_is_an_error(vms):
    vms[0].items = [1]
    with pytest.raises(TrickleError, match="trickle.fetch"):
        forkwork(vms, len, [vms[0].items])
    with pytest.raises(TrickleError, match="cannot be a remote object"):
        forkwork(vms, vms[0].items.append, [1])
    with pytest.raises(TypeError, match="takes a function"):
        forkwork(vms, 3, [1])


def test_exception_of_the_iterable_comes_out(vms):
    def broken():
        yield 1
        raise LookupError("no more")
    with pytest.raises(LookupError, match="no more"):
        forkwork(vms, square, broken())
    with pytest.raises(LookupError, match="no more"):
        list(forkgen(vms, square, broken()))
    assert forkwork(vms, square, [3]) == [9]


def test_generator_gives_all_results(vms):
    assert sorted(forkgen(vms, square, range(1000))) == [x * x for x in range(1000)]
    assert list(forkgen(vms, slow_square, range(20), ordered=True)) == [x * x for x in range(20)]
    assert sorted(forkgen(vms, total, range(10), chunksize=3)) == [3, 9, 12, 21]


def test_generator_checks_its_arguments_when_called(vms):
    with pytest.raises(ValueError):
        forkgen(vms, square, [1], chunksize=0)


def test_endless_iterable_is_pulled_as_needed_on_the_calling_thread(vms):
    pulled = []

    def endless():
        for i in itertools.count():
            pulled.append(threading.get_ident())
            yield i
    results = forkgen(vms, square, endless(), ordered=True)
    assert [next(results) for _ in range(1000)] == [x * x for x in range(1000)]
    results.close()
    assert set(pulled) == {threading.get_ident()}
    assert len(pulled) < 1_000_000
    assert forkwork(vms, square, [3]) == [9]


def test_slow_iterable_does_not_keep_the_vms_waiting(vms):
    def slow():
        for i in range(6):
            time.sleep(0.1)
            yield i
    begin = time.monotonic()
    first = next(results := forkgen(vms, square, slow()))
    assert first == 0
    assert time.monotonic() - begin < 0.45
    assert sorted(results) == [1, 4, 9, 16, 25]


def test_many_elements(vms):
    n = 200_000
    assert forkwork(vms, square, range(n)) == [x * x for x in range(n)]


def test_memory_stays_flat_over_a_long_generator(run_program):
    result = run_program("""
import resource
from trickle import connect, forkgen
vms = connect(2)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = 0
for x in forkgen(vms, abs, iter(range(400_000))):
    count += 1
    if count == 100_000:
        before = peak()
print(count, peak() - before < 40_000)
""")
    assert result.out == "400000 True\n", result.err


def test_large_elements_and_results(vms):
    sizes = forkwork(vms, len, [b"x" * 30_000_000, b"y"])
    assert sizes == [30_000_000, 1]
    assert [len(x) for x in forkwork(vms, lambda n: b"x" * n, [20_000_000, 5])] == [20_000_000, 5]


def test_element_that_ends_its_vm_fails_with_a_sentence(vms):
    with pytest.raises(WorkFailed, match="element 0 of leave failed") as caught:
        forkwork(vms, leave, [0])
    assert len(caught.value.attempts) == 3
    assert forkwork(vms, square, [3]) == [9]


def test_vm_that_dies_costs_no_result(vms):
    flag = f"/tmp/trickle-test-{os.getpid()}-{time.monotonic_ns()}"

    def dies_once(x, flag=flag):
        if x == 50:
            try:
                os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return x
            os.kill(os.getpid(), signal.SIGKILL)
        return x
    try:
        assert forkwork(vms, dies_once, range(100)) == list(range(100))
    finally:
        os.unlink(flag)


def test_list_is_refreshed_after_a_loss(vms):
    lost = vms[0]
    inject(vms, square)
    with pytest.raises(trickle.VMLost):
        lost.eval("__import__('os')._exit(1)")
    assert forkwork(vms, square, range(10)) == [x * x for x in range(10)]
    with pytest.raises(trickle.VMLost):
        lost.square(2)
    assert "lost" in repr(lost)


def test_bar_is_not_shown_where_there_is_no_terminal(run_program):
    result = run_program("""
import time
from trickle import connect, forkwork
def f(x):
    time.sleep(0.4)
forkwork(connect(1), f, [1, 2])
""")
    assert result.err == "[trickle: discovered 1 VM]\n"


INTERRUPTED = """
import os, signal, sys, time
from trickle import connect, forkwork, forkgen
def stubborn(x):
    time.sleep(0.05) if x < 5 else time.sleep(100)
vms = connect(2)
begin = None
def work():
    global begin
    for i in range(100):
        if i == 20:
            begin = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT) if WHEN == 'now' else signal.setitimer(
                signal.ITIMER_REAL, 0.5)
        yield i
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    RUN(vms, stubborn, work())
except KeyboardInterrupt:
    print(time.monotonic() - begin < 1.5)
del vms
print(forkwork(connect(2), abs, [-1]))
"""


@pytest.mark.parametrize("run", ["forkwork", "list(forkgen)"])
@pytest.mark.parametrize("when", ["now", "later"])
def test_ctrl_c_ends_within_a_second_and_leaves_no_busy_vm(run_program, run, when):
    call = "forkwork" if run == "forkwork" else "(lambda *a: list(forkgen(*a)))"
    text = INTERRUPTED.replace("RUN", call).replace("WHEN", repr(when))
    result = run_program(text, timeout=20)
    assert result.out == "True\n[1]\n", result.err


def test_vmlist_is_a_list(vms):
    assert isinstance(vms, VMList)
    assert len(vms) == 2
    assert vms[-1] is vms[1]
    assert [*vms] == [vms[0], vms[1]] == vms[:] == vms[0:2]
    assert vms[1] in vms and vms.index(vms[1]) == 1
    assert type(vms[:1]) is list
    assert vms + [] == vms[:]
    assert list(reversed(vms)) == [vms[1], vms[0]]
    assert repr(vms) == "<VMList of 2 VMs>"
    with pytest.raises(IndexError):
        vms[2]


def test_a_generator_that_may_only_take_waits_for_results():
    """In a resumed job, where the next element is made after a result that still runs."""
    from trickle._work import ADD, TAKE, _Run

    class Work:
        turns = [ADD, TAKE, TAKE]

        def turn(self):
            return self.turns.pop(0) if self.turns else 0

    run = object.__new__(_Run)
    run.key, run.is_exhausted, run.work, timeouts = "key", False, Work(), []
    run.feed, run.show, run.finish, run.cancel = (lambda: True), (lambda: 0), (lambda: 0), print

    def take(timeout):
        timeouts.append(timeout)
        return None if len(timeouts) < 3 else (0, 0, "value", 1)
    run.take = take
    assert next(run.generate()) == "value"
    assert timeouts[0] == 0 and timeouts[1] > 0 and timeouts[2] > 0
