# SPDX-License-Identifier: MIT
"""Machines of their own on this one, and a network between them that fails when it is told to.

A machine is a process that holds a network, a mount and a host name namespace, and all that is
started in them. It has IPv4 and IPv6 addresses, and its own run, config, state, work and tmp
folders under a path that is the same for all, where each sees a file system of its own. Nothing is
shared but the key they are given and what the caller names. A relay (relay.c) joins them. Needs
root, and /dev/net/tun; `why_none()` says what is missing.

    network = Network(3, seed=7)                 m0, m1, m2 at 10.78.0.1 to .3, fd78::1 to ::3
    network.share_key()
    m0, m1, m2 = network.machines
    m1.start(BUILD / "trickle-vm", "--lan")      a Popen
    slow = network.delay(m0, m1, ms=100)         a condition, both ways ...
    bad = network.loss(m0, p=0.1)                ... of all links of m0
    slow.lift()                                  takes back what this one does
    network.move(m1)                             it has another address now
    network.close()

Conditions add up where they meet: delays are added, chances of loss combined, the lowest rate
counts. All of it dies with this process, also by SIGKILL: the holders and the relay see the end of
their inputs, and a holder ends everything in its namespace. The counterpart with a kernel's own
switch and router is in the tests of the package; here packets are at hand."""
import ctypes
import functools
import ipaddress
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from live.netfaults import FAULTS  # noqa: F401  for those who look for kinds of faults here

BUILD = Path(os.environ.get("TRICKLE_BUILD",
                            Path(__file__).resolve().parents[2] / "build")).resolve()
HOLD = Path(__file__).resolve().parent / "hold.py"
LINK = "lan"          # the interface of each machine
PATIENCE = 30         # seconds until something that has to come counts as missing
QUEUE_PACKETS = 5000  # that may wait in a machine's interface for the relay
UNSHARE = ["unshare", "--net", "--mount", "--uts"]
HEARD_BYTES = 2 << 20  # of the first packets are always recorded
FAMILIES = ("10.78.{}.{}/16", "fd78::{:x}:{:x}/64")  # how often it has moved, its number from 1
CLONE_NEWNET = 0x40000000
CHANCES = ("loss", "multicast_loss", "duplicate", "reorder")


class NetworkError(RuntimeError):
    """A sentence."""


