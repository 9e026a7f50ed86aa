# SPDX-License-Identifier: MIT
"""Who is not let in, between machines, and what the log says of it: no key, another one, one that
was revoked, also under a session; what was heard on the way and is said again; a job's past."""
import json
import re
import shutil
import socket
import subprocess
import sys

import pytest

from machines import ETH_P_IP, LINK, Lan, Tap, wait_for
from supervisors import BUILD

PROGRAM = """
def square(x):
    return x * x
vms = connect(2)
inject(vms, square)
print(sum(forkwork(vms, square, range(5))), [vm.square(7) for vm in vms])
"""
ANSWER = "30 [49, 49]\n"

# Elements from 10 on wait for the file "gate" on their machine.
JOB = """
import os, time
def work(x):
    with open("log", "a") as log:
        log.write(f"{x}\\n")
    while x >= 10 and not os.path.exists("gate"):
        time.sleep(0.01)
    return x * x
vms = connect(2)
results = list(forkwork(vms, work, range(20)))
print(len(results), sum(results))
"""
JOB_ANSWER = f"20 {sum(x * x for x in range(20))}\n"


def expect_work(here):
    here.write("prog.py", PROGRAM)
    status, out, err = here.run("run", "--lan", "prog.py")
    assert (status, out) == (0, ANSWER), err


def expect_refusal(here, there):
    """Of a program that knows where they are. What it says."""
    here.write("prog.py", PROGRAM)
    status, out, err = here.run("run", "--hosts", there.listening(), "prog.py")
    assert (status, out) == (1, "") and "cannot be used" in err, err
    return err


def wait_logged(machine, *words):
    """Until a line of its log has all of them."""
    wait_for(lambda: any(all(word in line for word in words)
                         for line in machine.log.read_text().splitlines()),
             f"{words} in the log of {machine.name}")


def start_job(here, there, *options):
    here.write("prog.py", JOB)
    process = here.begin("run", *(options or ["--lan"]), "--log", "info", "prog.py")
    log = there.path("work/log")
    wait_for(lambda: log.exists() and len(log.read_text().split()) >= 12, "elements that wait")
    return process


def finish_job(process):
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, JOB_ANSWER), err
    return err


# --- no key, another one ---


