# SPDX-License-Identifier: MIT
"""Jobs on other machines, and what happens between machines: a program that is killed, a network
that is cut, a machine that does not hear, addresses that change. Each result comes once."""
import json
import signal

import pytest

from machines import GATED_WORK, Lan, wait_for

COUNT = 40

# Two works, of elements 0 to 29 and 30 to 39; those of the second one wait for "end".
JOB = """
vms = connect({vms})
results = list(forkwork(vms, work, range(30)))
results += forkwork(vms, work, range(30, {count}))
print(len(results), sum(results))
"""
ANSWER = f"{COUNT} {sum(x * x for x in range(COUNT))}\n"


def job(vms):
    return "LAST = 30" + GATED_WORK + JOB.format(vms=vms, count=COUNT)


def start_job(here, vms, *options):
    here.write("prog.py", job(vms))
    return here.begin("run", "--lan", "--dead-after", "1", "--suspect-after", "0.5", *options,
                      "prog.py")


def recorded(here):
    """How many results are on the disk."""
    done, out, _ = here.run("status", "--json", "prog-1")
    return json.loads(out)["recorded"] if done == 0 else 0


def runs(machine):
    """The elements that have begun there, in order."""
    log = machine.path("work/log")
    return [int(x) for x in log.read_text().split()] if log.exists() else []


def wait_in(machine, first):
    wait_for(lambda: any(x >= first for x in runs(machine)),
             f"an element from {first} on on {machine.name}")


def wait_said(process, words):
    """Until its standard error has a line with these words."""
    line = ""
    while words not in line:
        line = process.stderr.readline()
        assert line != "", f"its standard error ended without: {words}"


def finish(process, here):
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (0, ANSWER), err
    assert recorded(here) == COUNT


# --- the program ---


def test_a_job_is_killed_and_resumed(network):
    here, there = network(Lan, 2).farm()
    process = start_job(here, 2)
    wait_for(lambda: recorded(here) == 10, "ten results")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    there.write("gate", "")
    there.write("end", "")
    done, out, err = here.run("resume", "--lan", "prog-1")
    assert (done, out) == (0, ANSWER), err
    assert set(runs(there)) == set(range(COUNT))
    assert all(runs(there).count(x) == 1 for x in range(10))  # what was recorded


# --- the network ---


@pytest.mark.parametrize("how", ["nothing passes", "it does not hear", "the program does not hear"])
def test_a_partition_heals_and_its_vms_are_used_again(how, network):
    """With two machines of VMs. One is lost, its work goes to the other; then it comes back."""
    lan = network(Lan, 3)
    here, lost, other = lan.farm(count=1)
    process = start_job(here, 2)
    wait_in(lost, 10)
    wait_in(other, 10)
    stuck = runs(lost)[-1]
    if how == "nothing passes":
        lan.cut(lost)
    elif how == "it does not hear":
        lan.lose(here, lost)
    else:
        lan.lose(lost, here)
    wait_said(process, "no sign of life")
    other.write("gate", "")
    wait_in(other, 30)
    assert stuck in runs(other)
    lan.heal()
    lost.write("gate", "")
    wait_in(lost, 30)
    for machine in lost, other:
        machine.write("end", "")
    finish(process, here)


def test_a_partition_of_all_vms_heals(network):
    lan = network(Lan, 2)
    here, there = lan.farm()
    process = start_job(here, 2)
    wait_in(there, 10)
    lan.cut(there)
    wait_said(process, "no sign of life")
    for name in "gate", "end":
        there.write(name, "")
    lan.heal()
    finish(process, here)
    assert set(runs(there)) == set(range(COUNT))


def test_vms_that_come_after_a_partition_are_found(network):
    """Nobody was there when the program asked."""
    lan = network(Lan, 2)
    here, there = lan.farm()
    for name in "gate", "end":
        there.write(name, "")
    lan.cut(there)
    here.write("prog.py", job("2, timeout=60"))
    process = here.begin("run", "--lan", "prog.py")
    wait_for(lambda: any(to[1] == 8407 for _, to, _ in lan.tap.datagrams()), "a question")
    lan.heal()
    finish(process, here)


# --- addresses ---


@pytest.mark.parametrize("who", ["vms", "program"])
@pytest.mark.parametrize("ipv4", [True, False], ids=["ipv4", "ipv6"])
def test_a_machine_changes_its_address_while_a_job_runs(who, ipv4, network):
    lan = network(Lan, 2, ipv4=ipv4, ipv6=not ipv4)
    here, there = lan.farm()
    process = start_job(here, 2)
    wait_in(there, 10)
    lan.move(there if who == "vms" else here, 9)
    for name in "gate", "end":
        there.write(name, "")
    finish(process, here)
    assert set(runs(there)) == set(range(COUNT))
    if who == "vms":
        expect_found_at(here, there)


def expect_found_at(here, there):
    done, out, err = here.run("vms", "--json", "--lan")
    assert done == 0, err
    now = (f"tcp:{there.address}:", "tcp:[fe80::9%")
    assert all(vm["address"].startswith(now) for vm in json.loads(out)), out


TWICE = """
import os, time
def square(x):
    return x * x
vms = connect(2)
print(sum(forkwork(vms, square, range(20))), flush=True)
while not os.path.exists("moved"):
    time.sleep(0.01)
print(sum(forkwork(vms, square, range(20))))
"""


def test_a_machine_changes_its_address_between_two_works(network):
    lan = network(Lan, 2, ipv6=False)
    here, there = lan.farm()
    here.write("prog.py", TWICE)
    process = here.begin("run", "--lan", "--dead-after", "1", "--suspect-after", "0.5", "prog.py")
    assert process.stdout.readline() == "2470\n"
    lan.move(there, 9)
    here.write("moved", "")
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (0, "2470\n"), err
    expect_found_at(here, there)
