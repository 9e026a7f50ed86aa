# SPDX-License-Identifier: MIT
"""What runs on the VMs. Each attempt notes itself in a file of its process, by one write() each at
its begin and its end, so that the notes are there whatever becomes of the process a moment later:

    B stage index pid monotonic_ns        E stage index pid monotonic_ns

The value of an element holds the number of its attempt's process and the time of its begin, too:
two attempts never give the same value, so who sees another one sees another attempt.

Traps are how faults get inside user code: the harness puts one into traps/set, and the first
attempt that comes by steps into it. No element ever gets two, so that none is given up for it.
"""
import os
import time

import trickle
from live import workloads

BLOCK = 16 << 20       # bytes that a blow-up takes at a time
BLOW_UP = 8 << 30      # and at most: where nothing ends it
RLIMIT_ROOM = 64 << 20

_files = {}  # pid: descriptor of its notes


def note(folder, what, stage, index):
    """One line; returns its time."""
    pid = os.getpid()
    fd = _files.get(pid)
    if fd is None:
        machine = os.environ.get("CHAOS_MACHINE", "m")
        fd = _files[pid] = os.open(f"{folder}/attempts/{machine}-{pid}.log",
                                   os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    now = time.monotonic_ns()
    os.write(fd, b"%s %s %d %d %d\n" % (what, stage.encode(), index, pid, now))
    return now


def run(job):
    """An element: (folder, stage's name, kind, seed, index, value that it is made of or None)."""
    folder, stage, kind, seed, index, given = job
    begun = note(folder, b"B", stage, index)
    if kind == "poison":
        suffer(workloads.poison(index))  # and has no tries left for traps
    else:
        spring(folder, stage, index)
    until = time.monotonic() + workloads.seconds(kind, seed, index)
    if kind == "words":
        with open(given, encoding="utf-8") as file:
            value = workloads.words(file.read())
    elif kind == "states":
        value = walk(seed, index)
        until = 0
    else:
        value = workloads.answer(kind, seed, index, given[1] if kind == "second" else None)
    while (left := until - time.monotonic()) > 0:
        time.sleep(left)
    note(folder, b"E", stage, index)
    return index, value, os.getpid(), begun


def run_chunk(jobs):
    """A chunk of elements, under the number of the chunk."""
    folder, stage, kind, seed, index, _ = jobs[0]
    return run((folder, stage, kind, seed, index // workloads.CHUNK, None))


def walk(seed, index):
    """Goes on from where an earlier attempt has come to."""
    at, value = trickle.restore((0, 0))
    while at < workloads.STEPS:
        time.sleep(workloads.STEP_SECONDS)
        value = workloads.step(seed, index, at, value)
        at += 1
        trickle.checkpoint((at, value))
    return value


def suffer(how):
    if how == "abort":
        os.abort()
    elif how == "raise":
        raise ValueError("this element cannot be computed")
    while how == "loop":
        pass


def spring(folder, stage, index):
    """Steps into a trap if one is set."""
    for name in os.listdir(f"{folder}/traps/set"):
        number, _, kind = name.partition("-")
        try:
            os.mkdir(f"{folder}/traps/of/{stage}-{index}")
        except FileExistsError:
            return
        sprung = f"{number}-{kind}-{os.getpid()}-{time.monotonic_ns()}"
        try:
            os.rename(f"{folder}/traps/set/{name}", f"{folder}/traps/sprung/{sprung}")
        except FileNotFoundError:  # another one did, or it was taken away
            os.rmdir(f"{folder}/traps/of/{stage}-{index}")
            continue
        blow(kind)


def blow(kind):
    if kind == "segv":
        import ctypes
        ctypes.string_at(16)
    elif kind == "abort":
        os.abort()
    elif kind == "memory":
        grow()
    elif kind == "rlimit":
        import resource
        limits = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + RLIMIT_ROOM, limits[1]))
        try:
            grow()  # raises MemoryError, and the element is tried again
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    while kind == "loop":
        pass


def grow():
    kept = []
    for _ in range(BLOW_UP // BLOCK):
        kept.append(bytearray(BLOCK))
        for at in range(0, BLOCK, 4096):
            kept[-1][at] = 1
