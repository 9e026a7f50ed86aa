# SPDX-License-Identifier: MIT
"""VMs that come and go while a work runs: added, drained, recycled, all gone."""
import os
import signal
import subprocess
import sys

import pytest

import trickle
from runlog import beside, hold, in_thread, note
from supervisors import PACKAGES
from trickle import fetch, forkwork, inject

table = {"factor": 3}


def held(job):
    """All elements wait at one gate."""
    x = note(job)
    hold(job, "go")
    return x * table["factor"]


def held_first(job):
    x = note(job)
    if x < 2:
        hold(job, "go")
    return x


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)
        return len(self.items)


def pids_of(vms):
    return [trickle._proxy.vm_info(vm)["pid"] for vm in vms]


def drain(pid):
    farm = trickle._farm.farm()
    farm.vms()
    return farm.order("drain", pid)


# --- VMs that come --------------------------------------------------------------------------


@pytest.fixture
def all_vms(supervisor):
    with trickle.connect() as own:
        yield own


def test_vms_that_are_started_take_part_at_once_with_all_injections(
        all_vms, supervisor, supervise, log):
    inject(all_vms, held, table)
    inject(all_vms, greeting="hello")
    before = set(pids_of(all_vms))
    work = in_thread(forkwork, all_vms, "held", log.jobs(20))
    log.wait(lambda: len(log.runs()) == len(before))
    supervise(count=2, beside=supervisor)
    log.wait(lambda: len(log.runs()) == len(before) + 2)  # they hold an element each
    log.open("go")
    assert work.join() == [x * 3 for x in range(20)]
    assert set(log.counts().values()) == {1}
    assert len({pid for _, pid in log.runs()} - before) == 2
    all_vms._refresh()
    new = [vm for vm in all_vms if pids_of([vm])[0] not in before]
    assert [vm.greeting for vm in new] == ["hello"] * 2


def test_a_list_takes_no_more_than_it_was_asked_for(vms, supervisor, supervise, log):
    before = set(pids_of(vms))
    work = in_thread(forkwork, vms, held, log.jobs(20))
    log.wait(lambda: len(log.runs()) == 2)
    supervise(count=1, beside=supervisor)
    log.open("go")
    assert work.join() == [x * 3 for x in range(20)]
    assert {pid for _, pid in log.runs()} == before


# --- VMs that leave -------------------------------------------------------------------------


def test_a_drained_vm_costs_nothing(supervise, run_program, log):
    own = supervise(count=3)
    result = run_program(DRAINED, log.folder, env=beside(own))
    assert result.out == "True\n", result.err
    counts = log.counts()
    assert set(counts.values()) == {1} and len(counts) == 300
    drained = log.pids(1)[0]
    assert [x for x, pid in log.runs() if pid == drained][-1] == 1  # it got nothing new
    assert "lost" not in result.err


DRAINED = """
import sys, threading
import trickle
from runlog import Log, hold, note
from trickle import connect, forkwork

def held_first(job):
    x = note(job)
    if x < 3:
        hold(job, "go")
    return x

def drain():
    pid = log.wait(lambda: len(log.runs()) >= 3 and log.pids(1))[0]
    farm = trickle._farm.farm()
    farm.vms()
    farm.order("drain", pid)
    log.wait(lambda: all(vm["state"] == "stopping" for vm in farm.vms() if vm["pid"] == pid))
    log.open("go")

log = Log(sys.argv[1])
drainer = threading.Thread(target=drain)
drainer.start()
vms = connect()
results = forkwork(vms, held_first, log.jobs(300))
drainer.join()
print(results == list(range(300)))
"""


def test_the_command_drains_too(supervise, run_program, log, trickle_command):
    own = supervise(count=2)
    trickle_command.env["TRICKLE_RUNTIME"] = own.runtime
    text = trickle_command("vms", "--json").stdout
    import json
    first, second = [(vm["host"], vm["pid"]) for vm in json.loads(text)]
    result = trickle_command("drain", first[1])
    assert result.returncode == 0 and f"(pid {first[1]})" in result.stdout, result.stderr
    log.wait(lambda: f"  {first[1]} " not in trickle_command("vms").stdout)
    result = trickle_command("drain", first[1], f"{second[0]}:{second[1]}")
    assert result.returncode == 1 and result.stderr.startswith(f"trickle: {first[1]}: ")
    assert f"(pid {second[1]})" in result.stdout


def test_recycled_vms_are_noticed_by_nobody(supervise, run_program, log):
    own = supervise("--recycle-after", "10", count=2)
    result = run_program("""
import sys
from runlog import note
from trickle import connect, forkwork
print(forkwork(connect(), note, [(sys.argv[1], x) for x in range(200)]) == list(range(200)))
""", log.folder, env=beside(own))
    assert result.out == "True\n" and "lost" not in result.err, result.err
    counts = log.counts()
    assert set(counts.values()) == {1} and len(counts) == 200
    assert len({pid for _, pid in log.runs()}) >= 15


