# SPDX-License-Identifier: MIT
"""Disks that go wrong: the one of the machine where the program is, with the job's store and what
the VMs there hold.

    disk.full         no room. As root it is a small file system of its own that is filled, real
                      to the last detail; else writes fail with ENOSPC (shim.c)
    disk.slow         syncs take up to half a second, writes milliseconds
    disk.failing      syncs fail, once or for a while, and what was not synced is lost; or writes
                      fail. As the kernel does it: after a failed sync old contents are back
    disk.read_error   reads fail, and whoever looks at a page of the store's map dies of a signal
    disk.damage       the program is killed, bytes of its store are flipped, and it is resumed: the
                      damage has to be found and told, what is lost runs again, and no result is
                      ever a wrong one
    disk.held         the same with what VMs of all machines hold for it while it is away

A resumed program that finds a full or failing disk may refuse with a sentence and end; Disk.excuses
says so, and the program is started again when the disk is well.
"""
import ctypes
import os
import subprocess

from live import shim
from live.faults import Fault, InitiatorFault
from live.machine import JOB

SIZE_BYTES = 4 << 30   # of the file system; its file is sparse
PAGE = 4096            # of a store
CLONE_NEWNS = 0x20000
TAKE_OUT = 'cp -a "$1/." "$2" && umount "$1" && cp -a "$2/." "$1"; rm -rf "$2"'
_is_private = False    # this process has mounts of its own


def have_private_mounts():
    """From now on what is mounted here is seen by this process and those it starts, and gone when
    they are, however that happens. False: this user may not."""
    global _is_private
    if not _is_private:
        _is_private = os.geteuid() == 0 and \
            ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0 and run(["mount", "--make-rprivate", "/"])
    return _is_private


def run(words):
    """A command; whether it succeeded."""
    return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, check=False).returncode == 0


class Disk:
    """The disk of the first machine. is_real: it is a file system of its own."""

    def __init__(self, world):
        self.machine = world.machines[0]
        self.control = world.controls[self.machine.name]
        self.home = self.machine.env["TRICKLE_HOME"]
        self.image = world.dir / "disk.img"
        self.bad = 0         # faults of it just now
        self.is_real = self._mount()

    def path(self, *names):
        """A file below the home, as this process sees it: the machine may have its own mounts."""
        root = "" if self.machine.ns is None else f"/proc/{self.machine.ns}/root"
        return os.path.join(root + self.home, *names)

    def store(self):
        return self.path("jobs", JOB, "data.mdb")

    def _mount(self):
        if os.geteuid() != 0 or (self.machine.ns is None and not have_private_mounts()):
            return False
        os.makedirs(self.home, 0o700, exist_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(SIZE_BYTES)
        if run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(self.image)]) and \
                run(self.machine.command(["mount", "-o", "loop", self.image, self.home])):
            os.rmdir(self.path("lost+found"))
            os.chmod(self.path(), 0o700)
            return True
        self.image.unlink()
        return False

    def fill(self):
        """Until not a byte is left."""
        if not self.is_real:
            self.control.is_full = 1
            return
        with open(self.path("filler"), "wb", buffering=0) as file:
            size = os.statvfs(self.path()).f_bavail * PAGE
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError:
                pass  # what is meant for the file's own description is not for data
            file.seek(0, os.SEEK_END)
            block = PAGE * 64
            while block:
                try:
                    file.write(bytes(block))
                except OSError:
                    block = block // 2 if block > 1 else 0

    def free(self):
        self.control.is_full = 0
        if self.is_real:
            os.unlink(self.path("filler"))

    def begin(self):
        self.bad += 1

    def end(self, world):
        """A fault of it is over. A program that could not begin meanwhile begins now."""
        self.bad -= 1
        program = world.program
        if self.bad == 0 and program is not None and not program.is_counted and \
                program.process.poll() not in (None, 0):
            program.is_counted = True
            world.start_program()

    def excuses(self, program):
        """Has this program ended because its disk is bad, to go on when it is well again?"""
        return self.bad > 0 and program.process.poll() not in (None, 0)

    def close(self):
        """When no process is left: what was on the disk is where it would be without it."""
        self.control.heal()
        if not self.is_real:
            return
        self.is_real = False
        run(self.machine.command(["sh", "-c", TAKE_OUT, "sh", self.home,
                                  self.image.with_suffix(".copy")]))
        self.image.unlink()


def attach(world):
    """Before anything is started on the machines, behind shim.attach(): world.disk."""
    if world.controls:
        world.disk = Disk(world)


