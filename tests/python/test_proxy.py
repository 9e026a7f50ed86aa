# SPDX-License-Identifier: MIT
"""Proxies of lists, dicts and objects behave like the local thing."""
import copy
import math
import operator
import pickle

import pytest

from trickle import Proxy, TrickleError, inject


class Money:
    """Has every kind of operator, and says which was called."""

    def __init__(self, amount):
        self.amount = amount

    def __add__(self, other):
        return ("add", self.amount, getattr(other, "amount", other))

    def __radd__(self, other):
        return ("radd", self.amount, other)

    def __isub__(self, other):
        self.amount -= other
        return self

    def __eq__(self, other):
        return isinstance(other, Money) and self.amount == other.amount or self.amount == other

    def __hash__(self):
        return hash(self.amount)

    def __lt__(self, other):
        return self.amount < getattr(other, "amount", other)

    def __call__(self, x, *, y=0):
        return self.amount + x + y

    def __int__(self):
        return int(self.amount)

    def __float__(self):
        return float(self.amount)

    def __index__(self):
        return self.amount

    def __bool__(self):
        return self.amount != 0

    def __len__(self):
        return 3

    def __iter__(self):
        yield from range(self.amount)

    def __contains__(self, x):
        return x == self.amount

    def __getitem__(self, key):
        return ("item", key)

    def __format__(self, spec):
        return f"<{spec}>"

    def __repr__(self):
        return f"Money({self.amount})"

    def __enter__(self):
        return self

    def __exit__(self, kind, error, tb):
        self.seen = (kind and kind.__name__, str(error))
        return isinstance(error, KeyError)

    @property
    def double(self):
        return 2 * self.amount


class Plain:
    def __init__(self):
        self.items = [1, 2, 3]

    def endless(self):
        n = 0
        while True:
            yield n
            n += 1

    def breaks(self):
        yield 1
        yield 2
        raise LookupError("over")


@pytest.fixture
def items(vm):
    vm.items = [3, 1, 2]
    return vm.items


@pytest.fixture
def money(vm):
    inject(vm, Money)
    return vm.Money(5)


@pytest.fixture
def plain(vm):
    inject(vm, Plain)
    return vm.Plain()


def test_list(items):
    assert isinstance(items, Proxy)
    assert (len(items), items[0], items[-1], items[1:], items[::-1]) == (3, 3, 2, [1, 2], [2, 1, 3])
    items[0] = 9
    items[1:2] = [7, 8]
    del items[-1]
    items.append(0)
    items.sort()
    assert items == [0, 7, 8, 9]
    assert items != [0]
    assert items < [1] and items <= [1] and [1] > items
    assert 7 in items and 1 not in items
    assert items + [1] == [0, 7, 8, 9, 1]
    assert [1] + items == [1, 0, 7, 8, 9]
    assert items * 2 == 2 * items == [0, 7, 8, 9] * 2
    assert list(items) == [*items] == [x for x in items] == [0, 7, 8, 9]
    assert list(reversed(items)) == [9, 8, 7, 0]
    assert (sum(items), max(items), sorted(items)) == (24, 9, [0, 7, 8, 9])
    assert (items.index(8), items.count(0)) == (2, 1)
    assert str(items) == repr(items) == f"{items}" == "%s" % items == "[0, 7, 8, 9]"
    assert items
    items.clear()
    assert not items
    with pytest.raises(TypeError):
        hash(items)
    with pytest.raises(IndexError):
        items[0]
    assert not callable(items)


def test_list_in_place(vm, items):
    alias = items
    items += [4]
    items *= 2
    assert items is alias
    assert vm.items == [3, 1, 2, 4] * 2


def test_dict(vm):
    vm.d = {"a": 1, "b": [2]}
    d = vm.d
    d["c"] = 3
    assert (d["a"], len(d), "b" in d, list(d), d.get("x", 7)) == (1, 3, True, ["a", "b", "c"], 7)
    assert dict(d) == {**d} == {"a": 1, "b": [2], "c": 3}
    assert sorted(d.items(), key=str) == [("a", 1), ("b", [2]), ("c", 3)]
    assert list(d.keys()) == ["a", "b", "c"]
    for key, value in d.items():
        if key == "b":
            value.append(9)
    assert d == {"a": 1, "b": [2, 9], "c": 3}
    assert d | {"z": 0} == {"a": 1, "b": [2, 9], "c": 3, "z": 0}
    d |= {"a": 5}
    assert d.pop("a") == 5
    del d["b"]
    with pytest.raises(KeyError):
        d["b"]


def test_set_and_string_operators(vm):
    vm.s = {1, 2}
    assert vm.s & {2, 3} == {2}
    assert vm.s | {3} == {1, 2, 3}
    assert {1, 2, 5} - vm.s == {5}
    vm.s -= {1}
    assert vm.s == {2}


