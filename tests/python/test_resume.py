# SPDX-License-Identifier: MIT
"""What a resumed program gets back: lists that are the same, have grown or changed, generators that
depend on results, stages in loops and threads, code that has changed."""
import json
import os
import subprocess
import tempfile
import sys
import threading
from pathlib import Path

import pytest

from supervisors import BUILD

sys.path.append(str(Path(__file__).resolve().parents[2] / "chaos"))
from live import shim  # noqa: E402

HEAD = """
import json, os, signal, sys, threading
import trickle
from trickle import connect, forkgen, forkwork

LOG = {log!r}
def work(x):
    with open(LOG, "a") as log:
        log.write(f"{{x}}\\n")
    return {result}

trickle.job("j", on_change={on_change!r}, retry_failed={retry_failed!r})
vms = connect(2)
"""


@pytest.fixture
def resumable(run_program, tmp_path):
    """Runs a program as the job j, any number of times. Gives what it printed, as JSON, and the
    elements that ran in that run."""
    with tempfile.TemporaryDirectory(prefix="trk-home-") as home:
        log = tmp_path / "log"

        def run(text, on_change="refuse", retry_failed=False, result="x * 2", status=0, env=()):
            log.write_text("")
            head = HEAD.format(log=str(log), result=result, on_change=on_change,
                               retry_failed=retry_failed)
            done = run_program(head + text, env={"TRICKLE_HOME": home, **dict(env)})
            assert done.status == status, done.err
            ran = sorted(log.read_text().split())
            return (json.loads(done.out) if status == 0 else done.err), ran
        run.home = home
        yield run


@pytest.fixture
def slow_syncs(tmp_path):
    """The environment of a program whose disk takes 30 ms for a sync."""
    control = shim.Control(tmp_path / "disk")
    control.sync_us = 30_000
    yield control.environment(BUILD / "chaos/shim.so")
    assert control.hits_slow > 0
    control.close()


def forms(elements):
    """The ways in which a list of work is run, each printing its results in order."""
    return {"list": f"print(json.dumps(forkwork(vms, work, {elements})))",
            "unordered": f"print(json.dumps(sorted(forkgen(vms, work, {elements}))))",
            "ordered": f"print(json.dumps(list(forkgen(vms, work, {elements}, ordered=True))))"}


FORMS = pytest.mark.parametrize("form", ["list", "unordered", "ordered"])


@FORMS
def test_the_same_list_runs_nothing_again(resumable, form):
    program = forms("range(2000)")[form]
    expected = [2 * x for x in range(2000)]
    out, ran = resumable(program)
    assert out == expected and len(ran) == 2000
    for _ in range(2):
        assert resumable(program) == (expected, [])


@FORMS
def test_a_grown_list_runs_what_is_new(resumable, form):
    resumable(forms("range(1500)")[form])
    out, ran = resumable(forms("range(1510)")[form])
    assert out == [2 * x for x in range(1510)]
    assert ran == [str(x) for x in range(1500, 1510)]


@FORMS
@pytest.mark.parametrize("before, after, new", [
    ("list(range(900))", "[*range(300), -1, *range(300, 900)]", [-1]),
    ("list(range(900))", "[*range(300), *range(301, 900)]", []),
    ("list(range(900))", "[*range(300)]", []),
    ("list(range(900))", "[*reversed(range(900))]", []),
    ("[1, 2, 1, 3]", "[1, 1, 1, 2, 2]", [1, 2]),
    ("list(range(900))", "[]", [])], ids=["inserted", "deleted", "shorter", "reversed", "repeated",
                                          "emptied"])
def test_a_changed_list_is_refused_and_then_reuses_equal_elements(resumable, form, before, after,
                                                                  new):
    resumable(forms(before)[form])
    err, ran = resumable(forms(after)[form], status=1)
    assert "ResumeMismatch: the work list of work has" in err and "--on-change=keep" in err
    out, ran = resumable(forms(after)[form], on_change="keep")
    assert (sorted(out), ran) == (sorted(2 * x for x in eval(after)), [str(x) for x in new])
    if form != "unordered":
        assert out == [2 * x for x in eval(after)]
    assert resumable(forms(after)[form]) == (out, [])


