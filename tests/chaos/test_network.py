# SPDX-License-Identifier: MIT
"""The network of machines that chaos/live makes: each thing that it does to packets is done, and
no more, and nothing of it outlives who made it."""
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "chaos"))

from live import network as net  # noqa: E402

PORT = 4700
GROUP = "239.7.7.7"

pytestmark = [pytest.mark.skipif(net.why_none() != "", reason=net.why_none() or "none"),
              pytest.mark.xdist_group("network")]


@pytest.fixture(scope="module")
def machines_of_all():
    own = net.Network(3, seed=7)
    yield own
    own.close()


@pytest.fixture
def network(machines_of_all):
    yield machines_of_all
    machines_of_all.heal()
    machines_of_all.record_off()


@pytest.fixture
def udp(network):
    """(machine, family) -> a socket at PORT."""
    opened = []

    def make(machine, which=0):
        family = socket.AF_INET6 if which else socket.AF_INET
        one = machine.socket(family, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        one.bind((machine.addresses[which], PORT))
        one.settimeout(5)
        opened.append(one)
        return one
    yield make
    for one in opened:
        one.close()


def tcp_pair(here, there, which=0):
    """A connection: the end here, the end there."""
    family = socket.AF_INET6 if which else socket.AF_INET
    with there.socket(family, socket.SOCK_STREAM) as listening:
        listening.bind((there.addresses[which], 0))
        listening.listen(1)
        one = here.socket(family, socket.SOCK_STREAM)
        one.settimeout(5)
        one.connect(listening.getsockname()[:2])
        other, _ = listening.accept()
        other.settimeout(5)
        return one, other


def heard(one):
    """The numbers of all packets that come within a moment."""
    one.settimeout(0.3)
    numbers = []
    try:
        while True:
            numbers.append(int(one.recv(2000)[:8]))
    except TimeoutError:
        one.settimeout(5)
        return numbers


def say(one, to, count, size=8):
    for i in range(count):
        one.sendto(b"%08d" % i + bytes(size - 8), (to, PORT))


# --- what becomes of packets ---


@pytest.mark.parametrize("which", [0, 1], ids=["ipv4", "ipv6"])
def test_packets_go_to_whom_they_are_addressed_and_to_nobody_else(network, udp, which):
    here, there, other = network.machines
    one, two, three = (udp(m, which) for m in (here, there, other))
    say(one, there.addresses[which], 20)
    assert two.recvfrom(100)[1][:2] == (here.addresses[which], PORT)
    assert len(heard(two)) == 19 and heard(three) == []


@pytest.mark.parametrize("which", [0, 1], ids=["ipv4", "ipv6"])
def test_delay_is_at_least_what_was_asked_for(network, udp, which):
    here, there, _ = network.machines
    one, two = udp(here, which), udp(there, which)
    network.delay(here, there, ms=30, jitter_ms=10, both=False)
    took = []
    for _ in range(20):
        begin = time.monotonic()
        say(one, there.addresses[which], 1)
        two.recv(100)
        took.append(1000 * (time.monotonic() - begin))
    assert 30 <= min(took) < 60, took
    assert max(took) - min(took) > 1, f"no jitter: {took}"


def test_loss_is_near_what_was_asked_for(network, udp):
    here, there, _ = network.machines
    one, two = udp(here), udp(there)
    network.loss(here, there, p=0.2, both=False)
    say(one, there.address, 2000)
    numbers = heard(two)
    assert abs(len(numbers) - 1600) < 90, len(numbers)  # five times the deviation
    assert numbers == sorted(numbers)
    say(two, here.address, 200)
    assert len(heard(one)) == 200  # the other way is as it was


def test_duplicates_and_packets_that_are_late(network, udp):
    here, there, _ = network.machines
    one, two = udp(here), udp(there)
    with network.duplicate(here, there, p=0.5):
        say(one, there.address, 400)
        numbers = heard(two)
        assert 500 < len(numbers) < 700 and len(set(numbers)) == 400
        assert numbers == sorted(numbers)
    with network.reorder(here, there, p=0.1, ms=1):
        say(one, there.address, 400)
        numbers = heard(two)
        assert numbers != sorted(numbers) and sorted(numbers) == list(range(400))


def test_rate_is_not_exceeded_and_its_queue_is_bounded(network, udp):
    here, there, _ = network.machines
    one, two = udp(here), udp(there)
    network.rate(here, there, kbit=2000, queue_bytes=50 * 1028)
    before = network.counters()["m0", "m1"]["overflow"]
    begin = time.monotonic()
    say(one, there.address, 100, size=1000)
    sent = (time.monotonic() - begin) * 2e6 / (1028 * 8)  # meanwhile, so that there was room
    numbers = []
    while len(numbers) < 50:
        numbers.append(int(two.recv(2000)[:8]))
    assert time.monotonic() - begin >= 50 * 1028 * 8 / 2e6
    numbers += heard(two)
    assert numbers[:50] == list(range(50)) and 50 <= len(numbers) < 60 + sent
    assert network.counters()["m0", "m1"]["overflow"] - before == 100 - len(numbers)


def test_partitions_stop_packets_and_heal(network, udp):
    here, there, other = network.machines
    one, two, three = udp(here), udp(there), udp(other)
    cut = network.partition([here, other])
    say(one, there.address, 5)
    say(two, here.address, 5)
    say(one, other.address, 5)
    assert (heard(two), heard(one), len(heard(three))) == ([], [], 5)
    cut.lift()
    with network.partition_one_way(here, there):
        say(one, there.address, 5)
        say(two, here.address, 5)
        assert (heard(two), len(heard(one))) == ([], 5)
    say(one, there.address, 5)
    assert len(heard(two)) == 5


def test_conditions_add_up_and_each_takes_back_its_own():
    assert net.combined([])["rate_kbit"] == 0
    both = net.combined([{"loss": 0.5, "delay_ms": 10}, {"loss": 0.5}, {"delay_ms": 5, "cut": 1},
                         {"rate_kbit": 900, "queue_bytes": 9}, {"rate_kbit": 20}])
    assert (both["loss"], both["delay_ms"], both["cut"], both["rate_kbit"]) == (0.75, 15, 1, 20)
    assert both["queue_bytes"] == 256000


def test_multicast_comes_to_all_others_or_is_lost(network, udp):
    machines = network.machines
    ends = [udp(m) for m in machines]
    listeners = []
    for m in machines:
        one = m.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((GROUP, PORT + 1))
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                       socket.inet_aton(GROUP) + socket.inet_aton(m.address))
        listeners.append(one)
    ends[0].setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    ends[0].setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF,
                       socket.inet_aton(machines[0].address))
    ends[0].sendto(b"00000001", (GROUP, PORT + 1))
    assert [heard(one) for one in listeners] == [[], [1], [1]]
    network.multicast_lost(machines[0])
    ends[0].sendto(b"00000002", (GROUP, PORT + 1))
    say(ends[0], machines[1].address, 1)  # what is not multicast is not lost
    assert [heard(one) for one in listeners] == [[], [], []] and heard(ends[1]) == [0]
    for one in listeners:
        one.close()


