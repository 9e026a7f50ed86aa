#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Multicast discovery between two machines: two network namespaces joined by two cables.

Needs root and ip(8); otherwise it is skipped (exit status 77).
usage: netns.py PATH_OF_multicast_tool
"""
import os
import select
import subprocess
import sys
import time

GROUP = "239.192.84.107:8407"
PATIENCE = 10  # seconds before something that must come counts as missing
QUIET = 1.0  # seconds without a further report


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

    def close(self):
        for program in self.programs:
            program.close()
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


def check(tool, a, b):
    cable(a, b, "one", "10.77.0")
    cable(a, b, "two", "10.78.0")
    plug(a, b, "one")

    # Asked, and answered from the other machine's own address.
    first = b.run(tool, "answer", GROUP, "4711", "x")
    first.expect("ready")
    asker = a.run(tool, "ask", GROUP)
    asker.expect("asked")
    asker.expect("tcp:10.77.0.2:4711")
    asker.expect_quiet()

    # One that comes up later says so itself.
    second = b.run(tool, "answer", GROUP, "4712", "y")
    second.expect("ready")
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
    own = a.run(tool, "answer", GROUP, "4713", "z")
    own.expect("ready")
    asker.expect("tcp:10.78.0.1:4713", "tcp:10.77.0.1:4713")
    asker.expect_quiet()


def main():
    if os.geteuid() != 0:
        print("needs root")
        return 77
    try:
        a = Machine("a")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no network namespaces here: {error}")
        return 77
    b = Machine("b")
    try:
        check(sys.argv[1], a, b)
    finally:
        a.close()
        b.close()
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
