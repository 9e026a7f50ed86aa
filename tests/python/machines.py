# SPDX-License-Identifier: MIT
"""Machines for tests: namespaces with a network, a host name and files of their own, and the
switch or the router between them, which is one more namespace and hears every frame.

A machine is a process that holds the namespaces, and what is started in them. They have no names,
no interface is ever on the host, and all of it dies with the test: the holders when their standard
input ends, everything else by the death signal of its parent. All machines have their directories
under the same path, where each sees a file system of its own.

    def test_x(network):             the fixture; at the end all TCP must have been TLS
        lan = network(Lan, 3)        10.77.0.1 to .3, fd77::1 to ::3; they hear each other
        here, there, too = lan.farm()
        here.write("prog.py", TEXT)
        here.run("run", "--lan", "prog.py")
"""
import ctypes
import functools
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from supervisors import BUILD

PATIENCE = 30  # seconds until something that has to come counts as missing
LINK = "lan"   # the interface of each machine
CLONE_NEWNET = 0x40000000
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x800, 0x86dd
SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33
UNSHARE = ["unshare", "--net", "--mount", "--uts"]
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]

# Of programs: elements wait for files on the machine that they run on, from 10 on for "gate", the
# last ones for "end". Each run of one is a line in "log" there.
GATED_WORK = """
import os, time
def work(x):
    with open("log", "a") as log:
        log.write(f"{x}\\n")
    for first, name in ((10, "gate"), (LAST, "end")):
        while x >= first and not os.path.exists(name):
            time.sleep(0.01)
    return x * x
"""

# Usable at once: nobody else can have these addresses. Then it holds what it has made.
HOLD = """
set -e
hostname "$1"
mount -t tmpfs -o mode=0700 none "$2"
cd "$2"
mkdir -m 0700 run config state work
cd work
echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
echo ready
exec cat
"""


def wait_for(condition, what, seconds=PATIENCE):
    """What condition() gives, once that is true."""
    until = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.01)
    return answer


@functools.cache
def why_none():
    """What stands against making them here; "": nothing."""
    try:
        links = "ip link add hub type bridge && ip link add one type veth peer name two"
        done = subprocess.run([*DIES_WITH_US, *UNSHARE, "sh", "-c", links], capture_output=True,
                              text=True, timeout=PATIENCE, check=False)
        return done.stderr.strip() or "unshare fails" if done.returncode != 0 else ""
    except OSError as error:
        return str(error)