class DiskFault(Fault):
    """One of the disk of the program's machine."""
    needs = frozenset({"disk", "initiator"})

    def start(self, world):
        world.disk.begin()
        program = world.program
        return {"machine": world.machines[0].name, "vm": None,
                "pid": program.pid if program is not None else None,
                "detail": self.break_it(world.disk)}

    def stop(self, world):
        self.mend(world.disk)
        world.disk.end(world)


class Full(DiskFault):
    kind, weight, durations = "disk.full", 1.0, [(0.2, 1.0), (1.0, 6.0)]

    def start(self, world):
        return None if world.disk.bad else super().start(world)

    def break_it(self, disk):
        disk.fill()
        return "a full file system" if disk.is_real else "ENOSPC"

    def mend(self, disk):
        disk.free()


class Slow(DiskFault):
    kind, weight, durations = "disk.slow", 1.0, [(0.5, 5.0)]

    def break_it(self, disk):
        disk.control.sync_us = 10_000 + int(self.whom[0] * 490_000)
        disk.control.write_us = int(self.whom[1] * 2000)
        return f"{disk.control.sync_us // 1000} ms a sync, {disk.control.write_us} us a write"

    def mend(self, disk):
        disk.control.sync_us = disk.control.write_us = 0


class Failing(DiskFault):
    kind, weight, durations = "disk.failing", 1.0, [(0.2, 3.0)]

    def break_it(self, disk):
        control, count = disk.control, shim.EVERY if self.whom[0] < 0.5 else 1
        words = "all" if count == shim.EVERY else "one"
        if self.whom[1] < 0.25:
            control.writes_fail = count
            return f"EIO of {words} of the writes"
        control.writes_vanish = int(self.whom[1] < 0.75)
        control.syncs_fail = count
        return f"EIO of {words} of the syncs" + (", with what was written" * control.writes_vanish)

    def mend(self, disk):
        disk.control.writes_fail = disk.control.syncs_fail = disk.control.writes_vanish = 0


class ReadError(DiskFault):
    """Of the program that runs just now: a later one opens its store on a good disk. Where it does
    not look at its store meanwhile nothing happens to it."""
    kind, weight, durations = "disk.read_error", 0.5, [(0.3, 2.0)]

    def start(self, world):
        if world.program is None or not world.program.is_alive:
            return None
        self.program = world.program
        world.disk.control.read_pid = self.program.pid
        return super().start(world)

    def break_it(self, disk):
        disk.control.reads_fail = shim.EVERY
        disk.control.is_unreadable = 1
        return "EIO of reads, and a signal for a look at the map"

    def mend(self, disk):
        disk.control.reads_fail = disk.control.is_unreadable = disk.control.read_pid = 0


class Damage(InitiatorFault):
    """Between two runs of the program. Bytes are flipped in few or many pages."""
    kind, weight, durations = "disk.damage", 0.3, [(0.0, 0.2)]
    needs = frozenset({"disk", "initiator"})

    def start(self, world):
        if not self.is_there(world) or not os.path.exists(world.disk.store()):
            return None
        event = self.kill(world)
        if event is None:
            return None
        pages = 1 + int(self.whom[0] ** 3 * 20)
        return {**event, "detail": damage(world.disk.store(), pages, world.random)}

    def stop(self, world):
        world.start_program()


class HeldDamage(Damage):
    """Of each file that VMs have written for the program that is gone: nothing was recorded yet, so
    nothing may be missing or wrong."""
    kind, weight, durations = "disk.held", 0.5, [(0.2, 3.0)]
    needs = frozenset({"vm", "initiator"})

    def start(self, world):
        return self.kill(world, "what VMs hold for it") if self.is_there(world) else None

    def stop(self, world):
        for path in held(world):
            try:
                damage(path, 1 + int(self.whom[0] ** 3 * 20), world.random)
            except FileNotFoundError:
                pass  # its supervisor has just thrown it away
        world.start_program()


def held(world):
    return sorted(path for machine in world.machines for path in
                  machine.home.glob("held/*/*.held"))


def damage(path, pages, random):
    """Flips up to 32 bytes in each of so many pages of a file. Says which."""
    with open(path, "r+b") as file:
        count = max(1, file.seek(0, os.SEEK_END) // PAGE)
        chosen = sorted(random.sample(range(count), min(pages, count)))
        for page in chosen:
            for _ in range(random.randrange(1, 33)):
                at = page * PAGE + random.randrange(PAGE)
                file.seek(at)
                byte = file.read(1)
                file.seek(at)
                file.write(bytes([(byte[0] if byte else 0) ^ random.randrange(1, 256)]))
    return f"pages {', '.join(map(str, chosen))} of {count}"


FAULTS = (Full, Slow, Failing, ReadError, Damage, HeldDamage)
