# SPDX-License-Identifier: MIT
"""VMs that dial in: `trickle run --listen` and `trickle vm --join`. On loopback, with nothing in
common but a key; and on two machines (machines.py) of which one cannot be connected to, because
nothing listens on it."""
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import pytest

from machines import GATED_WORK, Lan, wait_for
from supervisors import BUILD
from test_lan_faults import recorded, runs, wait_said
from test_lan_keys import wait_logged

WORK = """
import os, signal, time
HERE = {here!r}
def work(x):
    with open(HERE + "/log", "a") as log:
        log.write(f"{{x}}\\n")
    if x == 7 and not os.path.exists(HERE + "/died"):
        open(HERE + "/died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    while not os.path.exists(HERE + "/gate"):
        time.sleep(0.01)
    return x * x
vms = connect({vms}, timeout=30)
print(len(vms), sum(forkwork(vms, work, range(30))))
"""


class Reader:
    """What a process says, read as it comes."""

    def __init__(self, stream):
        self.text = ""
        self.thread = threading.Thread(target=self.read, args=[stream], daemon=True)
        self.thread.start()

    def read(self, stream):
        for line in stream:
            self.text += line

    def listening(self):
        """The HOST:PORT that a program has got."""
        wait_for(lambda: "--join" in self.text, "where it listens")
        return re.search(r"listening on (\S+);", self.text)[1]


class Side:
    """A user with directories of his own, as on a machine of his own."""

    def __init__(self, command_class):
        self.directory = tempfile.mkdtemp(prefix="trk-")
        self.command = command_class(self.directory)
        self.command.env.update(TRICKLE_HOME=self.directory + "/home",
                                XDG_CONFIG_HOME=self.directory + "/config")
        self.key = self.directory + "/config/trickle/key"
        self.processes = []

    def start(self, *words):
        process = self.command.start(*words)
        process.said = Reader(process.stderr)
        self.processes.append(process)
        return process

    def finish(self, process):
        """(status, output); all it said is in said."""
        out = process.stdout.read()
        process.said.thread.join(60)
        return process.wait(60), out

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
                process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def sides(command_class):
    """Here is the program, there are the VMs; one key."""
    both = Side(command_class), Side(command_class)
    both[0].command("key", "new")
    os.makedirs(os.path.dirname(both[1].key), mode=0o700)
    shutil.copy(both[0].key, both[1].key)
    yield both
    for side in both:
        side.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def work_program(path, vms=2):
    program = path / "prog.py"
    program.write_text(WORK.format(here=str(path), vms=vms))
    return program


ANSWER = sum(x * x for x in range(30))


def test_vms_join_work_and_serve_the_next_program(sides, tmp_path):
    here, there = sides
    where = f"127.0.0.1:{free_port()}"
    vms = there.start("vm", "-n", "2", "--join", where)  # they are first
    (tmp_path / "gate").touch()
    program = work_program(tmp_path)
    for _ in range(2):
        status, out = here.finish(first := here.start("run", "--listen", where, program))
        assert (status, out) == (0, f"2 {ANSWER}\n"), first.said.text
        assert f"VMs join with: trickle vm --join {where}" in first.said.text
    shown = there.command("vms")
    assert shown.returncode == 0 and shown.stdout.count("python") == 2
    vms.terminate()
    assert there.finish(vms)[0] == 0
    assert "cannot join" not in vms.said.text  # that nobody was there at first is as it should be
    assert there.command.wait_until_nothing_is_left()


def test_free_port_is_told_and_a_killed_vm_is_replaced(sides, tmp_path):
    here, there = sides
    process = here.start("run", "--no-checkpoint", "--listen", "127.0.0.1:0",
                         work_program(tmp_path))
    port = process.said.listening().split(":")[1]
    there.start("vm", "-n", "2", "--join", f"localhost:{port}")  # a name, to be looked up
    (tmp_path / "gate").touch()
    status, out = here.finish(process)
    assert (status, out) == (0, f"2 {ANSWER}\n"), process.said.text
    assert "is lost: killed by SIGKILL while running element 7" in process.said.text
    assert (tmp_path / "log").read_text().split().count("7") == 2


