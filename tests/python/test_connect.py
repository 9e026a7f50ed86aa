# SPDX-License-Identifier: MIT
"""connect(): how many VMs, and what it says when there are too few."""
import os
import signal
import subprocess
import sys

import pytest

import trickle
from supervisors import wait_given_back
from trickle import NotEnoughVMs


def test_all_that_are_there_and_at_most_max(supervisor, capfd):
    with trickle.connect() as vms:
        assert len(vms) == 4
    with trickle.connect(3) as vms:
        assert len(vms) == 3
    with trickle.connect(1) as vms:
        assert len(vms) == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "discovered" in line] == [
        "[trickle: discovered 4 VMs]", "[trickle: discovered 3 VMs]", "[trickle: discovered 1 VM]"]


def test_too_few_name_what_was_found_and_take_nothing(supervisor):
    with pytest.raises(NotEnoughVMs, match="5.*4"):
        trickle.connect(5)
    with trickle.connect(4) as vms:
        assert len(vms) == 4


def test_none_names_the_command_that_starts_some(run_program, tmp_path):
    empty = tmp_path / "r"
    empty.mkdir(mode=0o700)
    result = run_program("import trickle\ntrickle.connect()\n",
                         env={"TRICKLE_RUNTIME": str(empty)})
    assert result.status == 1
    assert "NotEnoughVMs" in result.err and "trickle vm" in result.err


@pytest.mark.parametrize("max, error", [(0, ValueError), (-1, ValueError), ("4", TypeError),
                                        (2.5, TypeError), (True, TypeError)])
def test_wrong_max_is_an_error(max, error):
    with pytest.raises(error, match="a number of VMs"):
        trickle.connect(max)


def test_wrong_timeout_is_an_error():
    with pytest.raises(ValueError, match="seconds"):
        trickle.connect(1, timeout=-1)


def test_second_connect_gives_the_same_handles(supervisor):
    with trickle.connect(2) as first, trickle.connect(2) as second:
        assert list(first) == list(second)
        trickle.inject(first, a=1)
        assert second[0].a == 1


def test_two_programs_share_the_vms(supervisor, run_program):
    with trickle.connect(3) as vms:
        result = run_program("import trickle\nprint(len(trickle.connect()))")
        assert result.out == "1\n", result.err
        assert len(vms) == 3


def test_programs_that_follow_each_other_find_all(run_program):
    for _ in range(3):
        result = run_program("import trickle\nvms = trickle.connect(4)\n"
                             "print([vm.abs(-1) for vm in vms])")
        assert result.out == "[1, 1, 1, 1]\n", result.err


@pytest.mark.parametrize("is_plain_list", [False, True])
def test_a_work_whose_list_is_closed_ends_and_lets_its_vms_go(supervisor, is_plain_list):
    with trickle.connect(2) as vms:
        served = list(vms) if is_plain_list else vms
        values = trickle.forkgen(served, abs, iter(range(10**9)), ordered=True)
        assert next(values) == 0
    with pytest.raises(trickle.TrickleError, match="its VMs have been given back"):
        for _ in values:
            pass
    wait_given_back()


def test_a_generator_nobody_closed_keeps_no_vm(supervisor):
    with trickle.connect(2) as vms:
        values = trickle.forkgen(list(vms), abs, iter(range(10**9)), ordered=True)
        assert next(values) == 0
    wait_given_back()
    values.close()


IDLE = """
from trickle import _trickle
farm = _trickle.Farm(program="test")
while not all(vm["state"] == "idle" for vm in farm.vms()):
    pass
print(farm.vms()[0]["pid"])
"""

FROZEN = """
import sys, time, trickle
since = time.monotonic()
vms = trickle.connect()
print(len(vms), time.monotonic() - since < 15, flush=True)
print(sum(trickle.forkwork(vms, abs, range(100))), flush=True)
sys.stdin.readline()
while len(vms) < 2:
    time.sleep(0.01)
    trickle.forkwork(vms, abs, range(10))
print(len(vms))
"""


def test_a_vm_that_is_stopped_is_not_waited_for_but_joins_when_it_goes_on(supervise):
    own = supervise(count=2)
    farm = subprocess.run([sys.executable, "-c", IDLE], env=own.env, capture_output=True, text=True)
    frozen = int(farm.stdout)
    os.kill(frozen, signal.SIGSTOP)
    process = subprocess.Popen([sys.executable, "-c", FROZEN], env=own.env, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "1 True\n"
        assert process.stdout.readline() == "4950\n"
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert process.communicate("\n", timeout=60)[0] == "2\n"