SESSION = """
import sys, threading
import trickle
from runlog import Log, hold, note
from trickle import connect, fetch, fork, forkwork, inject, join

class Stack:
    def __init__(self):
        self.items = []
    def push(self, item):
        self.items.append(item)
        return len(self.items)

def stopping(pid):
    return not any(vm["pid"] == pid and vm["state"] == "leased" for vm in farm.vms())

log, farm = Log(sys.argv[1]), trickle._farm.farm()
vms = connect()
inject(vms, Stack, hold)
stack, pid = vms[0].Stack(), trickle._proxy.vm_info(vms[0])["pid"]
stack.push(0)
vms[0].table = {"a": stack}
vms[0].exec("locked = (x for x in ())")
locked = vms[0].locked
held = fork(vms[0], hold, (log.folder,), "go")
farm.vms()
farm.order("drain", pid)
log.open("go")
n = 1
while trickle._proxy.vm_info(stack._t_vm)["pid"] == pid:
    assert stack.push(n) == n + 1
    n += 1
join(held)
assert stack.push(n) == n + 1 and fetch(stack.items) == list(range(n + 1))
print(vms[1].table["a"].items == fetch(stack.items))
log.wait(lambda: vms[0]._t_raw.is_lost)
for use in (lambda: vms[0].table, lambda: next(locked)):
    try:
        use()
    except trickle.VMLost as error:
        print("drained" in str(error))
"""


def test_what_lives_on_a_drained_vm_moves(supervise, run_program, log):
    own = supervise(count=2)
    result = run_program(SESSION, log.folder, env=beside(own))
    assert result.out == "True\nTrue\nTrue\n", result.err
    said = [line for line in result.err.splitlines() if " leaves: " in line]
    assert len(said) == 1 and "2 remote objects and the name table moved to <VM 1" not in said[0]
    assert "the name table moved to <VM 1 " in said[0]
    assert "lost with it: a remote generator (TypeError" in said[0]


LATE = """
import sys, threading
import trickle
from runlog import Log, hold, note
from trickle import connect, fetch, fork, inject, join

def make(job):
    note(job)
    hold(job, "go")
    return iter([1, 2])

log, farm, say, said = Log(sys.argv[1]), trickle._farm.farm(), trickle._farm.say, []
trickle._farm.say = lambda text: (say(text), said.append(text))
vms = connect()
inject(vms, make)
pid = trickle._proxy.vm_info(vms[0])["pid"]
handle = fork(vms[0], make, (log.folder, 0))
log.wait(lambda: log.pids(0))
farm.vms()
farm.order("drain", pid)
log.wait(lambda: vms[0]._t_leaving)
log.open("go")
iterator = join(handle)
print(next(iterator), log.wait(lambda: iterator._t_vm is vms[1]), next(iterator))
log.wait(lambda: any("moved" in text for text in said))  # by another thread, a moment later
"""


def test_what_is_made_while_a_vm_leaves_moves_too(supervise, run_program, log):
    own = supervise(count=2)
    result = run_program(LATE, log.folder, env=beside(own))
    assert result.out == "1 True 2\n", result.err
    assert "1 remote object moved to <VM 1 " in result.err


# --- none left ------------------------------------------------------------------------------


WAITING = """
import sys
from runlog import note, hold
from trickle import connect, forkwork

def held_once(job):
    x = note(job)
    if x == 2:
        hold(job, "go")
    return x

vms = connect()
vms = vms if sys.argv[2] == "elastic" else vms[:]
print(forkwork(vms, held_once, [(sys.argv[1], x) for x in range(50)]) == list(range(50)))
"""


def start_waiting(own, log, tmp_path, kind):
    path = tmp_path / "program.py"
    path.write_text(WAITING)
    return subprocess.Popen([sys.executable, path, log.folder, kind], stderr=subprocess.PIPE,
                            env={**own.env, **beside(own)}, stdout=subprocess.PIPE, text=True,
                            stdin=subprocess.DEVNULL)


def read_until(process, part):
    lines = []
    for line in process.stderr:
        lines.append(line)
        if part in line:
            return line
    raise AssertionError(f"{part!r} is not in {lines}")


def test_a_work_without_vms_waits_says_so_and_goes_on(supervise, log, tmp_path):
    own = supervise(count=2)
    process = start_waiting(own, log, tmp_path, "elastic")
    log.wait(lambda: log.pids(2))
    own.process.kill()
    line = read_until(process, "no VM left")
    assert line == "[trickle: no VM left, waiting; start some with: trickle vm]\n"
    log.open("go")
    supervise(count=1, beside=own)
    out, err = process.communicate(timeout=60)
    assert out == "True\n" and "no VM left" not in err, err
    counts = log.counts()
    # The second VM may have begun with it before it was ended, too.
    assert counts.pop(2) in (2, 3) and set(counts.values()) <= {1, 2, 3} and len(counts) == 49


def test_a_fixed_list_says_what_it_waits_for(supervise, log, tmp_path):
    own = supervise(count=2)
    process = start_waiting(own, log, tmp_path, "fixed")
    log.wait(lambda: log.pids(2))
    own.process.kill()
    line = read_until(process, "no VM left")
    assert "does not answer any more" in line and os.uname().nodename in line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in err
