#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Multicast discovery between machines: network namespaces joined by cables, or by a hub.

Needs root and ip(8); otherwise it is skipped (exit status 77).
usage: netns.py PATH_OF_multicast_tool SCENARIO...
       netns.py --thief INTERFACE                    (started by itself, on one of the machines)
"""
import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import time

IPV4 = "239.192.84.107:8407"
SITE = "[ff15::5472:6b6c]:8407"
PATIENCE = 10  # seconds before something that must come counts as missing
QUIET = 0.7  # seconds without a further report


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


class Machine:
    """A network namespace. Programs in it are ended with it."""

    def __init__(self, letter):
        self.name = f"trk-{os.getpid()}-{letter}"
        self.programs = []
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        ip("-n", self.name, *args)

    def run(self, *command):
        program = Program(["ip", "netns", "exec", self.name, *command])
        self.programs.append(program)
        return program

    def answer(self, tool, port, letter, keys, groups="default"):
        program = self.run(tool, "answer", groups, str(port), letter, keys)
        program.expect("ready")
        return program

    def ask(self, tool, keys, groups="default"):
        program = self.run(tool, "ask", groups, keys)
        program.expect("asked")
        return program

    def sent(self):
        """How many UDP datagrams it has sent so far, IPv4."""
        text = subprocess.run(["ip", "netns", "exec", self.name, "cat", "/proc/net/snmp"],
                              check=True, capture_output=True, text=True).stdout
        names, values = [line.split() for line in text.splitlines() if line.startswith("Udp:")]
        return int(values[names.index("OutDatagrams")])

    def ipv6(self, name, prefix="fe80:"):
        """Its address there that begins so, once it may be used."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            shown = subprocess.run(["ip", "-n", self.name, "-6", "addr", "show", "dev", name],
                                   check=True, capture_output=True, text=True).stdout
            found = re.search(rf"inet6 ({prefix}\S+)/64.*", shown)
            if found and "tentative" not in found.group():
                return found.group(1)
            time.sleep(0.05)
        raise AssertionError(f"no such address: {shown}")

    def close(self):
        try:
            for program in self.programs:
                program.close()
        finally:
            ip("netns", "del", self.name)