def test_a_list_changed_twice(resumable):
    resumable(forms("range(500)")["list"])
    resumable(forms("range(250, 700)")["list"], on_change="keep")
    out, ran = resumable(forms("range(200, 710)")["list"], on_change="keep")
    assert out == [2 * x for x in range(200, 710)]
    assert ran == sorted(str(x) for x in range(700, 710))  # what the first list had counts


def test_changed_code(resumable):
    program = forms("range(100)")["list"]
    resumable(program)
    err, ran = resumable(program, result="x * 3", status=1)
    assert "ResumeMismatch: the code of work has changed" in err and ran == []
    assert resumable(program, result="x * 3", on_change="keep") == ([2 * x for x in range(100)], [])
    assert resumable(program, result="x * 3") == ([2 * x for x in range(100)], [])
    out, ran = resumable(program, result="x * 4", on_change="redo")
    assert out == [4 * x for x in range(100)] and len(ran) == 100
    assert resumable(program, result="x * 4") == (out, [])


def test_failures_stay_until_they_are_tried_again(resumable):
    program = """
results = forkwork(vms, work, range(10), on_error="return")
print(json.dumps([r if isinstance(r, int) else str(r.exception) for r in results]))
"""
    flaky = "x if x % 3 or os.path.exists(LOG + '-fixed') else int('no')"
    out, _ = resumable(program, result=flaky)
    bad = "invalid literal for int() with base 10: 'no'"
    assert out == [x if x % 3 else bad for x in range(10)]
    assert resumable(program, result=flaky) == (out, [])
    out, ran = resumable("open(LOG + '-fixed', 'w').close()\n" + program, result=flaky,
                         retry_failed=True)
    assert out == list(range(10)) and ran == ["0", "3", "6", "9"]
    assert resumable(program, result=flaky) == (out, [])


def test_failures_of_a_list_that_was_changed_are_tried_again(resumable):
    """Also the first list has them: they are not taken over from there."""
    program = """
results = forkwork(vms, work, {}, on_error="return")
print(json.dumps([r if isinstance(r, int) else None for r in results]))
"""
    flaky = "x if x != 3 or os.path.exists(LOG + '-fixed') else int('no')"
    resumable(program.format([1, 2, 3]), result=flaky)
    changed = program.format([0, 1, 2, 3])
    assert resumable(changed, on_change="keep", result=flaky) == ([0, 1, 2, None], ["0"])
    out, ran = resumable("open(LOG + '-fixed', 'w').close()\n" + changed, result=flaky,
                         retry_failed=True)
    assert out == [0, 1, 2, 3] and ran == ["3"]


DEPENDS_ON_CHANGED = """
given = []
def elements():
    for x in range(1500):
        yield -1 if x == CHANGED else x * 10000 + len(given) + sum(given[-3:]) % 7
for value in forkgen(vms, work, elements()):
    given.append(value)
    if len(given) == STOP:
        os.kill(os.getpid(), signal.SIGKILL)
print(json.dumps(len(given)))
"""


def test_a_generator_that_depends_on_results_of_a_changed_list(resumable):
    """What its change has left is given in the same turns and the same order again."""
    program = DEPENDS_ON_CHANGED
    resumable("STOP, CHANGED = 900, -1\n" + program, status=-9)
    resumable("STOP, CHANGED = 600, 450\n" + program, status=-9, on_change="keep")
    assert resumable("STOP, CHANGED = 0, 450\n" + program)[0] == 1500
    assert resumable("STOP, CHANGED = 0, 450\n" + program) == (1500, [])


