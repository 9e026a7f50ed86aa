# SPDX-License-Identifier: MIT
"""VMs that are killed, stopped and broken by what they run: no job is stopped or spoiled by that.

Each test looks at all results and at how often each element ran.
"""
import os
import signal

import pytest

import trickle
from runlog import beside, hold, in_thread, note
from trickle import VMLost, WorkFailed, forkgen, forkwork


def held_by_one(job):
    """Element 3 waits at its gate."""
    x = note(job)
    if x == 3:
        hold(job, "go 3")
    return x * x


def segfault():
    import ctypes
    ctypes.string_at(0)


def deadly(job):
    x = note(job)
    if x % 10 == 7:
        segfault()
    return x


def one_deadly(job):
    x = note(job)
    if x == 77_777:
        segfault()
    return x


def leaving(job):
    x = note(job)
    if x == 5:
        os._exit(9)
    return x


def squares(count):
    return [x * x for x in range(count)]


def pids_of(vms):
    return [trickle._proxy.vm_info(vm)["pid"] for vm in vms]


# --- killed ---------------------------------------------------------------------------------


def test_what_a_killed_vm_ran_runs_again(vms, log):
    work = in_thread(forkwork, vms, held_by_one, log.jobs(100))
    first = log.wait(lambda: log.pids(3))
    os.kill(first[0], signal.SIGKILL)
    log.wait(lambda: len(log.pids(3)) == 2)
    log.open("go 3")
    assert work.join() == squares(100)
    counts = log.counts()
    assert counts.pop(3) == 2
    assert len(counts) == 99 and set(counts.values()) <= {1, 2}  # 2: queued behind it, or unsent
    assert log.pids(3)[0] != log.pids(3)[1]


def test_the_story_of_a_killed_run_is_kept(vms, log):
    results = forkgen(vms, held_by_one, log.jobs(4))
    got = [next(results) for _ in range(3)]
    pid = log.wait(lambda: log.pids(3))[0]
    os.kill(pid, signal.SIGKILL)
    log.wait(lambda: len(log.pids(3)) == 2)
    log.open("go 3")
    assert sorted([*got, *results]) == squares(4)
    lost, done = results.attempts(3)
    assert (lost.outcome, lost.signal, lost.pid, lost.attempt) == ("lost", "SIGKILL", pid, 1)
    assert (done.outcome, done.pid, done.attempt) == ("done", log.pids(3)[1], 2)
    assert lost.duration > 0 and lost.rss > 1 << 20 and lost.started <= done.started


KILLS = """
import os, random, signal, sys, threading, time
from runlog import note
import trickle
from trickle import connect, forkwork

folder, kills, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
rng, done = random.Random(5), threading.Event()

def sleepy(job, seconds=seconds):
    x = note(job)
    time.sleep(seconds)
    return x

def jobs():
    x = 0
    while not done.is_set():
        yield folder, x
        x += 1
        time.sleep(seconds / 4)  # as fast as four VMs do them

def kill():
    killed = 0
    while killed < kills:
        pids = [vm["pid"] for vm in farm.vms() if vm["state"] == "leased"]
        try:
            if len(pids) >= 3:  # else all kills hit the same one
                os.kill(rng.choice(pids), signal.SIGKILL)
                killed += 1
                time.sleep(seconds)  # each VM is hit once in four elements or so
        except ProcessLookupError:
            pass
    done.set()

vms, farm = connect(), trickle._farm.farm()
killer = threading.Thread(target=kill)
killer.start()
results = forkwork(vms, sleepy, jobs())
killer.join()
print(len(results), results == list(range(len(results))))
"""


@pytest.mark.parametrize("seconds", [
    0.08, pytest.param(5, marks=[pytest.mark.full, pytest.mark.timeout(3000)])])
def test_200_random_kills_fail_nobody(supervise, run_program, log, seconds):
    own = supervise("--log", "error", count=4)
    result = run_program(KILLS, log.folder, "200", str(seconds), env=beside(own), timeout=3000)
    assert result.status == 0, result.err[result.err.find("Traceback"):]
    count, is_right = result.out.split()
    assert is_right == "True"
    counts = log.counts()
    assert set(counts) == set(range(int(count))) and max(counts.values()) < 20
    assert sum(counts.values()) - int(count) >= 50  # the others hit VMs between two elements
    assert result.err.count("SIGKILL") >= 100


def test_calls_on_a_killed_vm_say_why(vms):
    lost, pid = vms[0], pids_of(vms)[0]
    items = lost.list([1])
    lost.items = [1]
    proxy = lost.items
    os.kill(pid, signal.SIGKILL)
    why = f"VM 0 on .* .pid {pid}. is lost: killed by SIGKILL"
    for use in (lambda: lost.len(items), lambda: lost.items, lambda: proxy.append(1),
                lambda: trickle.join(trickle.fork(lost, "len", items))):
        with pytest.raises(VMLost, match="is lost: killed by SIGKILL"):
            use()
    with pytest.raises(VMLost, match=why.replace("VM 0", r"VM \d")):
        lost.abs(1)


# --- elements that end their VM -------------------------------------------------------------


def test_an_element_that_segfaults_costs_three_vms_and_never_a_neighbour(vms, log, capfd):
    count = 100_000
    results = forkwork(vms, one_deadly, log.jobs(count), on_error="return")
    failed = results[77_777]
    assert isinstance(failed, WorkFailed) and failed.exception is None
    assert [a.outcome for a in failed.attempts] == ["died"] * 3
    assert {a.signal for a in failed.attempts} == {"SIGSEGV"}
    assert len({a.pid for a in failed.attempts}) == 3
    results[77_777] = 77_777
    assert results == list(range(count))
    counts = log.counts()
    assert counts.pop(77_777) == 3
    assert len(counts) == count - 1 and max(counts.values()) <= 4
    assert capfd.readouterr().err.count("is lost: killed by SIGSEGV while running element") == 3