class Program:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.rest = b""

    def line(self, seconds):
        """The next line, or None when none comes in time."""
        end = time.monotonic() + seconds
        while b"\n" not in self.rest:
            left = end - time.monotonic()
            fd = self.process.stdout.fileno()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                return None
            got = os.read(fd, 4096)
            if not got:
                return None
            self.rest += got
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()

    def expect(self, *wanted):
        line = self.line(PATIENCE)
        assert line in wanted, f"expected one of {wanted}, saw {line!r}"
        return line

    def expect_quiet(self):
        line = self.line(QUIET)
        assert line is None, f"expected no more, saw {line!r}"

    def reports(self):
        """All lines until it is quiet."""
        lines = []
        while line := self.line(QUIET):
            lines.append(line)
        return lines

    def ask(self):
        """What is reported after another question."""
        self.process.stdin.write(b"ask\n")
        self.process.stdin.flush()
        lines = self.reports()
        assert lines and lines[0] == "asked", f"saw {lines}"
        return lines[1:]

    def find(self, *wanted):
        """Asks until one of wanted is reported."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            lines = self.ask()
            if set(lines) & set(wanted):
                return lines
        raise AssertionError(f"none of {wanted} was found, lastly {lines}")

    def tell(self, command):
        """For the thief: the number it replies."""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        return int(self.line(PATIENCE))

    def close(self):
        if self.process.returncode is None:
            self.process.stdin.close()
            assert self.process.wait(PATIENCE) == 0, "a program failed"
            self.process.stdout.close()


def cable(a, b, name, net):
    """Joins two machines by a cable with addresses NET.1 and NET.2; not plugged in yet."""
    ip("link", "add", name, "netns", a.name, "type", "veth", "peer", "name", name, "netns", b.name)
    a.ip("addr", "add", f"{net}.1/24", "dev", name)
    b.ip("addr", "add", f"{net}.2/24", "dev", name)


def plug(a, b, name):
    a.ip("link", "set", name, "up")
    b.ip("link", "set", name, "up")


def two(tool, a, b, keys):
    """Two machines, two cables: found, found later, found by the other cable."""
    cable(a, b, "one", "10.77.0")
    cable(a, b, "two", "10.78.0")
    plug(a, b, "one")

    # Asked, and answered from the other machine's own address.
    b.answer(tool, 4711, "x", keys, IPV4)
    asker = a.ask(tool, keys, IPV4)
    asker.expect("tcp:10.77.0.2:4711")
    asker.expect_quiet()

    # One that comes up later says so itself.
    b.answer(tool, 4712, "y", keys, IPV4)
    asker.expect("tcp:10.77.0.2:4712")
    asker.expect_quiet()

    # A second cable: they join there of their own accord and say so. Then both answer by both,
    # each is reported once, by the address known already.
    known = ["tcp:10.77.0.2:4711", "tcp:10.77.0.2:4712"]
    plug(a, b, "two")
    lines = asker.reports()
    assert set(lines) <= set(known), f"saw {lines}"
    for _ in range(2):
        lines = asker.ask()
        assert sorted(lines) == known, f"saw {lines}"

    # The first cable is cut: found by the second, once the old address has missed two questions.
    a.ip("link", "set", "one", "down")
    lines = [line for _ in range(4) for line in asker.ask()]
    assert set(lines) == {"tcp:10.78.0.2:4711", "tcp:10.78.0.2:4712"}, f"saw {lines}"

    # The one that asks hears supervisors on its own machine, too, by an address of its own.
    a.answer(tool, 4713, "z", keys, IPV4)
    asker.expect("tcp:10.78.0.1:4713", "tcp:10.77.0.1:4713")
    asker.expect_quiet()


def plain(tool, a, b):
    two(tool, a, b, "-")


def sealed(tool, a, b):
    two(tool, a, b, "k")


def rotation(tool, a, b):
    """The key is rotated on one machine before the other."""
    cable(a, b, "one", "10.77.0")
    plug(a, b, "one")
    old = b.answer(tool, 4711, "x", "k")
    b.answer(tool, 4712, "y", "nk")
    b.answer(tool, 4713, "z", "n")

    def ports(keys):
        asker = a.ask(tool, keys)
        lines = asker.reports()
        asker.close()
        return sorted({line.rsplit(":", 1)[1] for line in lines})

    assert ports("nk") == ["4711", "4712", "4713"]
    assert ports("k") == ["4711", "4712"]
    assert ports("n") == ["4712", "4713"]
    assert ports("-") == ports("x") == []
    old.close()


def address(tool, a, b):
    """A machine gets another address while its supervisor runs."""
    cable(a, b, "one", "10.77.0")
    plug(a, b, "one")
    b.answer(tool, 4711, "x", "k", IPV4)
    asker = a.ask(tool, "k", IPV4)
    asker.expect("tcp:10.77.0.2:4711")
    b.ip("addr", "del", "10.77.0.2/24", "dev", "one")
    assert asker.ask() == []
    before, end = b.sent(), time.monotonic() + 3  # at once: it looks every five seconds anyway
    b.ip("addr", "add", "10.77.0.9/24", "dev", "one")
    while b.sent() == before:
        assert time.monotonic() < end, "it does not notice that it has another address"
        time.sleep(0.05)
    lines = asker.find("tcp:10.77.0.9:4711")
    assert lines == ["tcp:10.77.0.9:4711"], f"saw {lines}"

    # The one that asks, too; and both at once, into another network.
    a.ip("addr", "del", "10.77.0.1/24", "dev", "one")
    a.ip("addr", "add", "10.77.0.8/24", "dev", "one")
    assert asker.ask() == ["tcp:10.77.0.9:4711"]
    for machine, host in (a, 1), (b, 2):
        machine.ip("addr", "flush", "dev", "one")
        machine.ip("addr", "add", f"10.79.0.{host}/24", "dev", "one")
    lines = asker.find("tcp:10.79.0.2:4711")
    assert lines == ["tcp:10.79.0.2:4711"], f"saw {lines}"


def ipv6(tool, a, b):
    """No IPv4 anywhere: by link-local addresses, and by those of the site."""
    ip("link", "add", "one", "netns", a.name, "type", "veth", "peer", "name", "one", "netns",
       b.name)
    b.answer(tool, 4711, "x", "k")  # before there is any interface
    b.answer(tool, 4712, "y", "-")
    asker, site, stranger = (a.ask(tool, "k"), a.ask(tool, "k", SITE), a.ask(tool, "-"))
    plug(a, b, "one")
    wanted = f"tcp:[{b.ipv6('one')}%one]:4711"
    a.ipv6("one")
    lines = asker.find(wanted)
    assert lines == [wanted], f"saw {lines}"
    lines = stranger.find(wanted.replace("4711", "4712"))
    assert len(lines) == 1, f"saw {lines}"  # plain farms meet, keys or not beside them

    # One that gets an address says so, as soon as it can.
    a.ip("addr", "add", "fd77::1/64", "dev", "one")
    a.ipv6("one", "fd77:")
    assert site.ask() == []
    b.ip("addr", "add", "fd77::2/64", "dev", "one")
    site.expect("tcp:[fd77::2]:4711")
    assert site.ask() == ["tcp:[fd77::2]:4711"]

    # Another address, as a provider gives one each night.
    b.ip("addr", "del", "fd77::2/64", "dev", "one")
    b.ip("addr", "add", "fd77::99/64", "dev", "one")
    lines = site.find("tcp:[fd77::99]:4711")
    assert lines == ["tcp:[fd77::99]:4711"], f"saw {lines}"
    assert asker.find(wanted) == [wanted]


def alone(tool, a, b):
    """A machine with no network finds what runs on it."""
    a.answer(tool, 4711, "x", "k")
    assert a.ask(tool, "k").reports() == ["tcp:127.0.0.1:4711"]
    assert b.ask(tool, "k").reports() == []


def hub(*machines):
    """One network of all: everybody hears everything. IPv4 10.77.0.N, and IPv6."""
    middle = machines[0]
    middle.ip("link", "add", "hub", "type", "bridge", "ageing_time", "0", "mcast_snooping", "0")
    for number, machine in enumerate(machines[1:], 1):
        middle.ip("link", "add", f"to{number}", "type", "veth", "peer", "name", "one", "netns",
                  machine.name)
        middle.ip("link", "set", f"to{number}", "master", "hub", "up")
        machine.ip("addr", "add", f"10.77.0.{number}/24", "dev", "one")
        machine.ip("link", "set", "one", "up")
    middle.ip("link", "set", "hub", "up")


def four(tool, *machines):
    """Four machines in one network, IPv4 and IPv6: each is found once; a stranger finds none."""
    hub(*machines)
    a, others = machines[1], machines[2:]
    for number, machine in enumerate(others, 2):
        machine.answer(tool, 4710 + number, str(number), "k")
        machine.ipv6("one")
    a.ipv6("one")
    asker = a.ask(tool, "k")
    asker.reports()
    for _ in range(2):
        lines = asker.ask()
        assert sorted(line[-4:] for line in lines) == ["4712", "4713", "4714"], f"saw {lines}"
    before = [machine.sent() for machine in others]
    for keys in "-", "x":
        assert a.ask(tool, keys).reports() == []
    assert [machine.sent() for machine in others] == before


def thief(tool, *machines):
    """Somebody without the key who hears all, and sends what was heard, with its addresses."""
    hub(*machines)
    a, b, c = machines[1:4]
    taker = c.run(sys.executable, __file__, "--thief", "one")
    assert taker.tell("count 1") == 0
    first = b.answer(tool, 4711, "x", "k", IPV4)
    asker = a.ask(tool, "k", IPV4)
    asker.expect("tcp:10.77.0.2:4711")
    asker.expect_quiet()
    assert (taker.tell("count 1"), taker.tell("count 2"), taker.tell("count 3")) == (1, 1, 1)

    # The question again: as it was, and by the thief's own address.
    before = b.sent()
    for _ in range(5):
        assert taker.tell("replay 1") == 1
    assert taker.tell("own 1") == 0
    asker.expect_quiet()
    assert b.sent() == before

    # Another supervisor has not heard it: the same small answer, once, to the same address.
    assert asker.ask() == ["tcp:10.77.0.2:4711"]
    first.close()
    second = b.answer(tool, 4712, "y", "k", IPV4)
    asker.expect("tcp:10.77.0.2:4712")
    before, answers = b.sent(), taker.tell("count 2")
    assert taker.tell("own 1") == 0
    assert b.sent() == before
    for _ in range(5):
        taker.tell("replay 1")
    asker.expect_quiet()
    assert b.sent() == before + 1 and taker.tell("count 2") == answers + 1

    # All answers and announcements again, when nobody is there any more.
    second.close()
    assert asker.ask() == asker.ask() == []
    before = b.sent()
    assert taker.tell("replay 2") == answers + 1
    assert taker.tell("replay 3") == 1  # both said the same
    asker.expect_quiet()
    assert asker.ask() == [] and b.sent() == before


def beacon_of(frame):
    """Where the UDP datagram of an IPv4 frame begins, and the beacon in it; or None."""
    if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_UDP:
        return None
    at = 14 + 4 * (frame[14] & 15)
    payload = frame[at + 8:at + int.from_bytes(frame[at + 4:at + 6], "big")]
    return (at, payload) if payload[:2] == b"Tk" else None


class Thief:
    def __init__(self, interface):
        self.interface = interface
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.raw.bind((interface, 3))
        promiscuous = socket.if_nametoindex(interface).to_bytes(4, sys.byteorder) + \
            (1).to_bytes(2, sys.byteorder) + bytes(10)
        self.raw.setsockopt(263, 1, promiscuous)  # SOL_PACKET, PACKET_ADD_MEMBERSHIP
        self.raw.setblocking(False)
        self.heard = {1: {}, 2: {}, 3: {}}  # by kind: the beacon and the frame it came in

    def hear(self):
        while True:
            try:
                frame, name = self.raw.recvfrom(65536)
            except BlockingIOError:
                return
            found = beacon_of(frame)
            if found and name[2] != socket.PACKET_OUTGOING:
                at, payload = found
                # Its checksum may have been left to the hardware; none is right, too.
                whole = frame[:at + 6] + bytes(2) + frame[at + 8:]
                self.heard[payload[3]].setdefault(payload, whole)

    def replay(self, kind):
        for frame in self.heard[kind].values():
            self.raw.send(frame)
        return len(self.heard[kind])

    def own(self, kind):
        """Says it by an address of our own and the port it names; how many replies come?"""
        group, port = IPV4.split(":")
        by = bytes(8) + socket.if_nametoindex(self.interface).to_bytes(4, sys.byteorder)
        replies = 0
        for payload in self.heard[kind]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.bind(("", int.from_bytes(payload[8:10], "little")))
                s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, by)
                s.sendto(payload, (group, int(port)))
                s.settimeout(QUIET)
                try:
                    while s.recv(4096):
                        replies += 1
                except TimeoutError:
                    pass
        return replies

    def serve(self):
        for line in sys.stdin:
            command, kind = line.split()
            self.hear()
            if command == "count":
                print(len(self.heard[int(kind)]), flush=True)
            else:
                print({"replay": self.replay, "own": self.own}[command](int(kind)), flush=True)


SCENARIOS = {"plain": (plain, 2), "sealed": (sealed, 2), "rotation": (rotation, 2),
             "address": (address, 2), "ipv6": (ipv6, 2), "alone": (alone, 2), "four": (four, 5),
             "thief": (thief, 4)}


def play(tool, name):
    check, count = SCENARIOS[name]
    with contextlib.ExitStack() as machines:
        check(tool, *[machines.enter_context(contextlib.closing(Machine(letter)))
                      for letter in "abcde"[:count]])
    print(f"{name}: ok")


def main():
    if sys.argv[1] == "--thief":
        Thief(sys.argv[2]).serve()
        return 0
    if os.geteuid() != 0:
        print("needs root")
        return 77
    try:
        Machine("probe").close()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no network namespaces here: {error}")
        return 77
    for name in sys.argv[2:]:
        play(sys.argv[1], name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