# --- connections ---


@pytest.mark.parametrize("which", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("state", ["idle", "busy", "one way"])
def test_a_reset_is_seen_by_both_ends(network, which, state):
    here, there, other = network.machines
    one, two = tcp_pair(here, there, which)
    kept, kept_there = tcp_pair(here, other, which)
    if state != "idle":
        one.sendall(b"x" * 100000)
    if state == "busy":
        two.sendall(b"y" * 100000)
        assert two.recv(5000) and one.recv(5000)
    assert network.reset(here, there) == 1
    for end in (one, two):
        with pytest.raises(OSError) as error:
            while end.recv(1 << 20):
                pass
        assert error.value.errno == errno.ECONNRESET, error.value
    kept.sendall(b"still here")
    assert kept_there.recv(100) == b"still here"
    assert network.reset() >= 1
    for end in (one, two, kept, kept_there):
        end.close()


def test_a_machine_that_moves_is_only_at_its_new_address(network, udp):
    here, there, _ = network.machines
    one = udp(here)
    old = there.address
    new = network.move(there)
    assert new != old
    two = udp(there)
    say(one, old, 1)
    assert heard(two) == []
    say(one, new, 1)
    assert heard(two) == [0]


def test_a_recording_has_the_streams_and_who_opened_a_connection(network, tmp_path):
    here, there, _ = network.machines
    network.record(tmp_path / "heard.pcap")
    before = network.counters()["m0", "m1"]
    one, two = tcp_pair(here, there)
    one.sendall(b"\x16\x03\x01" + bytes(50000))
    received = 0
    while received < 50003:
        received += len(two.recv(65536))
    two.sendall(b"an answer")
    assert one.recv(100) == b"an answer"
    plain, plain_there = tcp_pair(here, there)
    plain.sendall(b"plain text")
    assert plain_there.recv(100) == b"plain text"
    after = network.counters()["m0", "m1"]
    assert [after[k] - before[k] for k in ("connections", "tls", "plain")] == [2, 1, 1]
    with pytest.raises(net.NetworkError, match="m0 to m1: [0-9]+ connections without TLS"):
        network.tls_connections()
    streams = [text for _, text in net.recorded_streams(tmp_path / "heard.pcap") if text]
    assert streams == [b"\x16\x03\x01" + bytes(50000), b"an answer", b"plain text"]
    for end in (one, two, plain, plain_there):
        end.close()


# --- machines ---


def test_each_machine_has_its_own_name_and_files(network):
    here, there, _ = network.machines
    for machine in (here, there):
        machine.path("work/name").write_text(machine.name)
        (machine.path("state") / machine.name).touch()
    for machine in (here, there):
        told = machine.output("sh", "-c", "hostname; cat name; echo; ls $TRICKLE_HOME")
        assert told.split() == [machine.name] * 3


def test_mistakes_are_sentences(network):
    for words, what in [(["link", "m0", "m9"], "no link from m0 to m9"),
                        (["link", "m0", "m1", "loss", "1.5"], "no setting loss, or it cannot be"),
                        (["link", "m0", "m1", "speed", "1"], "there is no setting speed"),
                        (["machine", "m8", "1", "lan", "x"], "usage: machine"),
                        (["address", "m0", "1.2.3"], "1.2.3 is no IP address"),
                        (["reset", "m0"], "usage: reset A B"), ([], "no such command")]:
        with pytest.raises(net.NetworkError, match=what):
            network._ask(*words)


DIES = """
import json, os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from live.network import Network
network = Network(2)
for machine in network.machines:  # one that belongs to nobody any more
    machine.output("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &")
print(json.dumps([network._relay.pid] + [pid for m in network.machines
                                         for pid in [m.pid, *m.processes()]]), flush=True)
time.sleep(1000)
"""


def test_nothing_is_left_of_it_when_its_maker_is_killed():
    maker = subprocess.Popen([sys.executable, "-c", DIES, ROOT / "chaos"], stdout=subprocess.PIPE)
    pids = json.loads(maker.stdout.readline())
    assert len(pids) == 5
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    maker.stdout.close()
    net.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/root/proc") for pid in pids),
                 f"the end of {pids}")