def test_the_story_names_signal_process_and_last_output(vms):
    def loud(x):
        print("about to fall", x, flush=True)
        segfault()
    with pytest.raises(WorkFailed) as caught:
        forkwork(vms, loud, [1])
    failed = caught.value
    lines = str(failed).splitlines()
    assert lines[0].startswith("element 0 of loud failed: ended its VM too often, last in run 3: "
                               "killed by SIGSEGV")
    for n, attempt in enumerate(failed.attempts, 1):
        assert "about to fall 1" in attempt.output
        line = next(line for line in lines if line.startswith(f"  attempt {n} on VM "))
        assert f"(pid {attempt.pid})" in line and "killed by SIGSEGV" in line
    assert "    | about to fall 1" in lines
    assert repr(failed).startswith("WorkFailed('element 0 of loud failed") and "\n" not in repr(
        failed)


def test_an_element_that_exits_has_failed(vms, log):
    results = forkwork(vms, leaving, log.jobs(20), on_error="return")
    failed = results[5]
    ends = [(a.outcome, a.signal, a.exit_status) for a in failed.attempts]
    assert ends == [("died", None, 9)] * 3
    results[5] = 5
    assert results == list(range(20))
    assert log.counts()[5] == 3


def test_one_vm_alone_ends_a_job_of_deadly_elements(vms, log):
    count = 30
    results = forkwork(vms[:1], deadly, log.jobs(count), on_error="return")
    assert [x for x in range(count) if isinstance(results[x], WorkFailed)] == [7, 17, 27]
    assert all(results[x] == x for x in range(count) if x % 10 != 7)
    counts = log.counts()
    assert all(counts[x] == 3 for x in (7, 17, 27)) and set(counts) == set(range(count))


GREEDY = """
import sys
from runlog import note
from trickle import connect, forkwork

def greedy(job):
    x = note(job)
    data = []
    while x == 4:  # takes what it gets; its VM is ended long before the machine's memory is
        data.append(bytearray(1 << 20) if len(data) < 2000 else None)
    return x

results = forkwork(connect(), greedy, [(sys.argv[1], x) for x in range(40)], on_error="return")
print([a.outcome for a in results[4].attempts], results[:4] + results[5:])
print(results[4])
"""


def test_runaway_memory_ends_the_vm_and_is_named(supervise, run_program, log):
    own = supervise("--memory-limit", "512M", count=2)
    result = run_program(GREEDY, log.folder, env=beside(own))
    assert result.status == 0, result.err
    first, story = result.out.split("\n", 1)
    assert first == f"{['memory'] * 3} {[*range(4), *range(5, 40)]}"
    assert "memory limit" in story
    counts = log.counts()
    assert counts.pop(4) == 3 and len(counts) == 39


# --- silent ---------------------------------------------------------------------------------


STOPPED = """
import os, signal, sys, threading
from runlog import Log, hold, note
from trickle import connect, forkwork

def held(job):
    x = note(job)
    if x == 0:
        hold(job, "go")
    return x * x

def stop():
    first = log.wait(lambda: log.pids(0))[0]
    os.kill(first, signal.SIGSTOP)
    log.wait(lambda: len(log.pids(0)) == 2)
    log.open("go")
    if sys.argv[2] == "wake":
        os.kill(first, signal.SIGCONT)

log = Log(sys.argv[1])
stopper = threading.Thread(target=stop)
stopper.start()
vms = connect()
results = forkwork(vms, held, log.jobs(20))
stopper.join()
print(results == [x * x for x in range(20)])
print(forkwork(connect(), held, [(log.folder, 100 + x) for x in range(20)])[-1])
"""


@pytest.mark.parametrize("then", ["wake", "leave"])
def test_the_work_of_a_stopped_vm_goes_to_others(supervise, run_program, log, then):
    own = supervise(count=2)
    result = run_program(STOPPED, log.folder, then, env={**beside(own), "TRICKLE_DEAD_AFTER": "1",
                                                         "TRICKLE_SUSPECT_AFTER": "0.3"})
    assert result.out == f"True\n{119 * 119}\n", result.err
    assert "no sign of life for 1.0 s" in result.err
    if then == "leave":
        os.kill(log.pids(0)[0], signal.SIGKILL)  # its supervisor need not wait for it
    counts = log.counts()
    assert counts.pop(0) == 2 and set(counts) == {*range(1, 20), *range(100, 120)}


HOLDING = """
import ctypes, sys
from runlog import note
from trickle import connect, forkwork

def holding(job):
    x = note(job)
    if x < 2:
        ctypes.PyDLL(None).usleep(3_000_000)  # holds the GIL all the time
    return x

print(forkwork(connect(), holding, [(sys.argv[1], x) for x in range(10)]))
"""


def test_code_that_holds_the_gil_does_not_make_a_vm_look_dead(supervise, run_program, log):
    own = supervise(count=2)
    result = run_program(HOLDING, log.folder, env={**beside(own), "TRICKLE_DEAD_AFTER": "1",
                                                   "TRICKLE_SUSPECT_AFTER": "0.5"})
    assert result.out == f"{list(range(10))}\n", result.err
    assert set(log.counts().values()) == {1} and "lost" not in result.err
