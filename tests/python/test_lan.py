# SPDX-License-Identifier: MIT
"""Two machines: network namespaces with addresses of their own and a cable, each with its mount
namespace, in which the other's runtime, state and config directories are not to be seen. VMs are
found by multicast and reached by TCP with TLS. Needs root."""
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from supervisors import BUILD

EXAMPLES = ["ex1_simple", "ex2_inject", "ex3_data", "ex4_functions", "ex5_objects", "ex6_async"]
HERE, THERE = "10.77.3.1", "10.77.3.2"
PATIENCE = 30

PROGRAM = """
def where(x):
    return x * x, open("/proc/self/cmdline").read() != ""
vms = connect(2)
inject(vms, where)
print(sorted(forkwork(vms, where, range(5))))
print([vm.where(7)[0] for vm in vms])
"""

# Elements from "stop" on wait for a file on the machine of the VMs; each run is a line in a log.
JOB = """
import os, time
def work(x):
    with open({there!r} + "/log", "a") as log:
        log.write(f"{{x}}\\n")
    while x >= {stop} and not os.path.exists({there!r} + "/gate"):
        time.sleep(0.01)
    return x * x
vms = connect(2)
print(sum(forkwork(vms, work, range({count}))))
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def may_make_namespaces():
    name = f"trkprobe{os.getpid()}"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    ip("netns", "del", name)
    return True


def wait_for(condition, what, seconds=PATIENCE):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.01)


class Machine:
    """A namespace, its directories, and what runs there."""

    def __init__(self, letter, root):
        self.name = f"trk{letter}{os.getpid()}"
        self.link = f"v{letter}{os.getpid()}"
        self.root = root / letter
        for folder in ("run", "config", "state", "work"):
            (self.root / folder).mkdir(parents=True, mode=0o700)
        self.other = None
        self.processes = []
        ip("netns", "add", self.name)

    def has_link_local(self):
        shown = subprocess.run(["ip", "-n", self.name, "-6", "addr", "show", "dev", self.link],
                               check=True, capture_output=True, text=True).stdout
        return "fe80:" in shown and "tentative" not in shown

    def start(self, *command, **options):
        """Nothing in the other machine's folder is seen: an empty one lies over it."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TRICKLE_", "XDG_"))}
        env.update(TRICKLE_RUNTIME=str(self.root / "run"), TRICKLE_HOME=str(self.root / "state"),
                   XDG_CONFIG_HOME=str(self.root / "config"), TRICKLE_DEAD_AFTER="2",
                   TRICKLE_SUSPECT_AFTER="1")
        hide = f"mount -t tmpfs none {self.other.root} && hostname {self.name} && exec \"$@\""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "sh", "-c", hide,
             "sh", *map(str, command)],
            env=env, text=True, stdin=options.pop("stdin", subprocess.DEVNULL), **options)
        self.processes.append(process)
        return process

    def run(self, *words, timeout=60):
        process = self.start(BUILD / "trickle", *words, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, cwd=self.root / "work")
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    def key(self, *words, text=None):
        """trickle key; its output."""
        process = self.start(BUILD / "trickle", "key", *words, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(text or "", timeout=PATIENCE)
        assert process.returncode == 0, err
        return out

    def vms(self, *options, count=2):
        """Starts VMs; the supervisor, and what it said."""
        ready, write = os.pipe()
        log = self.root / f"log{len(self.processes)}"
        with open(log, "w", encoding="utf-8") as file:
            process = self.start(BUILD / "trickle-vm", "-n", count, "--ready-fd", write, *options,
                                 pass_fds=[write], stderr=file)
        os.close(write)
        assert select.select([ready], [], [], PATIENCE)[0]
        assert os.read(ready, 1) != b"", log.read_text()
        os.close(ready)
        return process, log

    def close(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.communicate(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


def connect_machines(here, there, ipv6_only):
    ip("link", "add", here.link, "netns", here.name, "type", "veth", "peer", "name", there.link,
       "netns", there.name)
    for machine, ipv4, ipv6 in [(here, HERE, "fd77:3::1"), (there, THERE, "fd77:3::2")]:
        if not ipv6_only:
            ip("-n", machine.name, "addr", "add", f"{ipv4}/24", "dev", machine.link)
        ip("-n", machine.name, "addr", "add", f"{ipv6}/64", "dev", machine.link, "nodad")
        subprocess.run(["ip", "netns", "exec", machine.name, "sh", "-c",  # usable at once
                        f"echo 0 >/proc/sys/net/ipv6/conf/{machine.link}/accept_dad"], check=True)
        ip("-n", machine.name, "link", "set", machine.link, "up")
        ip("-n", machine.name, "link", "set", "lo", "up")
    for machine in here, there:
        wait_for(machine.has_link_local, "an address of the link")


@pytest.fixture
def ipv6_only():
    return False


@pytest.fixture
def machines(ipv6_only):
    """Two machines with a cable between them, and no key."""
    if not may_make_namespaces():
        pytest.skip("making network namespaces needs root")
    root = Path(tempfile.mkdtemp(prefix="trk-"))  # short: socket names have to fit
    made = []
    try:
        for letter in "ab":
            made.append(Machine(letter, root))
        made[0].other, made[1].other = made[1], made[0]
        connect_machines(*made, ipv6_only)
        yield made
    finally:
        for machine in made:
            machine.close()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def farm(machines):
    """The same, with a key, and two VMs on the second one."""
    here, there = machines
    here.key("new")
    there.key("import", text=here.key("show", "--secret"))
    there.process, there.log = there.vms("--lan", "--log", "info")
    return machines


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "prog.py"
    path.write_text(PROGRAM)
    return path


def sessions(err, address):
    """The ports at that address that a TLS handshake was done with, of a log of ours."""
    return set(re.findall(rf"tcp:{re.escape(address)}:(\d+): TLS handshake done", err))


def port_of(log):
    return log.read_text().split("listening on", 1)[1].split()[0].rsplit(":", 1)[1]


# --- with a key -----------------------------------------------------------------------------------


def test_vms_of_another_machine_are_found_and_work(farm, program):
    here, _ = farm
    status, out, err = here.run("run", "--lan", program)
    assert (status, err) == (0, "[trickle: discovered 2 VMs]\n")
    assert out == "[(0, True), (1, True), (4, True), (9, True), (16, True)]\n[49, 49]\n"


def test_sessions_are_tcp_with_tls_and_nothing_else(farm, program):
    here, there = farm
    status, _, err = here.run("run", "--lan", "--log", "debug", "--no-checkpoint", program)
    assert status == 0, err
    assert len(sessions(err, THERE)) == 3, err  # the supervisor and two VMs
    peers = {peer for peer in re.findall(r"((?:tcp|unix):\S+): closed:", err)}
    assert peers and all(peer.startswith(f"tcp:{THERE}:") for peer in peers), peers
    status, out, err = here.run("vms", "--json", "--lan")
    assert status == 0, err
    vms = json.loads(out)
    assert [vm["host"] for vm in vms] == [there.name] * 2
    assert all(vm["address"].startswith(f"tcp:{THERE}:") for vm in vms), vms


def test_a_list_of_hosts_does_without_multicast(farm, program):
    here, there = farm
    status, out, err = here.run("run", "--hosts", f"{THERE}:{port_of(there.log)}", program)
    assert status == 0, err
    assert out.endswith("[49, 49]\n")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_programs_of_the_paper(name, farm, root):
    here, there = farm
    for _ in range(2):  # some want four VMs
        there.vms("--lan", count=1)
    status, out, err = here.run("run", "--lan", root / "examples" / f"{name}.py")
    assert out == (root / "examples/expected" / f"{name}.txt").read_text(), err
    assert status == 0


def job_on(here, there, stop, count):
    """(program, what it prints, the log of runs, the gate)"""
    program = here.root / "work/prog.py"
    folder = there.root / "work"
    program.write_text(JOB.format(there=str(folder), stop=stop, count=count))
    return program, f"{sum(x * x for x in range(count))}\n", folder / "log", folder / "gate"


def runs(log):
    lines = log.read_text().split() if log.exists() else []
    return {int(x): lines.count(x) for x in lines}


def start_job(here, program, *options):
    return here.start(BUILD / "trickle", "run", "--lan", *options, program, stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE, cwd=here.root / "work")


def recorded(here):
    status, out, _ = here.run("status", "--json", "prog-1")
    return json.loads(out)["recorded"] if status == 0 else 0


def test_a_job_is_killed_and_resumed(farm):
    here, there = farm
    program, answer, log, gate = job_on(here, there, stop=10, count=20)
    process = start_job(here, program)
    wait_for(lambda: recorded(here) == 10, "ten results")
    process.send_signal(signal.SIGKILL)  # unshare and ip have become the program itself
    process.communicate(timeout=PATIENCE)
    gate.touch()
    status, out, err = here.run("resume", "--lan", "prog-1")
    assert (status, out) == (0, answer), err
    done = runs(log)
    assert set(done) == set(range(20))
    assert all(done[x] == 1 for x in range(10)), done  # what was recorded did not run again


def test_a_job_outlives_a_partition(farm):
    here, there = farm
    program, answer, log, gate = job_on(here, there, stop=10, count=20)
    process = start_job(here, program)
    wait_for(lambda: len(runs(log)) >= 12, "two elements that wait")
    ip("-n", there.name, "link", "set", there.link, "down")
    line = ""
    while "no sign of life" not in line:  # it has noticed
        line = process.stderr.readline()
        assert line != ""
    ip("-n", there.name, "link", "set", there.link, "up")
    ip("-n", there.name, "addr", "replace", "fd77:3::2/64", "dev", there.link, "nodad")
    gate.touch()
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (0, answer), err
    assert set(runs(log)) == set(range(20))


def test_a_machine_changes_its_address(farm):
    here, there = farm
    program, answer, log, gate = job_on(here, there, stop=10, count=20)
    process = start_job(here, program)
    wait_for(lambda: len(runs(log)) >= 12, "two elements that wait")
    ip("-n", there.name, "addr", "del", f"{THERE}/24", "dev", there.link)
    ip("-n", there.name, "addr", "del", "fd77:3::2/64", "dev", there.link)
    ip("-n", there.name, "addr", "add", "10.77.3.9/24", "dev", there.link)
    gate.touch()
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (0, answer), err
    status, out, err = here.run("vms", "--json", "--lan")
    assert status == 0 and all("10.77.3.9:" in vm["address"] for vm in json.loads(out)), out


@pytest.mark.parametrize("ipv6_only", [True])
def test_ipv6_only(farm, program):
    here, _ = farm
    status, out, err = here.run("run", "--lan", "--log", "debug", "--no-checkpoint", program)
    assert status == 0 and out.endswith("[49, 49]\n"), err
    found = set(re.findall(r"tcp:\[(fd77:3::2|fe80:[^\]]+)\]:\d+: TLS handshake done", err))
    assert found and "tcp:10." not in err, err


# --- keys that do not fit -------------------------------------------------------------------------


def test_without_a_key_vms_do_not_start_and_say_what_to_type(machines):
    process = machines[1].start(BUILD / "trickle-vm", "--lan", stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "\n  trickle key new\n" in err


def test_without_a_key_other_machines_are_not_asked(farm, program):
    here, _ = farm
    shutil.rmtree(here.root / "config/trickle")
    status, _, err = here.run("run", "--lan", program)
    assert status == 1 and "trickle key show --secret | ssh" in err


def test_another_key_sees_nothing(farm, program):
    here, there = farm
    shutil.rmtree(here.root / "config/trickle")
    here.key("new")
    status, out, _ = here.run("vms", "--json", "--lan")
    assert (status, json.loads(out)) == (1, [])  # nobody answers a question that is not sealed
    status, _, err = here.run("run", "--hosts", f"{THERE}:{port_of(there.log)}", program)
    assert status == 1 and "cannot be used" in err
    identity = here.key("show").split()[0]
    wait_for(lambda: "is not let in" in there.log.read_text(), "the refusal in the log")
    assert identity in there.log.read_text()


def test_keys_are_rotated_while_vms_run(farm, program):
    here, there = farm
    here.key("rotate")
    there.key("import", text=here.key("show", "--secret"))
    status, out, err = here.run("run", "--lan", program)
    assert status == 0 and out.endswith("[49, 49]\n"), err
    old = (here.root / "config/trickle/key").read_text().splitlines()[1]
    here.key("finish")
    there.key("import", text=here.key("show", "--secret"))
    wait_for(lambda: there.log.read_text().count("the keys have changed") >= 2, "both changes")
    status, out, err = here.run("run", "--lan", program)
    assert status == 0 and out.endswith("[49, 49]\n"), err
    shutil.rmtree(here.root / "config/trickle")
    here.key("import", text=old + "\n")
    status, _, err = here.run("run", "--hosts", f"{THERE}:{port_of(there.log)}", program)
    assert status == 1 and "cannot be used" in err  # a key that is no longer one


# --- without protection ---------------------------------------------------------------------------


def test_insecure_needs_an_address_on_both_sides_and_warns(machines, program):
    here, there = machines
    process = there.start(BUILD / "trickle-vm", "--lan", "--insecure", stderr=subprocess.PIPE)
    assert "--listen ADDR" in process.communicate(timeout=PATIENCE)[1]
    _, log = there.vms("--lan", "--insecure", "--listen", THERE)
    assert "warning: --insecure" in log.read_text()
    status, _, err = here.run("run", "--lan", "--insecure", program)
    assert status == 1 and "only where --hosts names their address" in err
    status, out, err = here.run("run", "--insecure", "--hosts", f"{THERE}:{port_of(log)}", program)
    assert status == 0 and out.endswith("[49, 49]\n"), err
    assert f"warning: --insecure: whoever is on the way to tcp:{THERE}:" in err