def test_results_taken_over_are_given_in_the_order_of_recording(resumable, slow_syncs):
    """Not before those that have come from VMs meanwhile, which wait for a sync."""
    program = """
import time
given = []
def elements():
    for x in range(120):
        time.sleep(0.002)  # made slowly
        yield x if x % 3 == 0 or x < 20 else x + 1000 * (CHANGED + len(given))
for value in forkgen(vms, work, elements()):
    given.append(value)
print(json.dumps(given))
"""
    resumable("CHANGED = 0\n" + program)
    out, _ = resumable("CHANGED = 1\n" + program, on_change="keep", env=slow_syncs)
    assert resumable("CHANGED = 1\n" + program) == (out, [])


def test_checkpoints_of_a_list_that_was_changed_count(resumable):
    """The element ends its program, and then its VM, when it has made one."""
    program = """
def work(x):
    state = trickle.restore(0)
    if x == 7 and state == 0:
        trickle.checkpoint(1)
        os.kill(int(open(LOG + "-pid").read()), signal.SIGKILL)
        os._exit(1)
    return state
open(LOG + "-pid", "w").write(str(os.getpid()))
print(json.dumps(forkwork(vms, work, {})))
"""
    resumable(program.format([1, 7, 8]), status=-9)
    assert resumable(program.format([2, 7, 9]), on_change="keep")[0] == [0, 1, 0]


def test_an_exception_that_ended_the_program_comes_again(resumable):
    program = "print(json.dumps(forkwork(vms, work, range(50))))"
    for _ in range(2):
        err, _ = resumable(program, result="1 // (x - 7)", status=1)
        assert "ZeroDivisionError" in err and "raised by element 7 of work" in err


@pytest.mark.parametrize("ordered", [False, True])
def test_a_generator_that_depends_on_results(resumable, ordered):
    program = f"""
given = []
def elements():
    for x in range(1500):
        yield x * 10000 + len(given) + sum(given[-3:]) % 7
for value in forkgen(vms, work, elements(), ordered={ordered}):
    given.append(value)
    if len(given) == STOP:
        os.kill(os.getpid(), signal.SIGKILL)
print(json.dumps(len(given)))
"""
    seen = set()
    for stop in (10, 400, 900):
        _, ran = resumable(f"STOP = {stop}\n" + program, status=-9)
        seen.update(ran)
    out, ran = resumable("STOP = 0\n" + program)
    assert out == 1500
    assert resumable("STOP = 0\n" + program) == (1500, [])


def test_a_crawler(resumable):
    """It ends when there is nothing left to do; what there is to do comes from results."""
    program = """
todo, seen = list(range(1, 60)), set(range(1, 60))
def elements():
    while todo:
        yield todo.pop(0)
count = 0
for value in forkgen(vms, work, elements()):
    count += 1
    for found in (value, value + 1):
        if found < 4000 and found not in seen:
            seen.add(found)
            todo.append(found)
    if count == STOP:
        os.kill(os.getpid(), signal.SIGKILL)
print(json.dumps(count))
"""
    _, before = resumable("STOP = 30\n" + program, status=-9)
    out, ran = resumable("STOP = 0\n" + program)
    assert out >= 59
    assert resumable("STOP = 0\n" + program) == (out, [])


def test_a_stage_computed_from_an_earlier_one_and_stages_in_a_loop(resumable):
    program = """
values = list(range(20))
for turn in range(4):
    values = forkwork(vms, work, values)
    if turn == STOP:
        os.kill(os.getpid(), signal.SIGKILL)
print(json.dumps(values))
"""
    _, ran = resumable("STOP = 1\n" + program, status=-9)
    assert len(ran) == 40
    out, ran = resumable("STOP = -1\n" + program)
    assert out == [16 * x for x in range(20)] and len(ran) == 40
    assert resumable("STOP = -1\n" + program) == (out, [])


def test_stages_in_threads_need_names(resumable):
    program = """
results, errors = {}, []
def run(n):
    try:
        results[n] = forkwork(vms, work, range(100 * n, 100 * n + 50), name=NAME and NAME + str(n))
    except trickle.TrickleError as error:
        errors.append(str(error))
threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps([sorted(sum(results.values(), [])), errors]))
"""
    (out, errors), ran = resumable('NAME = "part"\n' + program)
    assert errors == [] and len(ran) == 200
    assert resumable('NAME = "part"\n' + program) == ([out, []], [])
    (_, errors), _ = resumable("NAME = None\n" + program)
    assert len(errors) == 3 and all("name=" in error for error in errors)