def test_two_supervisors_join_and_one_is_killed(sides, tmp_path, command_class):
    here, there = sides
    process = here.start("run", "--listen", "127.0.0.1:0", work_program(tmp_path, vms=4))
    where = process.said.listening()
    there.start("vm", "-n", "2", "--join", where)
    other = Side(command_class)
    try:
        os.makedirs(os.path.dirname(other.key), mode=0o700)
        shutil.copy(here.key, other.key)
        second = other.start("vm", "-n", "2", "--join", where)
        log = tmp_path / "log"
        wait_for(lambda: log.exists() and len(set(log.read_text().split())) >= 4,
                 "four elements that wait")
        second.kill()
        second.wait(20)
        (tmp_path / "gate").touch()
        status, out = here.finish(process)
        assert (status, out) == (0, f"4 {ANSWER}\n"), process.said.text
    finally:
        other.close()


def test_another_key_is_refused_with_a_reason_on_both_sides(sides, tmp_path):
    here, there = sides
    os.unlink(there.key)
    there.command("key", "new")
    process = here.start("run", "--listen", "127.0.0.1:0", work_program(tmp_path))
    vms = there.start("vm", "-n", "2", "--join", process.said.listening())
    identity = there.command("key", "show").stdout.split()[1]
    wait_for(lambda: "is not let in: no session with" in process.said.text, "the refusal here")
    assert f"its key {identity} is not" in process.said.text
    wait_for(lambda: "cannot join" in vms.said.text, "the refusal there")
    shutil.copy(here.key, there.key)  # noticed without a restart
    (tmp_path / "gate").touch()
    assert here.finish(process) == (0, f"2 {ANSWER}\n"), process.said.text


def test_a_stranger_is_refused_and_disturbs_nobody(sides, tmp_path):
    here, there = sides
    process = here.start("run", "--listen", "127.0.0.1:0", work_program(tmp_path))
    host, port = process.said.listening().split(":")
    with socket.create_connection((host, int(port)), timeout=20) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while stranger.recv(4096):
            pass  # a TLS alert, at most
    wait_for(lambda: "is not let in" in process.said.text, "the refusal")
    there.start("vm", "-n", "2", "--join", f"{host}:{port}")
    (tmp_path / "gate").touch()
    assert here.finish(process) == (0, f"2 {ANSWER}\n"), process.said.text


def test_without_a_key_both_sides_say_what_to_type(sides, tmp_path):
    here, there = sides
    os.unlink(here.key)
    os.unlink(there.key)
    done = here.command("run", "--listen", "127.0.0.1:0", work_program(tmp_path))
    assert done.returncode == 1 and "trickle key new" in done.stderr
    done = there.command("vm", "--join", "127.0.0.1:4711")
    assert done.returncode == 2 and "\n  trickle key new\n" in done.stderr


def test_insecure_warns_on_both_sides(sides, tmp_path):
    here, there = sides
    process = here.start("run", "--insecure", "--listen", "127.0.0.1:0", work_program(tmp_path))
    where = process.said.listening()
    vms = there.start("vm", "-n", "2", "--insecure", "--join", where)
    (tmp_path / "gate").touch()
    assert here.finish(process) == (0, f"2 {ANSWER}\n"), process.said.text
    assert f"warning: --insecure: whoever can reach {where}" in process.said.text
    assert f"warning: --insecure: whoever is at {where}" in vms.said.text