@functools.cache
def why_none():
    """What stands against making machines here; "": nothing."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun cannot be used (root only, or the kernel has no TUN)"
    for program in ("unshare", "nsenter", "mount", "ip"):
        if shutil.which(program) is None:
            return f"there is no program {program}"
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() or "unshare fails" if done.returncode != 0 else ""


class Machine:
    """One machine. What it starts gets .env, and .root with the folders."""

    def __init__(self, name, number, root, folder=None):
        self.name, self.number, self.root = name, number, Path(root)
        self.moves = 0
        self.addresses = []      # as text; the first one is IPv4
        self.is_hostile = False  # what it sends need not be TLS
        self.started = []        # of start(), some have ended
        words = [*UNSHARE, sys.executable, "-I", "-S", str(HOLD), name, str(root)]
        if folder is not None:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            words.append(str(folder))
        self.holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.holder.stdout.readline() != b"ready\n":
            self.holder.communicate()
            raise NetworkError(f"{name}: its namespaces could not be made")
        self.pid = self.holder.pid
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("TRICKLE_", "XDG_"))}
        self.env.update(TRICKLE_RUNTIME=f"{root}/run", TRICKLE_HOME=f"{root}/state",
                        XDG_CONFIG_HOME=f"{root}/config", TMPDIR=f"{root}/tmp")

    @property
    def address(self):
        return self.addresses[0]

    def path(self, name=""):
        """A file under its root, as this process sees it."""
        return Path(f"/proc/{self.pid}/root{self.root}", name)

    def start(self, *words, env=None, **options):
        """A program on it, in its folder work. The Popen's pid is the program's."""
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(
            ["nsenter", "-t", str(self.pid), "--net", "--mount", "--uts", "--wd",
             *map(str, words)], env={**self.env, **(env or {})}, **options)
        self.started = [one for one in self.started if one.returncode is None] + [process]
        return process

    def output(self, *words, text=""):
        """What a command there prints, which has to go well."""
        process = self.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(text, timeout=PATIENCE)
        if process.returncode != 0:
            raise NetworkError(f"{self.name}: {' '.join(map(str, words))}: {err.strip()}")
        return out

    def socket(self, *kind):
        """A socket in its network, for this process: socket.socket's arguments."""
        made = []

        def make():
            with open(f"/proc/{self.pid}/ns/net", encoding="ascii") as namespace:
                if ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET) == 0:
                    made.append(socket.socket(*kind))
        thread = threading.Thread(target=make)  # only it enters the namespace
        thread.start()
        thread.join()
        if not made:
            raise NetworkError(f"{self.name}: its network cannot be entered")
        return made[0]

    def processes(self):
        """The pids of all that runs in its network namespace, but for the holder."""
        own, found = os.readlink(f"/proc/{self.pid}/ns/net"), []
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and os.readlink(f"/proc/{name}/ns/net") == own:
                    found.append(int(name))
            except OSError:
                pass  # it has ended
        return [pid for pid in found if pid != self.pid]

    def listening(self):
        """The TCP ports at which something listens there."""
        ports = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == "0A":
                    ports.add(int(local.rpartition(":")[2], 16))
        return sorted(ports)

    def set_addresses(self):
        """Those of its number and moves, in place of all that it has had."""
        new = [family.format(self.moves, self.number) for family in FAMILIES
               if ":" not in family or os.path.exists("/proc/sys/net/ipv6")]
        lines = [f"addr flush dev {LINK}", *(f"addr add {one} dev {LINK}" for one in new)]
        self.output("ip", "-batch", "-", text="\n".join(lines) + "\n")
        self.addresses = [str(ipaddress.ip_interface(one).ip) for one in new]

    def close(self):
        """Ends all that runs there, too."""
        for process in self.started:
            if process.poll() is None:
                process.kill()  # it may not have entered yet
        self.holder.communicate(timeout=PATIENCE)


class Condition:
    """Something that is wrong with some links, until it is lifted."""

    def __init__(self, network, links, settings):
        self.network, self.links, self.settings = network, links, settings

    def lift(self):
        """More than once is harmless."""
        self.network._lift([self])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lift()


