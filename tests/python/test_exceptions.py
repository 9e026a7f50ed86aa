# SPDX-License-Identifier: MIT
"""Remote exceptions: their own type, their content, the traceback of the VM."""
import json
import traceback

import pytest

import trickle
from trickle import RemoteError, TrickleError, inject


class Plain(Exception):
    pass


class TwoArguments(ValueError):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


class KeywordOnly(Exception):
    def __init__(self, *, code):
        self.code = code

    def __str__(self):
        return f"code {self.code}"


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raise_plain():
    raise Plain("a", 1)


def raise_two():
    raise TwoArguments(1, "b")


def raise_keyword():
    raise KeywordOnly(code=7)


def raise_with_attributes():
    error = Plain("x")
    error.extra = {"a": [1]}
    error.stream = (x for x in [])
    error.add_note("a note")
    raise error


def raise_unpicklable():
    raise Plain((x for x in []), "second")


def raise_chain():
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("outer") from error


def raise_no_text():
    raise NoText()


def raise_group():
    raise ExceptionGroup("several", [ValueError(1), Plain(2)])


def raise_stop():
    raise StopIteration(5)


def recurse(n):
    return recurse(n + 1)


def test_type_and_arguments(vm):
    inject(vm, raise_plain)
    with pytest.raises(Plain) as caught:
        vm.raise_plain()
    assert caught.value.args == ("a", 1)


def test_constructor_with_other_arguments(vm):
    inject(vm, raise_two, raise_keyword)
    with pytest.raises(TwoArguments, match="^1 and b$") as caught:
        vm.raise_two()
    assert (caught.value.a, caught.value.b, caught.value.args) == (1, "b", ("1 and b",))
    with pytest.raises(KeywordOnly, match="^code 7$"):
        vm.raise_keyword()


def test_attributes_and_notes(vm):
    inject(vm, raise_with_attributes)
    with pytest.raises(Plain) as caught:
        vm.raise_with_attributes()
    assert caught.value.extra == {"a": [1]}
    assert caught.value.stream.startswith("<generator")
    assert caught.value.__notes__ == ["a note"]


def test_arguments_that_cannot_be_pickled_arrive_as_text(vm):
    inject(vm, raise_unpicklable)
    with pytest.raises(Plain) as caught:
        vm.raise_unpicklable()
    assert caught.value.args[0].startswith("<generator object")
    assert caught.value.args[1] == "second"


def test_builtin_types_keep_their_fields(vm):
    with pytest.raises(FileNotFoundError) as caught:
        vm.open("/does/not/exist")
    assert (caught.value.errno, caught.value.filename) == (2, "/does/not/exist")
    with pytest.raises(UnicodeDecodeError) as caught:
        vm.str(b"\xff", "utf-8")
    assert (caught.value.start, caught.value.object) == (0, b"\xff")
    with pytest.raises(SyntaxError) as caught:
        vm.exec("a b")
    assert caught.value.lineno == 1
    with pytest.raises(KeyError) as caught:
        vm.eval("{}['k']")
    assert caught.value.args == ("k",)


def test_types_of_the_standard_library(vm):
    vm.exec("import json")
    with pytest.raises(json.JSONDecodeError) as caught:
        vm.json.loads("{")
    assert caught.value.pos == 1


def test_group_and_chain(vm):
    inject(vm, raise_group, raise_chain, Plain)
    with pytest.raises(ExceptionGroup) as caught:
        vm.raise_group()
    assert [type(e) for e in caught.value.exceptions] == [ValueError, Plain]
    with pytest.raises(ValueError, match="outer") as caught:
        vm.raise_chain()
    text = str(caught.value.__cause__)
    assert "KeyError: 'missing'" in text and "direct cause" in text


def test_traceback_of_the_vm_is_shown_without_frames_of_trickle(vm):
    inject(vm, raise_chain)
    with pytest.raises(ValueError) as caught:
        vm.raise_chain()
    remote = str(caught.value.__cause__)
    assert remote.count("Traceback (most recent call last)") == 2
    assert "_server.py" not in remote and "test_exceptions.py" in remote
    assert remote in "".join(traceback.format_exception(caught.value))


def test_type_that_is_not_known_here_becomes_a_remote_error(vm):
    vm.exec("class Strange(LookupError):\n    pass\n"
            "def f():\n    error = Strange('x', 1); error.code = 5; raise error")
    with pytest.raises(RemoteError) as caught:
        vm.f()
    cls = type(caught.value)
    assert (cls.__name__, cls.__module__) == ("Strange", "__main__")
    assert isinstance(caught.value, LookupError)
    assert (str(caught.value), caught.value.code) == ("('x', 1)", 5)
    assert caught.value.args == ("x", 1)
    assert "in f" in str(caught.value.__cause__)
    with pytest.raises(cls):
        vm.f()


def test_text_that_cannot_be_made_is_no_problem(vm):
    inject(vm, raise_no_text)
    with pytest.raises(NoText):
        vm.raise_no_text()


def test_stop_iteration_keeps_its_value(vm):
    inject(vm, raise_stop)
    with pytest.raises(StopIteration) as caught:
        vm.raise_stop()
    assert caught.value.value == 5


def test_sys_exit_does_not_end_this_program(vm):
    with pytest.raises(RemoteError, match=r"sys.exit\(3\)") as caught:
        vm.exec("import sys; sys.exit(3)")
    assert type(caught.value).__name__ == "SystemExit"
    assert not isinstance(caught.value, SystemExit)
    assert vm.abs(-1) == 1


def test_keyboard_interrupt_of_user_code_does_not_interrupt_this_program(vm):
    with pytest.raises(RemoteError):
        vm.exec("raise KeyboardInterrupt")


def test_recursion_depth(vm):
    inject(vm, recurse)
    with pytest.raises(RecursionError) as caught:
        vm.recurse(0)
    assert len(str(caught.value.__cause__)) < 10_000
    assert vm.abs(-1) == 1


def test_constructor_that_raises(vm):
    inject(vm, TwoArguments)
    vm.exec("class Bad:\n    def __init__(self):\n        raise ValueError('no')")
    with pytest.raises(ValueError, match="no"):
        vm.Bad()
    with pytest.raises(TypeError):
        vm.TwoArguments(1)


def test_function_that_does_not_exist_is_named_with_advice(vm):
    with pytest.raises(AttributeError, match=r"no 'nothing' on this VM.*inject"):
        vm.nothing(1)
    with pytest.raises(AttributeError, match="no 'nothing' on this VM"):
        trickle.join(trickle.fork(vm, "nothing", 1))


def test_argument_whose_class_is_not_on_the_vm_says_what_to_do(vm):
    with pytest.raises(TrickleError, match="inject the classes"):
        vm.str(Plain("x"))
    inject(vm, Plain)
    assert vm.str(Plain("x")) == "x"
