# SPDX-License-Identifier: MIT
"""What a run leaves behind when all of it has been ended: it has to be nothing. And what its
processes had while they ran: memory and descriptors must not grow.

Every process of a run has CHAOS_RUN=FOLDER in its environment, also those that users' code started.
"""
import collections
import os
import stat
import statistics
import time
from pathlib import Path

PATIENCE_SECONDS = 10.0
SHARED_MEMORY = Path("/dev/shm")
GROWTH_BYTES = 32 << 20   # that the calm level of a process may grow by
GROWTH_PART = 0.25        # or so much of it
GROWTH_DESCRIPTORS = 16
SAMPLES_MIN = 200         # of a process, to say anything: several rounds of work


def processes(folder):
    """{pid: command} of all processes of a run but this one."""
    mark = b"CHAOS_RUN=" + os.fsencode(str(folder))
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes().split(b"\0")
            command = Path(entry.path, "cmdline").read_bytes()
        except OSError:
            continue
        if mark in environment and command:  # a zombie has none
            found[int(entry.name)] = command.replace(b"\0", b" ").decode("utf-8", "replace")
    return found


def shared_memory():
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def sockets(folders):
    found = []
    for folder in folders:
        for place, _, names in os.walk(folder):
            found += [f"{place}/{name}" for name in names
                      if stat.S_ISSOCK(os.lstat(f"{place}/{name}").st_mode)]
    return found


def wait_processes(folder, seconds=PATIENCE_SECONDS):
    """Those that are still there after that time."""
    until = time.monotonic() + seconds
    while (left := processes(folder)) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def check_processes(left, checks):
    checks.add("no process is left", [f"{pid}: {command}" for pid, command in left.items()],
               "all processes of the run to have ended")


def check_sockets(folders, checks):
    checks.add("no socket is left", sockets(folders), "no socket file")


def check_own(shared_before, descriptors, checks):
    """descriptors: of this process, before the run and after it."""
    new = {it for it in shared_memory() - shared_before if "trickle" in it or "trk" in it}
    checks.add("no shared memory is left", sorted(new), "none in /dev/shm")
    before, after = descriptors
    checks.add("no descriptor is left", [] if after <= before else [f"{after}"],
               f"{before} descriptors of this process, as before")


def level(values):
    """The calm level: what three quarters of the samples exceed."""
    return statistics.quantiles(values, n=4)[0] if len(values) > 1 else values[0]


def growth(samples):
    """Problems: processes that have more at their end than in the second quarter of their life."""
    rows = collections.defaultdict(list)
    for sample in samples:
        for what, pid, memory, descriptors in sample["processes"]:
            rows[what, pid].append((memory, descriptors))
    for (what, pid), found in sorted(rows.items()):
        if len(found) < SAMPLES_MIN:
            continue
        quarter = len(found) // 4
        early, late = found[quarter:2 * quarter], found[-quarter:]
        for name, at, allowed in (
                ("bytes", 0, lambda base: max(GROWTH_BYTES, base * GROWTH_PART)),
                ("descriptors", 1, lambda base: GROWTH_DESCRIPTORS)):
            one, other = level([it[at] for it in early]), level([it[at] for it in late])
            if other > one + allowed(one):
                yield f"{what} {pid}: from {one:.0f} to {other:.0f} {name}"


def check_growth(samples, checks):
    checks.add("memory and descriptors stay flat", growth(samples),
               "processes to have at the end what they had in the second quarter")