PLAIN = """
import threading, trickle
def connect():
    made.append(trickle.connect(2, timeout=30, listen="127.0.0.1:0"))
made = []
assert trickle.listening() is None
thread = threading.Thread(target=connect)
thread.start()
while trickle.listening() is None:
    thread.join(0.01)
print(trickle.listening(), flush=True)
thread.join()
vms, = made
assert trickle.connect(1, listen=trickle.listening())[0].abs(-3) == 3
assert trickle.connect(1, listen="127.0.0.1:0")
try:
    trickle.connect(1, listen="127.0.0.1:1")
except trickle.TrickleError as error:
    print(error)
"""


def test_connect_listens_without_the_command(sides, tmp_path):
    here, there = sides
    path = tmp_path / "plain.py"
    path.write_text(PLAIN.replace("vms, = made", "vms, = made; trickle.inject(vms, abs=abs)"))
    process = subprocess.Popen(["/usr/bin/python3", path], text=True, stdout=subprocess.PIPE,
                               env=here.command.env | {"PYTHONPATH": str(BUILD / "python")})
    where = process.stdout.readline().strip()
    there.start("vm", "-n", "2", "--join", where)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == (f"this program listens at {where} already, from its first connect() on: say "
                   "listen= there, or trickle run --listen\n")


# --- two machines ---------------------------------------------------------------------------------

PORT = 7000

PROGRAM = """
import socket
def where(x):
    return x * x, socket.gethostname() != {here!r}
vms = connect(2, timeout=30)
inject(vms, where)
print(sorted(forkwork(vms, where, range(5))))
print([vm.where(7) for vm in vms])
"""
PROGRAM_ANSWER = """[(0, True), (1, True), (4, True), (9, True), (16, True)]
[(49, True), (49, True)]
"""

# The last two elements wait for "end".
JOB = "LAST = 18" + GATED_WORK + """
vms = connect(2)
print(sum(forkwork(vms, work, range(20))))
"""
JOB_ANSWER = f"{sum(x * x for x in range(20))}\n"


def sessions(machine):
    """The connections that are up there: ((address, port) of its own, of the other)."""
    shown = machine.output("ss", "-tnH", "state", "established")
    return {tuple(tuple(end.rsplit(":", 1)) for end in line.split()[2:4])
            for line in shown.splitlines()}


def expect_dialed(lan):
    """Nothing listens on the VMs' machine, and all that was said by TCP went to or from the port
    of the program, by TLS. Returns how many directions of connections there were."""
    here, there = lan.machines
    assert there.output("ss", "-lntuH") == ""
    assert "listening on" not in there.log.read_text()
    for ends, _ in lan.tap.streams():
        assert (here.address, PORT) in ends
    return lan.tap.expect_tls()


@pytest.fixture
def joined(network):
    """Two machines with one key; the VMs of the second join the first."""
    lan = network(Lan, 2)
    here, there = lan.machines
    lan.share_key()
    there.supervisor, there.log = there.vms("--join", f"{here.address}:{PORT}", "--log", "info")
    yield lan
    expect_dialed(lan)


def test_another_machine_joins_by_tls_only(joined):
    here, there = joined.machines
    here.write("prog.py", PROGRAM.format(here=here.name))
    status, out, err = here.run("run", "--listen", f"{here.address}:{PORT}", "--log", "debug",
                                "--no-checkpoint", "prog.py")
    assert (status, out) == (0, PROGRAM_ANSWER), err
    done = re.findall(r"(\S+): TLS handshake done", err)
    assert len(set(done)) >= 3, err  # the supervisor and two VMs
    peers = set(re.findall(r"((?:tcp|unix):\S+): closed:", err))
    assert peers and all(peer.startswith(f"tcp:{there.address}:") for peer in peers), peers
    assert expect_dialed(joined) >= 2 * 3


def start_job(lan, env=()):
    """The program, once its VMs wait for the gate."""
    here, there = lan.machines
    here.write("prog.py", JOB)
    process = here.begin("run", "--listen", f"{here.address}:{PORT}", "--log", "info", "prog.py",
                         env=dict(env))
    wait_for(lambda: len(set(runs(there))) >= 12, "two elements that wait")
    return process


