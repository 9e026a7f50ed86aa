# SPDX-License-Identifier: MIT
"""VMs on other machines: found by multicast with nothing but the key to go by, reached by TCP with
TLS. What goes wrong between machines is in test_lan_faults.py, keys in test_lan_keys.py."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from machines import LINK, Lan, Routed, tls_records, wait_for

EXAMPLES = ["ex1_simple", "ex2_inject", "ex3_data", "ex4_functions", "ex5_objects", "ex6_async"]

PROGRAM = """
import socket
def where(x):
    return x * x, socket.gethostname() != {here!r}
vms = connect({count})
inject(vms, where)
print(sorted(forkwork(vms, where, range(5))))
print(sorted(vm.where(7) for vm in vms))
"""
ANSWER = "[(0, True), (1, True), (4, True), (9, True), (16, True)]\n"

SECRET = """
import os, time
def hush_the_function(x):
    while not os.path.exists("gate"):
        time.sleep(0.01)
    return x + "-hush_the_result"
vms = connect(2)
print(len(list(forkwork(vms, hush_the_function, ["hush_the_element"] * 4))))
"""


def write_program(here, count=2):
    here.write("prog.py", PROGRAM.format(here=here.name, count=count))
    return ANSWER + f"{[(49, True)] * count}\n"


# --- found, and at work ---


@pytest.mark.parametrize("count", [2, 4])
def test_vms_of_other_machines_are_found_and_work(count, network):
    lan = network(Lan, count)
    here, *others = lan.farm()
    answer = write_program(here, 2 * len(others))
    status, out, err = here.run("run", "--lan", "prog.py")
    assert (status, out) == (0, answer), err
    assert err == f"[trickle: discovered {2 * len(others)} VMs]\n"
    status, out, err = here.run("vms", "--json", "--lan")
    assert status == 0, err
    seen = {(vm["host"], vm["address"].rsplit(":", 1)[0]) for vm in json.loads(out)}
    assert {host for host, _ in seen} == {machine.name for machine in others}
    assert all(address.startswith("tcp:") for _, address in seen), seen
    assert lan.tap.expect_tls() >= 2 * 3 * len(others)  # both ways, a supervisor and two VMs each


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", [*EXAMPLES, "wfreq"])
def test_the_programs_of_the_paper(name, count, network, root):
    here, *others = network(Lan, count).farm(count=1)
    for machine in [others[-1]] * (4 - len(others)):  # they want four VMs
        machine.vms("--lan", count=1)
    words = [4, 5, f"{root}/examples/text/"] if name == "wfreq" else []
    status, out, err = here.run("run", "--lan", root / f"examples/{name}.py", *words)
    assert out == (root / f"examples/expected/{name}.txt").read_text(), err
    assert status == 0


def test_directories_are_each_machines_own(network):
    lan = network(Lan, 4)
    lan.farm(count=1)
    for machine in lan.machines:
        names = {path.name for path in machine.path("run").iterdir()}
        assert len(names) == (0 if machine is lan.machines[0] else 2), names
        machine.write("whose", machine.name)
    assert [m.output("cat", "whose") for m in lan.machines] == [m.name for m in lan.machines]
    spaces = {m.output("readlink", f"/proc/self/ns/{kind}") for m in lan.machines
              for kind in ("net", "mnt", "uts")}
    assert len(spaces) == 3 * 4


# --- what is on the wire ---


def test_sessions_are_tcp_with_tls_and_nothing_else(network):
    lan = network(Lan, 2)
    here, there = lan.farm()
    here.write("prog.py", SECRET)
    process = here.begin("run", "--lan", "--log", "debug", "--no-checkpoint", "prog.py")

    def connections():
        """(from, to, program) of each that is up."""
        shown = here.output("ss", "-tnpH", "state", "established")
        return re.findall(r"(\S+):\d+ +(\S+):\d+ +users:\(\(\"([^\"]+)", shown)
    seen = wait_for(lambda: len(connections()) == 3 and connections(), "three sessions")
    assert {(a, b) for a, b, _ in seen} == {(here.address, there.address)}, seen
    there.write("gate", "")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "4\n"), err
    done = re.findall(r"(\S+): TLS handshake done", err)
    peers = set(re.findall(r"((?:tcp|unix):\S+): closed:", err))
    assert len(set(done)) == 3 and peers == set(done), err  # the supervisor and two VMs

    # Two hellos in the clear, then only data under keys; and nothing of what was said.
    streams = lan.tap.streams()
    assert lan.tap.expect_tls() == len(streams) == 6
    for ends, text in streams:
        kinds = [kind for kind, _ in tls_records(text)]
        assert kinds[0] == 22 and kinds[1:] == [23] * (len(kinds) - 1), (ends, kinds)
    heard = b"".join(packet for _, packet in lan.tap.hear())
    assert b"hush_the_" not in heard and b"prog.py" not in heard


def test_without_tls_it_would_be_seen(network):
    """The test before could not pass by mistake."""
    lan = network(Lan, 2)
    lan.is_plain = True
    here, there = lan.machines
    _, there.log = there.vms("--lan", "--insecure", "--listen", there.address)
    here.write("prog.py", SECRET)
    there.write("gate", "")
    status, out, err = here.run("run", "--no-checkpoint", "--insecure", "--hosts",
                                there.listening(), "prog.py")
    assert (status, out) == (0, "4\n"), err
    heard = b"".join(packet for _, packet in lan.tap.hear())
    assert all(word in heard for word in (b"hush_the_function", b"hush_the_element",
                                          b"hush_the_result", b"prog.py"))
    with pytest.raises(AssertionError):
        lan.tap.expect_tls()


# --- other networks ---


@pytest.mark.parametrize("count", [2, 4])
def test_ipv6_only(count, network):
    lan = network(Lan, count, ipv4=False)
    here, *others = lan.farm()
    answer = write_program(here, 2 * len(others))
    status, out, err = here.run("run", "--lan", "--log", "debug", "--no-checkpoint", "prog.py")
    assert (status, out) == (0, answer), err
    found = re.findall(r"tcp:\[(\S+)\]:\d+: TLS handshake done", err)
    assert len(found) == 3 * len(others) and "tcp:10." not in err, err


def test_ipv6_link_local_addresses_are_enough(network):
    lan = network(Lan, 2, ipv4=False, ipv6=False)
    here, there = lan.farm()
    answer = write_program(here)
    status, out, err = here.run("run", "--lan", "--log", "debug", "--no-checkpoint", "prog.py")
    assert (status, out) == (0, answer), err
    found = re.findall(r"tcp:\[(\S+)\]:\d+: TLS handshake done", err)
    assert found == [f"{there.link_local()}%{LINK}"] * 3, err


def test_vms_listen_at_a_link_local_address(network):
    """As those of trickle vm --ssh do, when ssh came by one."""
    lan = network(Lan, 2, ipv4=False, ipv6=False)
    lan.share_key()
    here, there = lan.machines
    there.address = f"[{there.link_local()}%{LINK}]"
    _, there.log = there.vms("--listen", there.address)
    assert f"listening on {there.address}:" in there.log.read_text()
    answer = write_program(here)
    status, out, err = here.run("run", "--hosts", there.listening(), "prog.py")
    assert (status, out) == (0, answer), err


def options_for(here, how, hosts):
    """The words and the environment that name hosts."""
    if how == "file":
        here.write("hosts", "# those of the other network\n" + "\n".join(hosts) + "\n")
    text = f"@{here.root}/work/hosts" if how == "file" else ",".join(hosts)
    return ([], {"TRICKLE_HOSTS": text}) if how == "variable" else (["--hosts", text], {})


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_a_list_of_hosts_where_multicast_does_not_pass(how, network):
    here, *others = network(Routed, 3).farm()
    answer = write_program(here, 4)
    status, out, _ = here.run("vms", "--json", "--lan")
    assert (status, json.loads(out)) == (1, [])
    words, env = options_for(here, how, [m.listening() for m in others])
    status, out, err = here.run("run", *words, "prog.py", env=env)
    assert (status, out) == (0, answer), err


def test_a_list_of_hosts_does_without_multicast(network):
    here, there = network(Lan, 2).farm()
    answer = write_program(here)
    status, out, err = here.run("run", "--hosts", there.listening(), "prog.py")
    assert (status, out) == (0, answer), err


# A process that makes machines and is killed.
VICTIM = """
import sys, time
sys.path[:0] = sys.argv[1:]
from machines import Lan
lan = Lan(2)
lan.farm(count=1)
lan.machines[0].start("sleep", "1000")
print(lan.root, *[m.holder.pid for m in [lan.middle, *lan.machines]], flush=True)
time.sleep(1000)
"""


def processes_of(text):
    """Those with it in their environment."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text in (entry / "environ").read_bytes():
                found.add(int(entry.name))
        except OSError:
            pass
    return found


def test_machines_end_with_the_test_however_it_ends(network):
    network(Lan, 1)  # or it is skipped
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(Path(__file__).parent)],
                              stdout=subprocess.PIPE, text=True)
    root, *holders = victim.stdout.readline().split()
    mark = f"={root}/run".encode()
    assert len(processes_of(mark)) >= 3  # sleep, the supervisor, its VM
    victim.kill()
    victim.communicate()
    wait_for(lambda: not processes_of(mark), "the end of what ran there")
    wait_for(lambda: not any(Path(f"/proc/{pid}/ns/net").exists() for pid in holders),
             "the end of the machines")
    Path(root).rmdir()  # the point that all were mounted at
