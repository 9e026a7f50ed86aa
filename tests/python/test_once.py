# SPDX-License-Identifier: MIT
"""What a program that runs again finds by itself: the keys of its stages, values made once."""
import os
import pickle
import random
import signal
import sys
import threading

import pytest

import trickle
from trickle import TrickleError, _durable, _trickle
from trickle._durable import function_name, release_key, stage_key


@pytest.fixture
def run():
    """Each call: the next run of a program."""
    yield lambda: _durable.use_job(None)
    _durable.use_job(None)


@pytest.fixture
def job(tmp_path):
    """Each call opens the job again, as a program that is resumed does."""
    opened = []

    def reopen():
        if opened:
            opened.pop().close()
        opened.append(_trickle.Job("job", home=str(tmp_path)))
        _durable.use_job(opened[0])
        return opened[0]
    yield reopen
    _durable.use_job(None)
    if opened:
        opened.pop().close()


def in_thread(function):
    """What it returned or raised in a thread of its own."""
    found = []

    def call():
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return found[0]


# --- keys ---


def test_keys_count_the_calls_of_a_run(run):
    def program():
        return [stage_key("m.f", None), stage_key("m.g", None), stage_key("m.f", None),
                stage_key("m.f", "a"), stage_key("m.g", "a"), stage_key("m.g", "b")]
    wanted = ["m.f#1", "m.g#1", "m.f#2", "name:a", "name:a#2", "name:b"]
    for _ in range(2):
        run()
        assert program() == wanted
    run()
    for key, again in zip(program(), program()):
        assert key != again


def test_keys_of_any_names_differ(run):
    run()
    names = ["a", "a#2", "a##2", "a#", "#", "##", "", "é" * 500, "é" * 499, "é" * 499 + "#2",
             "\ud800", "m.f#1", "name:a"]
    keys = [stage_key("m.f", name) for name in names for _ in range(3)]
    keys += [stage_key(name, None) for name in ("m.f", "m.f#1", "f" * 1000) for _ in range(3)]
    assert len(set(keys)) == len(keys)
    assert max(len(key.encode()) for key in keys) <= 480
    with pytest.raises(TypeError, match="string"):
        stage_key("m.f", 3)


def test_stages_without_a_name_come_from_one_thread(run):
    run()
    key = stage_key("m.f", None)
    error = in_thread(lambda: stage_key("m.g", None))
    assert type(error) is TrickleError and "m.g" in str(error) and "name=" in str(error)
    assert f"while {key} is open" in str(error)
    release_key(key)
    assert "after others" in str(in_thread(lambda: stage_key("m.g", None)))
    assert in_thread(lambda: stage_key("m.g", "own")) == "name:own"
    assert stage_key("m.f", None) == "m.f#2"


def test_stages_of_one_name_come_from_one_thread(run):
    run()
    assert in_thread(lambda: stage_key("m.f", "a")) == "name:a"
    error = in_thread(lambda: stage_key("m.f", "a"))
    assert type(error) is TrickleError and "another name=" in str(error)
    run()
    assert in_thread(lambda: stage_key("m.f", "a")) == "name:a"


def test_names_of_functions():
    import functools

    class Callable:
        def __call__(self):
            pass
    here = f"{__name__}.test_names_of_functions.<locals>."
    assert function_name(os.path.join) == "posixpath.join"
    assert function_name(functools.partial(functools.partial(os.path.join, "a"), "b")) == (
        "posixpath.join")
    assert function_name(lambda: 0) == here + "<lambda>"
    assert function_name(Callable()) == here + "Callable"
    assert function_name(len) == "builtins.len"


# --- once ---


def test_once_without_a_job_is_just_the_function(run):
    run()
    made = []
    assert trickle.once("a", lambda: made.append(1) or made) is made
    assert trickle.once("a", lambda: made.append(1) or made) == [1, 1]


def test_once_is_once_per_job(job):
    job()
    first = trickle.once("seed", random.random)
    assert trickle.once("seed", random.random) == first
    other = trickle.once("other", random.random)
    assert other != first
    job()
    assert trickle.once("seed", lambda: 1 / 0) == first
    assert trickle.once("other", lambda: 1 / 0) == other


def test_once_gives_a_copy_as_it_will_be_after_a_resume(job):
    opened = job()
    made = {"a": [1, None, "é" * 100000]}
    found = trickle.once("value", lambda: made)
    assert found == made and found is not made
    assert trickle.once("none", lambda: None) is None
    assert trickle.once("none", lambda: 1) is None
    assert opened.get(_durable.NOTE_ONCE, "value") == pickle.dumps(made, 5)


def test_once_of_a_function_that_raises_records_nothing(job):
    job()
    with pytest.raises(ZeroDivisionError):
        trickle.once("a", lambda: 1 / 0)
    with pytest.raises(KeyboardInterrupt):
        trickle.once("a", lambda: signal.raise_signal(signal.SIGINT))
    assert trickle.once("a", lambda: 1) == 1


def test_once_in_threads_runs_its_function_once(job):
    job()
    gate, made = threading.Event(), []

    def make():
        made.append(threading.get_ident())
        gate.wait(20)
        return len(made)
    found = []
    threads = [threading.Thread(target=lambda: found.append(trickle.once("a", make)))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    assert trickle.once("b", lambda: 2) == 2, "another name does not wait"
    gate.set()
    for thread in threads:
        thread.join()
    assert found == [1] * 8 and len(made) == 1 and _durable._making == {}


def test_once_says_what_is_wrong(job):
    job()
    with pytest.raises(TypeError, match="function that makes the value"):
        trickle.once("a", 3)
    with pytest.raises(TypeError, match="string"):
        trickle.once(3, lambda: 3)
    for name in ("", "x" * 481):
        with pytest.raises(ValueError, match="480 bytes"):
            trickle.once(name, lambda: 3)
    with pytest.raises(TypeError, match=r"once\('a'\).*function.*cannot be pickled"):
        trickle.once("a", lambda: lambda: 3)
    with pytest.raises(TrickleError, match="its own function"):
        trickle.once("a", lambda: trickle.once("a", lambda: 3))
    assert trickle.once("a", lambda: trickle.once("inner", lambda: 3) + 1) == 4


class Settings:
    pass


def test_once_whose_class_has_gone(job, monkeypatch):
    job()
    assert type(trickle.once("a", Settings)) is Settings
    job()
    monkeypatch.delattr(sys.modules[__name__], "Settings")
    with pytest.raises(TrickleError, match=r"once\('a'\).*Settings"):
        trickle.once("a", lambda: 3)


PROGRAM = """
import os, random, signal, sys
import trickle
trickle.job(sys.argv[1])
seed = trickle.once("seed", lambda: random.getrandbits(64))
print(seed, flush=True)
if sys.argv[2] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
vms = trickle.connect(1)
print(trickle.once("place", lambda: 5))
"""


def test_once_outlives_a_kill(run_program, tmp_path):
    """It comes first in a program, before connect()."""
    name = f"once-{os.getpid()}-{tmp_path.name}"
    first = run_program(PROGRAM, name, "die")
    assert first.status == -signal.SIGKILL and first.out, first.err
    second = run_program(PROGRAM, name, "go on")
    assert second.status == 0 and second.out == f"{first.out}5\n", second.err


def test_once_in_an_element_is_just_the_function(vms):
    def f(x):
        import trickle
        return trickle.once("a", lambda: x)
    assert trickle.forkwork(vms, f, [1, 2, 3]) == [1, 2, 3]