def finish_job(lan, process):
    here, there = lan.machines
    for name in "gate", "end":
        there.write(name, "")
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (0, JOB_ANSWER), err
    assert set(runs(there)) == set(range(20))
    assert recorded(here) == 20


def test_a_job_is_killed_and_resumed_with_what_was_held(joined):
    here, there = joined.machines
    # Nobody counts as silent, however slow this machine is: that would run elements again.
    patient = {"TRICKLE_SUSPECT_AFTER": "30", "TRICKLE_DEAD_AFTER": "30"}
    process = start_job(joined, patient)
    wait_for(lambda: recorded(here) == 10, "ten results")
    process.send_signal(signal.SIGKILL)
    _, first = process.communicate(timeout=30)
    ran = set(runs(there))
    for name in "gate", "end":  # the VMs finish what they run, for nobody
        there.write(name, "")
    held = there.path("state/held")
    wait_for(lambda: sum(file.is_file() and file.suffix != ".tmp" for file in held.rglob("*")) >= 2,
             "two held results")
    status, out, err = here.run("resume", "prog-1", env=patient)  # listens where it did
    assert (status, out) == (0, JOB_ANSWER), err
    done = runs(there)
    assert set(done) == set(range(20))
    again = {x: done.count(x) for x in ran if done.count(x) != 1}  # recorded or held: not again
    assert not again, f"{again} of {done}\nfirst run: {first}\nresumed: {err}"


def test_a_job_outlives_a_partition(joined):
    process = start_job(joined)
    joined.cut(joined.machines[1])
    wait_said(process, "no sign of life")
    joined.heal()
    finish_job(joined, process)


@pytest.mark.full  # waits until the old connection counts as dead
def test_a_machine_that_changes_its_address_comes_again(joined):
    process = start_job(joined)
    joined.move(joined.machines[1], 9)
    finish_job(joined, process)


# --- two machines, and a key that is revoked ------------------------------------------------------


def wait_sessions(lan, gone=frozenset()):
    """Three, of a supervisor and two VMs, that both machines know; none of those that are gone."""
    here, there = lan.machines

    def look():
        now = sessions(here)
        mirrored = {(other, own) for own, other in sessions(there)}
        return now if len(now) == 3 and now == mirrored and not now & gone else None
    return wait_for(look, "three sessions")


def wait_ended(lan, gone):
    here, there = lan.machines
    wait_for(lambda: not (sessions(here) | {(b, a) for a, b in sessions(there)}) & gone,
             "the end of the sessions on both sides")


def expect_back(lan, process, gone):
    """Other sessions come, once the VMs have finished what they may hold for the program."""
    lan.machines[1].write("gate", "")
    wait_sessions(lan, gone)
    finish_job(lan, process)


@pytest.mark.parametrize("first", ["program", "vms"])
def test_sessions_go_over_to_the_new_key(first, joined):
    """Both know the new key; who forgets the old one first ends what was opened with that."""
    here, there = joined.machines
    process = start_job(joined)
    before = wait_sessions(joined)
    here.key("rotate")
    joined.import_key([there])
    secret = here.key("show", "--secret").split("\n")[0]
    (here if first == "program" else there).key("import", text=secret)
    wait_ended(joined, before)
    expect_back(joined, process, before)


@pytest.mark.parametrize("who", ["program", "vms"])
def test_sessions_of_a_revoked_key_end_and_come_back_with_the_new_one(who, joined):
    """Only one side has the new key: until the other gets it, nobody is let in."""
    here, there = joined.machines
    process = start_job(joined)
    before = wait_sessions(joined)
    fresh, stale = (here, there) if who == "program" else (there, here)
    fresh.key("rotate")
    fresh.key("finish")
    wait_said(process, "is not let in: no session with")
    wait_logged(there, "cannot join")
    wait_ended(joined, before)
    stale.key("import", "--replace", text=fresh.key("show", "--secret"))
    expect_back(joined, process, before)