def test_without_a_key_vms_do_not_start_and_say_what_to_type(network):
    machine, = network(Lan, 1).machines
    process = machine.start(BUILD / "trickle-vm", "--lan", stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2 and "\n  trickle key new\n" in err


def test_without_a_key_other_machines_are_not_asked(network):
    lan = network(Lan, 2)
    here, _ = lan.farm()
    shutil.rmtree(here.path("config/trickle"))
    here.write("prog.py", PROGRAM)
    before = len(lan.tap.hear())
    status, _, err = here.run("run", "--lan", "prog.py")
    assert status == 1 and "trickle key show --secret | ssh" in err
    assert not any(to[1] == 8407 for _, to, _ in list(lan.tap.datagrams())[before:])


def test_another_key_sees_nothing_and_is_refused(network):
    here, there = network(Lan, 2).farm("--log", "info")
    shutil.rmtree(here.path("config/trickle"))
    here.key("new")
    status, out, _ = here.run("vms", "--json", "--lan")
    assert (status, json.loads(out)) == (1, [])  # nobody answers a question that is not sealed
    assert "refuses our key" in expect_refusal(here, there)
    identity = here.key("show").split()[1]
    wait_logged(there, "is not let in", f"its key {identity} is not one of ours")


# --- keys that were revoked ---


def test_keys_are_rotated_while_vms_run_and_the_old_one_is_refused(network):
    lan = network(Lan, 3)
    here, there, late = lan.farm("--log", "info")
    late.supervisor.terminate()
    late.supervisor.wait(30)
    old = late.key("show").split()[1]
    here.key("rotate")
    lan.import_key([there])
    expect_work(here)
    expect_work(late)  # both are accepted
    here.key("finish")
    lan.import_key([there])
    wait_for(lambda: there.log.read_text().count("the keys have changed") == 2, "both changes")
    expect_work(here)
    status, out, _ = late.run("vms", "--json", "--lan")
    assert (status, json.loads(out)) == (1, [])
    assert f"refuses our key {old}" in expect_refusal(late, there)
    wait_logged(there, "is not let in", f"its key {old} is not one of ours")


@pytest.mark.parametrize("first", ["program", "vms"])
def test_a_job_goes_on_when_the_key_of_its_sessions_is_revoked(first, network):
    """Its sessions end, on the side that knows it first; new ones are made with the new key."""
    lan = network(Lan, 2)
    here, there = lan.farm("--log", "info")
    process = start_job(here, there)
    here.key("rotate")
    lan.import_key([there])
    secret = here.key("show", "--secret").split("\n")[0]
    (here if first == "program" else there).key("import", text=secret)
    if first == "vms":
        wait_logged(there, "connection dropped: its key is revoked")
    else:
        line = ""
        while "the key of its session is revoked" not in line:
            line = process.stderr.readline()
            assert line != ""
    there.write("gate", "")
    finish_job(process)
    status, out, _ = here.run("status", "--json", "prog-1")
    assert json.loads(out)["recorded"] == 20


def test_who_has_a_revoked_key_loses_what_was_open(network):
    """Its program runs when the key is revoked: what it does on the VMs ends at once."""
    lan = network(Lan, 3)
    here, there, thief = lan.farm("--log", "info")
    thief.supervisor.terminate()
    thief.supervisor.wait(30)
    process = start_job(thief, there, "--hosts", there.listening())
    status, out, _ = here.run("vms", "--json", "--lan")
    held = [vm["pid"] for vm in json.loads(out) if vm["state"] == "leased"]
    assert len(held) == 2, out
    here.key("rotate")
    here.key("finish")
    lan.import_key([there], "--replace")
    for _ in held:
        wait_logged(there, "connection dropped: its key is revoked")
    expect_work(here)
    status, out, _ = here.run("vms", "--json", "--lan")
    assert not {vm["pid"] for vm in json.loads(out)} & set(held), out
    wait_logged(there, "is not let in", "is not one of ours")  # it comes again, in vain
    process.kill()
    _, err = process.communicate(timeout=30)
    assert "its connection ended" in err


# --- what was heard on the way, said again ---

# Says what is on standard input to an address; prints how many bytes come back.
REPLAY = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
s.settimeout(30)
s.sendall(sys.stdin.buffer.read())
count = 0
try:
    while got := s.recv(65536):
        count += len(got)
except ConnectionError:
    pass
print(count)
"""


def test_a_session_that_was_heard_cannot_be_repeated(network):
    lan = network(Lan, 3)
    here, there, thief = lan.farm("--log", "debug", count=1)
    here.write("prog.py", PROGRAM.replace("connect(2)", "connect(1)"))
    assert here.run("run", "--hosts", there.listening(), "prog.py")[0] == 0
    heard = [(to, text) for (begin, to), text in lan.tap.streams() if to[0] == there.address]
    assert len(heard) == 2  # the supervisor's, the VM's
    for number, (to, text) in enumerate(heard, 1):
        heard_file = thief.path("work/heard")
        heard_file.write_bytes(text)
        done = thief.output("sh", "-c", 'exec "$@" <heard', "sh", sys.executable, "-I", "-c",
                            REPLAY, *to)
        assert int(done) < 1000  # a hello and an alert
        refusal = f"is not let in: no session with tcp:{thief.address}:[0-9]+: the TLS handshake"
        wait_for(lambda: len(re.findall(refusal, there.log.read_text())) == number,
                 "a refusal in the log")
    expect_work_of_one(here, there)


def expect_work_of_one(here, there):
    status, out, err = here.run("run", "--hosts", there.listening(), "prog.py")
    assert (status, out) == (0, "30 [49]\n"), err


def test_a_question_that_was_heard_cannot_be_repeated(network):
    lan = network(Lan, 3)
    here, there, thief = lan.farm("--log", "debug", count=1)
    assert here.run("vms", "--lan")[0] == 0
    asked = [packet for protocol, packet in lan.tap.hear() if protocol == ETH_P_IP and
             packet[9] == socket.IPPROTO_UDP and packet[12:16] == socket.inet_aton(here.address)]
    assert asked

    def answers():
        return sum(begin[0] == there.address for begin, _, _ in lan.tap.datagrams())
    before = answers()
    wire = Tap(thief)
    # As it was, with its sender's address. Without its checksum, which was left to the hardware.
    packet = asked[0][:26] + b"\0\0" + asked[0][28:]
    group = bytes([1, 0, 0x5e, packet[17] & 0x7f, packet[18], packet[19]])
    wire.socket.sendto(packet, (LINK, ETH_P_IP, 0, 0, group))
    wire.close()
    wait_logged(there, "is ignored", here.address, "is replayed")
    # The same from the thief's own.
    thief.path("work/heard").write_bytes(packet[28:])
    thief.output("sh", "-c", 'exec "$@" <heard', "sh", sys.executable, "-I", "-c",
                 "import socket, sys\n"
                 "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                 "s.bind((sys.argv[1], 0))\n"
                 "s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF,"
                 " socket.inet_aton(sys.argv[1]))\n"
                 "s.sendto(sys.stdin.buffer.read(), (sys.argv[2], 8407))",
                 thief.address, socket.inet_ntoa(packet[16:20]))
    wait_logged(there, "is ignored", thief.address, "its sender is not the one that it names")
    assert answers() == before


# --- a job's past ---


def test_an_epoch_cannot_be_repeated(network):
    """A store that is brought back from before the last run: VMs know that they were later."""
    here, there = network(Lan, 2).farm("--log", "debug")
    process = start_job(here, there)
    process.kill()
    process.communicate(timeout=30)
    jobs = here.path("state/jobs")
    shutil.copytree(jobs, here.path("kept"))
    there.write("gate", "")
    status, out, err = here.run("resume", "--lan", "prog-1")
    assert (status, out) == (0, JOB_ANSWER), err
    shutil.rmtree(jobs)
    shutil.copytree(here.path("kept"), jobs)
    status, out, err = here.run("resume", "--lan", "--log", "info", "prog-1")
    assert status != 0 and out == "" and "has served a later run of the same job" in err, err
    wait_logged(there, f"tcp:{here.address}:", "refused: this VM has served a later run")


# --- without protection ---


def test_insecure_needs_an_address_on_both_sides_and_warns(network):
    lan = network(Lan, 2)
    lan.is_plain = True
    here, there = lan.machines
    process = there.start(BUILD / "trickle-vm", "--lan", "--insecure", stderr=subprocess.PIPE)
    assert "--listen ADDR" in process.communicate(timeout=30)[1]
    _, there.log = there.vms("--lan", "--insecure", "--listen", there.address)
    assert "warning: --insecure" in there.log.read_text()
    here.write("prog.py", PROGRAM)
    status, _, err = here.run("run", "--lan", "--insecure", "prog.py")
    assert status == 1 and "only where --hosts names their address" in err
    status, out, err = here.run("run", "--insecure", "--hosts", there.listening(), "prog.py")
    assert (status, out) == (0, ANSWER), err
    assert f"warning: --insecure: whoever is on the way to tcp:{there.address}:" in err