def test_closing_ends_what_runs_there():
    network = net.Network(1)
    process = network.machines[0].start("sleep", "1000")
    network.close()
    assert process.wait(5) == -signal.SIGKILL


# --- Trickle on it ---


PROGRAM = """
import os, socket, time
def work(x):
    time.sleep(0.01)
    return x * x, socket.gethostname()
vms = connect(4)
results = list(forkwork(vms, work, range(100)))
print(sum(r for r, _ in results), sorted({host for _, host in results}))
"""


def test_a_job_between_machines_is_tcp_and_tls(tmp_path):
    network = net.Network(3, seed=7)
    try:
        network.share_key()
        network.record(tmp_path / "heard.pcap")
        here, *others = network.machines
        for machine in others:
            ready, write = os.pipe()
            machine.start(net.BUILD / "trickle-vm", "-n", "2", "--lan", "--ready-fd", write,
                          pass_fds=[write], stderr=subprocess.DEVNULL)
            os.close(write)
            assert os.read(ready, 1) != b""
            os.close(ready)
        here.path("work/prog.py").write_text(PROGRAM)
        network.delay(ms=2)
        network.loss(p=0.02)
        told = here.output(net.BUILD / "trickle", "run", "--lan", "prog.py")
        assert told == f"{sum(x * x for x in range(100))} ['m1', 'm2']\n"
        assert network.tls_connections() >= 4
        for ends, text in net.recorded_streams(tmp_path / "heard.pcap"):
            assert text == b"" or text[:2] == b"\x16\x03", (ends, text[:40])
    finally:
        network.close()