def test_a_generator_that_was_not_exhausted(resumable):
    program = """
values = forkgen(vms, work, range(10**9), ordered=True)
first = [next(values) for _ in range({count})]
values.close()
print(json.dumps(first))
"""
    out, ran = resumable(program.format(count=50))
    assert out == [2 * x for x in range(50)]
    out, again = resumable(program.format(count=50))
    assert out == [2 * x for x in range(50)]
    out, _ = resumable(program.format(count=400))
    assert out == [2 * x for x in range(400)]


def test_chunks_are_whole(resumable):
    program = """
def total(chunk):
    return sum(work(x) for x in chunk)
print(json.dumps(forkwork(vms, total, range(100), 7)))
"""
    out, ran = resumable(program)
    assert len(out) == 15 and len(ran) == 100
    assert resumable(program) == (out, [])
    err, _ = resumable(program.replace(", 7)", ", 8)"), status=1)
    assert "ResumeMismatch" in err


@pytest.mark.parametrize("size", [0, 1, 40_000, 3_000_000])
def test_results_of_any_size(resumable, size):
    program = f"""
def large(x):
    work(x)
    return bytes([x]) * {size}
results = forkwork(vms, large, range(6))
print(json.dumps(results == [bytes([x]) * {size} for x in range(6)]))
"""
    assert resumable(program) == (True, [str(x) for x in range(6)])
    assert resumable(program) == (True, [])


def test_elements_of_any_size(resumable):
    program = """
def length(data):
    work(len(data))
    return len(data)
print(json.dumps(forkwork(vms, length, [b"", b"x" * 31_000, b"y" * 40_000, b"z" * 5_000_000])))
"""
    out, ran = resumable(program)
    assert out == [0, 31_000, 40_000, 5_000_000] and len(ran) == 4
    assert resumable(program) == (out, [])


def test_attempts_of_earlier_runs_are_told(resumable):
    program = """
def falls_once(x):
    if not os.path.exists(LOG + "-fell"):
        open(LOG + "-fell", "w").close()
        os.kill(os.getpid(), signal.SIGSEGV)
    return x
forkwork(vms, falls_once, [5])
print(json.dumps([a.outcome for a in trickle.attempts(0)]))
"""
    assert resumable(program)[0] == ["died", "done"]
    assert resumable(program)[0] == ["died"]  # the run that gave the result is not one of this run


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", path],
                      capture_output=True).returncode != 0:
        pytest.skip("cannot mount a file system here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_makes_the_job_wait(supervisor, small_disk, tmp_path):
    program = tmp_path / "full.py"
    program.write_text("""
import trickle
def large(x):
    return bytes(1_000_000)
trickle.job("j")
print(sum(len(r) for r in trickle.forkwork(trickle.connect(2), large, range(40))))
""")
    process = subprocess.Popen(["/usr/bin/python3", program], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE,
                               env={**supervisor.env, "TRICKLE_HOME": str(small_disk)})
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    line = ""
    while "is full" not in line:
        line = process.stderr.readline()
        assert line, "it did not say that the disk is full"
    assert "the job waits and goes on when there is room" in line
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    out, err = process.communicate()
    watchdog.cancel()
    assert (process.returncode, out) == (0, "40000000\n"), err
    assert "the job goes on" in err


def test_results_that_come_faster_than_the_disk_takes_them_do_not_pile_up(resumable):
    program = """
from trickle import _job
queued = 0
for value in forkgen(vms, work, range(8000)):
    queued = max(queued, _job._job.state()["queued_bytes"])
print(json.dumps(queued >> 20))
"""
    queued, ran = resumable(program, result="bytes(100_000)")
    assert queued < 200 and len(ran) == 8000
