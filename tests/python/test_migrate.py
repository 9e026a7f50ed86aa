# SPDX-License-Identifier: MIT
"""vm.migrate(to): what lives on one VM goes to another, and proxies follow."""
import threading

import pytest

import trickle
from trickle import TrickleError, VMLost, fetch, fork, forkwork, inject, join

LIMIT = 3
seen = []


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)
        return self

    def pop(self):
        return self.items.pop()


class Tower(Stack):
    pass


def note(x):
    seen.append(x)
    return len(seen) <= LIMIT


def pid():
    import os
    return os.getpid()


def numbers():
    yield from range(5)


def square(x):
    return x * x


def test_a_proxy_goes_on_working_on_the_other_vm(vms):
    inject(vms[0], Tower)
    tower = vms[0].Tower()
    tower.push(1)
    push = tower.push
    moved = vms[0].migrate(vms[1])
    assert (moved.names, moved.objects, moved.to) == ([], 1, vms[1])
    assert "1 remote object moved to <VM" in str(moved)
    push(2)
    assert tower.pop() == 2 and fetch(tower.items) == [1]
    assert isinstance(fetch(tower), Tower)
    assert vms[1].isinstance(tower, vms[1].Tower)
    with pytest.raises(TrickleError, match="lives on"):
        vms[0].isinstance(tower, vms[0].Tower)


def test_data_moves_with_its_names_and_functions_stay_here_too(vms):
    inject(vms[0], note, square)
    vms[0].table = {"a": [1]}
    assert vms[0].note(1)
    moved = vms[0].migrate(vms[1])
    assert (moved.names, moved.objects) == (["table"], 0)
    assert [vms[1].note(i) for i in (2, 3, 4)] == [True, True, False]
    assert fetch(vms[1].table) == {"a": [1]} and vms[1].square(3) == 9
    with pytest.raises(AttributeError, match="no 'table' on this VM"):
        vms[0].table
    assert vms[0].square(3) == 9 and vms[0].note(5)
    assert forkwork(vms, square, range(10)) == [x * x for x in range(10)]


def test_what_is_shared_stays_shared(vms):
    inject(vms[0], Stack)
    vms[0].a = [1]
    inner, stack = vms[0].a, vms[0].Stack()
    stack.items = inner
    vms[0].b = {"a": inner, "stack": stack}
    vms[0].migrate(vms[1])
    vms[1].a.append(2)
    stack.push(3)
    assert fetch(inner) == fetch(vms[1].b["a"]) == fetch(stack.items) == [1, 2, 3]
    assert vms[1].b["stack"].items == [1, 2, 3]
    del vms[1].a, vms[1].b


def test_iterators_go_on_where_they_were(vms):
    vms[0].items = list(range(1000))
    iterator = iter(vms[0].items)
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    chunks = vms[0].iter(vms[0].items)
    assert next(chunks) == 0
    vms[0].migrate(vms[1])
    assert next(chunks) == 1
    assert list(iterator) == list(range(3, 1000))


def test_on_a_failure_nothing_changes_anywhere(vms):
    inject(vms[0], numbers, Stack)
    vms[0].x = [1]
    generator, stack, x = vms[0].numbers(), vms[0].Stack(), vms[0].x
    vms[0].exec("def own(): pass\nlocked = (y for y in ())")
    with pytest.raises(TrickleError) as caught:
        vms[0].migrate(vms[1])
    for part in ("a remote generator (TypeError: cannot pickle", "; locked (TypeError",
                 "own (its code was made on the VM itself)"):
        assert part in str(caught.value)
    assert next(generator) == 0 and fetch(stack.push(1).items) == [1]
    x.append(2)
    assert fetch(vms[0].x) == [1, 2]
    assert not hasattr(vms[1], "x") and not hasattr(vms[1], "Stack")