class Network:
    """names: of the machines, or how many. folder: where their files are to stay; without one
    they are in memory."""

    def __init__(self, names, seed=1, folder=None):
        if why_none():
            raise NetworkError(f"no network of machines can be made here: {why_none()}")
        names = [f"m{i}" for i in range(names)] if isinstance(names, int) else list(names)
        self.machines, self.conditions = [], []
        self._lock = threading.RLock()
        self.heard = None        # the file that is being recorded
        self._root = tempfile.mkdtemp(prefix="trk-")  # short: socket names have to fit
        self._relay = subprocess.Popen([BUILD / "chaos/relay", str(seed)], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.record(Path(self._root, "heard.pcap"), HEARD_BYTES)
            for name in names:
                self.add(name, None if folder is None else Path(folder, name))
        except BaseException:
            self.close()
            raise

    def add(self, name, folder=None):
        """One more machine."""
        machine = Machine(name, len(self.machines) + 1, self._root, folder)
        self.machines.append(machine)
        self._ask("machine", name, machine.pid, LINK)
        machine.output("ip", "link", "set", LINK, "up", "txqueuelen", str(QUEUE_PACKETS))
        self._give_addresses(machine)
        self._apply({(a.name, b.name) for a in self.machines for b in self.machines if a != b
                     and machine in (a, b)})
        return machine

    def add_hostile(self):
        """The machine of a peer that has no key and need not speak TLS: made when first needed."""
        with self._lock:
            found = [machine for machine in self.machines if machine.is_hostile]
            if not found:
                found = [self.add("hostile")]
                found[0].is_hostile = True
            return found[0]

    def machine(self, name):
        return next(m for m in self.machines if m.name == name)

    def share_key(self):
        """The first machine makes a key, the others get it."""
        first, *others = self.machines
        first.output(BUILD / "trickle", "key", "new")
        secret = first.output(BUILD / "trickle", "key", "show", "--secret")
        for machine in others:
            if not machine.is_hostile:
                machine.output(BUILD / "trickle", "key", "import", text=secret)

    def move(self, machine):
        """It loses all its addresses and gets others. Returns the new IPv4 one."""
        machine.moves += 1
        self._give_addresses(machine)
        return machine.address

    def close(self):
        for machine in self.machines:
            machine.close()
        self.machines = []
        self._relay.communicate(timeout=PATIENCE)
        shutil.rmtree(self._root, ignore_errors=True)

    # --- what is wrong with it: each returns a Condition -----------------------------------

    def impose(self, senders, receivers, both=True, **settings):
        """Settings of relay_link.h for what the senders send to the receivers: a machine, a list,
        or None for all. both: also the other way."""
        links = {(a.name, b.name) for a in self._some(senders) for b in self._some(receivers)
                 if a != b}
        if both:
            links |= {(b, a) for a, b in links}
        condition = Condition(self, links, settings)
        with self._lock:
            self.conditions.append(condition)
            self._apply(links)
        return condition

    def delay(self, a=None, b=None, *, ms, jitter_ms=0, both=True):
        return self.impose(a, b, both, delay_ms=ms, jitter_ms=jitter_ms)

    def loss(self, a=None, b=None, *, p, both=True):
        return self.impose(a, b, both, loss=p)

    def duplicate(self, a=None, b=None, *, p, both=True):
        return self.impose(a, b, both, duplicate=p)

    def reorder(self, a=None, b=None, *, p, ms=5, both=True):
        return self.impose(a, b, both, reorder=p, reorder_ms=ms)

    def rate(self, a=None, b=None, *, kbit, queue_bytes=256000, both=True):
        return self.impose(a, b, both, rate_kbit=kbit, queue_bytes=queue_bytes)

    def partition(self, group, others=None):
        """Nothing passes between the group and the others (None: all that are not in it)."""
        return self.impose(group, self._rest(group, others), cut=1)

    def partition_one_way(self, senders, receivers=None):
        """What they send does not come to the receivers; what those send does come."""
        return self.impose(senders, self._rest(senders, receivers), both=False, cut=1)

    def multicast_lost(self, senders=None, p=1.0):
        return self.impose(senders, None, both=False, multicast_loss=p)

    def heal(self):
        """Lifts all conditions."""
        self._lift(list(self.conditions))

    def reset(self, a=None, b=None):
        """Ends all TCP connections between the two (None: any machine) by forged resets, both
        ways. Returns how many."""
        words = [machine.name if machine is not None else "*" for machine in (a, b)]
        return int(self._ask("reset", *words))

    # --- what it says ----------------------------------------------------------------------

    def counters(self):
        """{(from, to): {"packets": n, ...}}, as in relay_link.h."""
        all_links = json.loads(self._ask("count"))["links"]
        return {(one.pop("from"), one.pop("to")): one for one in all_links}

    def record(self, path, limit=64 << 20):
        """Writes all packets into a pcap file from now on, until it has so many bytes."""
        self._ask("record", path, limit)
        self.heard = path

    def record_off(self):
        self._ask("record", "off")

    def tls_connections(self):
        """How many TCP connections were opened between the machines and began with TLS. That one
        began otherwise is an error, unless a hostile machine has opened it."""
        count = 0
        for (sender, receiver), link in self.counters().items():
            if not self.machine(sender).is_hostile:
                count += link["tls"]
                if link["plain"] > 0:
                    raise NetworkError(f"{sender} to {receiver}: {link['plain']} connections "
                                       "without TLS")
        return count

    # --- inside ----------------------------------------------------------------------------

    def _some(self, machines):
        if machines is None:
            return self.machines
        return [machines] if isinstance(machines, Machine) else list(machines)

    def _rest(self, group, others):
        if others is not None:
            return others
        inside = self._some(group)
        return [machine for machine in self.machines if machine not in inside]

    def _give_addresses(self, machine):
        machine.set_addresses()
        self._ask("address", machine.name, *machine.addresses)

    def _lift(self, conditions):
        with self._lock:
            links = set()
            for one in conditions:
                if one in self.conditions:
                    self.conditions.remove(one)
                    links |= one.links
            self._apply(links)

    def _apply(self, links):
        """Tells the relay what all conditions together mean for the links."""
        with self._lock:
            for link in sorted(links):
                settings = combined([c.settings for c in self.conditions if link in c.links])
                self._ask("link", *link, *(word for pair in settings.items() for word in pair))

    def _ask(self, *words):
        """A command to the relay; what it answers."""
        with self._lock:
            try:
                self._relay.stdin.write(" ".join(map(str, words)) + "\n")
                self._relay.stdin.flush()
            except BrokenPipeError:
                pass
            word, _, rest = self._relay.stdout.readline().rstrip("\n").partition(" ")
        if word != "ok":
            raise NetworkError(f"the relay: {rest or 'it has ended'}")
        return rest


def combined(all_settings):
    """One set of settings that does what all of them do."""
    result = {"delay_ms": 0, "jitter_ms": 0, "reorder_ms": 5, "rate_kbit": 0,
              "queue_bytes": 256000, "cut": 0, **{name: 0 for name in CHANCES}}
    for settings in all_settings:
        for name, value in settings.items():
            if name in CHANCES:
                result[name] = 1 - (1 - result[name]) * (1 - value)
            elif name in ("delay_ms", "jitter_ms"):
                result[name] += value
            elif name in ("cut", "reorder_ms"):
                result[name] = max(result[name], value)
            else:  # the slowest link has its own queue
                slowest = min((s for s in all_settings if "rate_kbit" in s),
                              key=lambda s: s["rate_kbit"])
                result[name] = slowest.get(name, result[name])
    return result


# --- recordings ------------------------------------------------------------------------------


def recorded_packets(path):
    """Of a pcap file of the relay; one that was cut ends earlier."""
    data = Path(path).read_bytes()
    at = 24
    while at + 16 <= len(data):
        size, = struct.unpack_from("=I", data, at + 8)
        if at + 16 + size <= len(data):
            yield data[at + 16:at + 16 + size]
        at += 16 + size


def tcp_of(packet):
    """((from, to), sequence number, flags, payload) with ends as (address bytes, port); or None."""
    if packet[0] >> 4 == 4 and packet[9] == 6:
        at, end, hosts = 4 * (packet[0] & 15), int.from_bytes(packet[2:4], "big"), (12, 16, 4)
    elif packet[0] >> 4 == 6 and packet[6] == 6:
        at, end, hosts = 40, 40 + int.from_bytes(packet[4:6], "big"), (8, 24, 16)
    else:
        return None
    ports = struct.unpack_from("!HH", packet, at)
    ends = tuple((packet[host:host + hosts[2]], port) for host, port in zip(hosts, ports))
    number, = struct.unpack_from("!I", packet, at + 4)
    return ends, number, packet[at + 13], packet[at + 4 * (packet[at + 12] >> 4):end]


def recorded_streams(path):
    """[((from, to), bytes)] of each direction of each TCP connection, as far as there is no gap."""
    begun, last = [], {}
    for packet in recorded_packets(path):
        found = tcp_of(packet)
        if found is None:
            continue
        ends, number, flags, payload = found
        if flags & 2 and (ends not in last or last[ends][1] != number):
            last[ends] = (ends, number, {})
            begun.append(last[ends])
        elif payload and ends in last:
            pieces = last[ends][2]
            place = (number - last[ends][1] - 1) % 2**32
            pieces[place] = max(pieces.get(place, b""), payload, key=len)
    streams = []
    for ends, _, pieces in begun:
        text = bytearray()
        for place in sorted(pieces):
            if place > len(text):
                break
            text += pieces[place][len(text) - place:]
        streams.append((ends, bytes(text)))
    return streams


def wait_for(condition, what, seconds=PATIENCE):
    """What condition() gives, once that is true."""
    until = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > until:
            raise NetworkError(f"{what}: not within {seconds} s")
        time.sleep(0.01)
    return answer