class Machine:
    def __init__(self, name, root):
        self.name, self.root = name, root
        self.address = None  # IPv4, or IPv6 where there is no other
        self.supervisor = self.log = None  # of Net.farm
        self.processes = []
        self.holder = subprocess.Popen(
            [*DIES_WITH_US, *UNSHARE, "sh", "-c", HOLD, "sh", name, str(root)],
            env={"PATH": os.environ["PATH"]}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"ready\n", f"{name} is not made"

    def path(self, name=""):
        """Its file, under its root, as the test sees it."""
        return Path(f"/proc/{self.holder.pid}/root{self.root}", name)

    def write(self, name, text):
        """A file in its folder work."""
        self.path(f"work/{name}").write_text(text)

    def start(self, *words, **options):
        """A program on it, which is the process that is returned, in its folder work."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TRICKLE_", "XDG_"))}
        env.update(TRICKLE_RUNTIME=f"{self.root}/run", TRICKLE_HOME=f"{self.root}/state",
                   XDG_CONFIG_HOME=f"{self.root}/config", TRICKLE_DEAD_AFTER="2",
                   TRICKLE_SUSPECT_AFTER="1")
        env.update(options.pop("env", {}))
        if BUILD not in Path(words[0]).parents:
            env.pop("LD_PRELOAD", None)  # a sanitizer's: it is not for the system's tools
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(
            [*DIES_WITH_US, "nsenter", "-t", str(self.holder.pid), "--net", "--mount", "--uts",
             "--wd", *map(str, words)], env=env, text=True, **options)
        self.processes.append(process)
        return process

    def output(self, *words, text=""):
        """What a command there prints, which has to go well."""
        process = self.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        out, err = process.communicate(text, timeout=PATIENCE)
        assert process.returncode == 0, f"{self.name}: {words}: {err}"
        return out

    def ip(self, *words):
        return self.output("ip", *words)

    def ip_all(self, *lines):
        """Several of them, by one process."""
        self.output("ip", "-batch", "-", text="\n".join(lines))

    def addresses(self):
        """Those that may be used."""
        shown = self.ip("-o", "addr", "show", "dev", LINK, "-tentative")
        return re.findall(r"inet6? ([^/ ]+)", shown)

    def link_local(self):
        """None: not yet."""
        return next((a for a in self.addresses() if a.startswith("fe80:")), None)

    # --- Trickle ---

    def key(self, *words, text=""):
        return self.output(BUILD / "trickle", "key", *words, text=text)

    def begin(self, *words, **options):
        """trickle, without waiting for its end."""
        return self.start(BUILD / "trickle", *words, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **options)

    def run(self, *words, timeout=60, **options):
        process = self.begin(*words, **options)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    def vms(self, *options, count=2):
        """Starts VMs; the supervisor, and the file of what it says."""
        ready, write = os.pipe()
        log = self.path(f"log{len(self.processes)}")
        with open(log, "w", encoding="utf-8") as file:
            process = self.start(BUILD / "trickle-vm", "-n", count, "--ready-fd", write, *options,
                                 pass_fds=[write], stderr=file)
        os.close(write)
        assert select.select([ready], [], [], PATIENCE)[0]
        assert os.read(ready, 1) != b"", log.read_text()
        os.close(ready)
        return process, log

    def listening(self):
        """HOST:PORT of the supervisor that Net.farm has started."""
        words = self.log.read_text().split("listening on", 1)[1].split()
        return f"{self.address}:{words[0].rsplit(':', 1)[1]}"

    def close(self):
        for process in self.processes:
            if process.returncode is None:
                process.terminate()
        for process in self.processes:
            if process.returncode is None:
                try:
                    process.communicate(timeout=5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
        self.holder.communicate(b"", timeout=PATIENCE)  # to its end; the namespaces go with it


class Tap:
    """All that passes a namespace, from now on."""

    def __init__(self, machine):
        thread = threading.Thread(target=self._open, args=[f"/proc/{machine.holder.pid}/ns/net"])
        thread.start()  # only it enters the namespace
        thread.join()
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.socket.setblocking(False)
        self.packets = []

    def _open(self, namespace):
        with open(namespace, encoding="utf-8") as file:
            assert ctypes.CDLL(None).setns(file.fileno(), CLONE_NEWNET) == 0
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))

    def hear(self):
        """All packets so far, each as it came in: (Ethernet's protocol, bytes from IP on)."""
        while True:
            try:
                packet, (_, protocol, kind, *_) = self.socket.recvfrom(1 << 17)
            except BlockingIOError:
                break
            if kind != socket.PACKET_OUTGOING:
                self.packets.append((protocol, packet))
        _, missed = struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        assert missed == 0, f"the tap has missed {missed} packets"
        return self.packets

    def streams(self):
        """What was sent in each direction of each TCP connection: ((from, to), bytes)."""
        begun, last = [], {}
        for protocol, packet in self.hear():
            found = tcp_of(protocol, packet)
            if found is None:
                continue
            ends, number, is_syn, payload = found
            if is_syn and (ends not in last or last[ends][1] != number):
                last[ends] = (ends, number, {})
                begun.append(last[ends])
            elif payload and ends in last:
                at = (number - last[ends][1] - 1) % 2**32
                pieces = last[ends][2]
                pieces[at] = max(pieces.get(at, b""), payload, key=len)
        return [(ends, joined(pieces)) for ends, _, pieces in begun if pieces]

    def datagrams(self):
        """UDP over IPv4: (from, to, payload)."""
        for protocol, packet in self.hear():
            if protocol == ETH_P_IP and packet[9] == socket.IPPROTO_UDP:
                hosts = [socket.inet_ntop(socket.AF_INET, packet[i:i + 4]) for i in (12, 16)]
                ports = struct.unpack_from("!HH", packet, 20)
                end = int.from_bytes(packet[2:4], "big")
                yield (*zip(hosts, ports), packet[28:end])

    def expect_tls(self):
        """TLS it is, and nothing else, in all TCP connections. Returns how many there were."""
        streams = self.streams()
        for ends, text in streams:
            kinds = [kind for kind, _ in tls_records(text)]
            shown = f"{ends}: {kinds[:9]}, begins with {text[:40]}"
            assert kinds and kinds[0] in (21, 22) and set(kinds) <= {21, 22, 23}, shown
            assert kinds.count(22) <= 2, shown  # hellos; then an alert, or all is encrypted
        return len(streams)

    def close(self):
        self.socket.close()


def tcp_of(protocol, packet):
    """((from, to), sequence number, is it a SYN, payload), or None."""
    if protocol == ETH_P_IP and packet[9] == socket.IPPROTO_TCP:
        at, end = 4 * (packet[0] & 15), int.from_bytes(packet[2:4], "big")
        hosts = [socket.inet_ntop(socket.AF_INET, packet[i:i + 4]) for i in (12, 16)]
    elif protocol == ETH_P_IPV6 and packet[6] == socket.IPPROTO_TCP:
        at, end = 40, 40 + int.from_bytes(packet[4:6], "big")
        hosts = [socket.inet_ntop(socket.AF_INET6, packet[i:i + 16]) for i in (8, 24)]
    else:
        return None
    ports = struct.unpack_from("!HH", packet, at)
    payload = packet[at + 4 * (packet[at + 12] >> 4):end]
    number, = struct.unpack_from("!I", packet, at + 4)
    return tuple(zip(hosts, ports)), number, packet[at + 13] & 2 != 0, payload


def joined(pieces):
    """The bytes from the first on, as far as there is no gap; some were sent twice."""
    text = b""
    for at in sorted(pieces):
        if at > len(text):
            break
        text += pieces[at][len(text) - at:]
    return text


def tls_records(text):
    """(type, body) of each; what is none of TLS 1.3 has type 0. The last may be cut."""
    at = 0
    while at + 5 <= len(text):
        kind, major, minor, size = struct.unpack_from("!BBBH", text, at)
        yield (kind if major == 3 and minor in (1, 3) and size <= 16384 + 256 else 0,
               text[at + 5:at + 5 + size])
        at += 5 + size


class Net:
    """Machines and what joins them; see Lan and Routed."""

    def __init__(self, count):
        if why_none():
            pytest.skip(f"network namespaces cannot be made here (root only): {why_none()}")
        self.root = Path(tempfile.mkdtemp(prefix="trk-"))  # short: socket names have to fit
        self.machines, self.middle, self.tap = [], None, None
        self.is_plain = False  # what goes by TCP is not all TLS
        try:
            self.middle = Machine("middle", self.root)
            for number in range(1, count + 1):
                self.machines.append(Machine(f"machine{number}", self.root))
            self.middle.ip_all(*(f"link add port{number} type veth peer name {LINK} "
                                 f"netns {machine.holder.pid}"
                                 for number, machine in enumerate(self.machines, 1)))
            self.join()
            self.tap = Tap(self.middle)
        except BaseException:
            self.close()
            raise

    def share_key(self):
        """The first machine makes a key, the others get a copy of the file."""
        first, *others = self.machines
        first.key("new")
        for machine in others:
            shutil.copytree(first.path("config/trickle"), machine.path("config/trickle"))

    def import_key(self, machines, *options):
        secret = self.machines[0].key("show", "--secret")
        for machine in machines:
            machine.key("import", *options, text=secret)

    def farm(self, *options, count=2):
        """A key for all, and VMs on all but the first. Each log is its machine's."""
        self.share_key()
        for machine in self.machines[1:]:
            machine.supervisor, machine.log = machine.vms("--lan", *options, count=count)
        return self.machines

    def close(self):
        for machine in [*self.machines, self.middle]:
            if machine is not None:
                machine.close()
        if self.tap is not None:
            self.tap.close()
        shutil.rmtree(self.root, ignore_errors=True)


class Lan(Net):
    """A switch: all hear each other, multicast too. Machine N is 10.77.0.N and fd77::N."""

    def __init__(self, count, ipv4=True, ipv6=True):
        self.families = [net for net, has in (("10.77.0.{}/24", ipv4), ("fd77::{}/64", ipv6))
                         if has]
        super().__init__(count)

    def join(self):
        self.middle.ip_all("link add hub type bridge mcast_snooping 0", "link set hub up",
                           *(f"link set port{number} master hub up"
                             for number in range(1, len(self.machines) + 1)))
        for number, machine in enumerate(self.machines, 1):
            machine.ip_all(f"link set {LINK} up", *(f"addr add {net.format(number)} dev {LINK}"
                                                    for net in self.families))
            if self.families:
                machine.address = self.families[0].format(number).split("/")[0]
        for machine in self.machines:
            wait_for(machine.link_local, "an address of the link")

    def cut(self, machine):
        """Nothing goes to it or comes from it, and its link stays up."""
        self.middle.ip("link", "set", self._port(machine), "nomaster")

    def lose(self, sender, receiver):
        """What one sends to the other goes nowhere; what that one sends comes."""
        for address in receiver.addresses():
            sender.ip("neigh", "replace", address, "lladdr", "02:00:00:00:00:00", "dev", LINK,
                      "nud", "permanent")

    def heal(self):
        for machine in self.machines:
            self.middle.ip("link", "set", self._port(machine), "master", "hub")
            machine.ip("neigh", "flush", "dev", LINK, "nud", "permanent")

    def _port(self, machine):
        return f"port{self.machines.index(machine) + 1}"

    def move(self, machine, number):
        """It gets other addresses in place of all that it has."""
        machine.ip_all(f"addr flush dev {LINK}", *(f"addr add {net.format(number)} dev {LINK}"
                                                   for net in [*self.families, "fe80::{}/64"]))
        machine.address = self.families[0].format(number).split("/")[0]


class Routed(Net):
    """A router: machine N is alone in its network, 10.77.N.1; multicast does not pass."""

    def join(self):
        self.middle.output("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        for number, machine in enumerate(self.machines, 1):
            self.middle.ip_all(f"addr add 10.77.{number}.254/24 dev port{number}",
                               f"link set port{number} up")
            machine.address = f"10.77.{number}.1"
            machine.ip_all(f"addr add {machine.address}/24 dev {LINK}", f"link set {LINK} up",
                           f"route add default via 10.77.{number}.254")