def test_names_that_mean_something_else_there_are_an_error(vms):
    inject(vms[0], Stack)
    vms[0].x, vms[1].x = [1], [2]
    x, stack = vms[0].x, vms[0].Stack()
    with pytest.raises(TrickleError, match="stand for something else: x;"):
        vms[0].migrate(vms[1])
    assert not hasattr(vms[1], "Stack")
    stack.push(1)
    del vms[1].x
    vms[0].migrate(vms[1])
    x.append(5)
    assert fetch(vms[1].x) == [1, 5]
    vms[1].exec("class Stack: pass")
    vms[0].Stack().push(1)
    assert stack.pop() == 1


def test_another_version_of_a_class_is_an_error(vms):
    inject(vms[0], Stack)
    stack = vms[0].Stack()
    vms[1].exec("class Stack: pass")
    with pytest.raises(TrickleError, match="other versions of Stack"):
        vms[0].migrate(vms[1])
    stack.push(1)


def test_equal_names_of_a_list_do_not_clash(vms):
    limits = {"a": 1}
    inject(vms, limits)
    own = vms[0].limits
    vms[0].migrate(vms[1])
    own["b"] = 2
    assert fetch(vms[1].limits) == {"a": 1, "b": 2}


def test_objects_can_move_on_and_back(vms):
    inject(vms[0], Stack)
    stack = vms[0].Stack()
    for vm, to in ((0, 1), (1, 0), (0, 1)):
        vms[vm].migrate(vms[to])
        stack.push(to)
    assert fetch(stack.items) == [1, 0, 1]


def test_answers_on_their_way_refer_to_where_the_object_is(vms):
    inject(vms[0], Stack)
    handle = fork(vms[0], Stack)
    vms[0].migrate(vms[1])
    stack = join(handle)
    assert fetch(stack.push(1).items) == [1]
    assert stack._t_vm is vms[1]


def test_objects_are_released_where_they_are(vms):
    inject(vms[0], Stack)
    inject(vms, live)
    stack, gone = vms[0].Stack(), vms[0].Stack()
    assert vms[0].live(Stack) == 2
    vms[0].migrate(vms[1])
    assert vms[0].live(Stack) == 0 and vms[1].live(Stack) == 2
    del gone
    assert vms[1].live(Stack) == 1
    stack.push(1)


def live(cls):
    import gc
    gc.collect()
    return sum(type(obj).__name__ == cls.__name__ for obj in gc.get_objects())


def test_a_wrong_target_is_an_error(vms):
    with pytest.raises(TypeError, match="a handle of a VM"):
        vms[0].migrate(1)
    with pytest.raises(ValueError, match="where it is already"):
        vms[0].migrate(vms[0])
    with pytest.raises(AttributeError, match="another name"):
        vms[0].migrate = 5
    with pytest.raises(TrickleError, match="another name"):
        inject(vms, migrate=5)


def migrate(x):
    return x + 1


def test_a_function_of_that_name_is_the_users(vms):
    inject(vms, migrate)
    assert vms[0].migrate(1) == 2
    vms[0].x = [1]
    assert trickle.VM.migrate(vms[0], vms[1]).names == ["x"]


def test_a_lost_target_changes_nothing(vms):
    inject(vms[0], Stack)
    stack = vms[0].Stack()
    with pytest.raises(VMLost):
        vms[1].exec("import os; os._exit(1)")
    with pytest.raises(VMLost):
        vms[0].migrate(vms[1])
    assert fetch(stack.push(1).items) == [1]


def test_other_threads_do_not_notice(vms):
    inject(vms[0], Stack)
    stack = vms[0].Stack()
    end, errors, counts = threading.Event(), [], []

    def use():
        count = 0
        try:
            while not end.is_set():
                stack.push(count)
                join(fork(stack._t_vm, stack.push, count))
                count += 2
        except Exception as error:
            errors.append(error)
        counts.append(count)
    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(20):
        vms[i % 2].migrate(vms[1 - i % 2])
    end.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(fetch(stack.items)) == sum(counts)