def test_object_operators(vm, money):
    other = vm.Money(7)
    assert money + other == ("add", 5, 7)
    assert money + 1 == ("add", 5, 1)
    assert 1 + money == ("radd", 5, 1)
    before = money
    money -= 2
    assert money is before and money.amount == 3
    assert money < other and other > money and not money > other
    assert money == 3 and money == vm.Money(3) and money != other
    with pytest.raises(TypeError):
        money * 2
    with pytest.raises(TypeError):
        money >= 2


def test_object_conversions(money):
    assert (int(money), float(money), operator.index(money)) == (5, 5.0, 5)
    assert ["a", "b", "c", "d", "e", "f"][money] == "f"
    assert (len(money), bool(money), f"{money:x}", repr(money)) == (3, True, "<x>", "Money(5)")
    assert hash(money) == hash(5)
    assert {money: 1}[money] == 1
    assert list(money) == [0, 1, 2, 3, 4]
    assert 5 in money and 4 not in money
    assert money["k"] == ("item", "k")
    assert money(1, y=2) == 8
    assert callable(money)
    assert money.double == 10
    assert math.floor(float(money)) == 5


def test_with_statement_gives_the_exception_to_the_object(vm, money):
    with money as inside:
        assert inside == money
    assert money.seen == (None, "None")
    with money:
        raise KeyError("x")
    assert money.seen == ("KeyError", "'x'")
    with pytest.raises(ValueError), money:
        raise ValueError("y")


def test_attributes(plain):
    plain.x = 1
    plain.x += 1
    assert plain.x == 2
    assert getattr(plain, "y", 3) == 3
    plain.items.append(4)
    assert plain.items == [1, 2, 3, 4]
    del plain.x
    assert not hasattr(plain, "x")
    assert "items" in dir(plain)


def test_object_has_no_more_abilities_than_the_local_thing(plain):
    assert not callable(plain)
    for action in (len, iter, int, lambda p: p[0], lambda p: p(), lambda p: p + 1, reversed):
        with pytest.raises(TypeError):
            action(plain)
    assert hash(plain) == hash(plain)
    assert bool(plain)
    assert plain == plain and plain != 1
    with pytest.raises(AttributeError):
        plain.nothing


def test_comparison_with_what_cannot_be_sent_is_false(items):
    assert items != (x for x in [])
    assert (items == (lambda: None)) is False
    assert items not in [lambda: None]


def test_proxies_of_different_vms_differ(vms):
    for vm in vms:
        vm.items = [1]
    assert vms[0].items != vms[1].items


def test_iteration_takes_no_more_than_it_must_of_what_is_an_iterator(plain):
    numbers = plain.endless()
    assert [next(numbers), next(numbers)] == [0, 1]
    for n in numbers:
        if n == 4:
            break
    assert next(numbers) == 5


def test_iteration_goes_on_over_many_chunks(vm):
    vm.many = list(range(30_000))
    assert list(vm.many) == list(range(30_000))
    vm.big = ["x" * 100_000] * 40
    assert sum(map(len, vm.big)) == 4_000_000


def test_iteration_gives_what_came_before_an_exception(plain, vm):
    seen = []
    with pytest.raises(LookupError, match="over"):
        for x in plain.breaks():
            seen.append(x)
    assert seen == [1, 2]
    vm.exec("class Bad:\n    def __iter__(self):\n        yield 1\n        raise LookupError('x')")
    seen.clear()
    with pytest.raises(LookupError):
        for x in vm.eval("Bad()"):
            seen.append(x)
    assert seen == [1]


def test_items_of_an_iteration_are_the_objects_themselves(vm):
    vm.rows = [[1], [2]]
    for row in vm.rows:
        row.append(0)
    assert vm.rows == [[1, 0], [2, 0]]


def test_copies(plain):
    shallow, deep = copy.copy(plain), copy.deepcopy(plain)
    plain.items.append(4)
    assert shallow.items == [1, 2, 3, 4]
    assert deep.items == [1, 2, 3]


def test_pickling_a_proxy_is_an_error_that_says_what_to_do(items):
    with pytest.raises(TrickleError, match="trickle.fetch"):
        pickle.dumps(items)


def test_methods_are_objects(vm, items):
    append = items.append
    append(5)
    assert vm.items[-1] == 5
    assert append == items.append
    assert append.__name__ == "append"
    assert "append" in repr(append)


def test_function_has_the_attributes_it_has_there(vm, money):
    assert vm.Money.__name__ == "Money"
    assert vm.Money.double is not None
    assert "Money" in repr(vm.Money)
