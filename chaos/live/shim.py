# SPDX-License-Identifier: MIT
"""What shim.c does to the processes that preload it, told by a page that they share with us.

A page is one machine's: its disk (the files below TRICKLE_HOME) and its clock.
"""
import mmap
import os
import struct

MAGIC = 0x43484153
EVERY = 0xFFFFFFFF  # of a number of failures: all
CLOCK = struct.Struct("=q")
NUMBER = struct.Struct("=I")
# As in struct control of shim.c, behind the clock's 8 bytes.
NUMBERS = ("magic", "clock_pid", "is_full", "sync_us", "write_us", "syncs_fail", "writes_fail",
           "reads_fail", "read_pid", "writes_vanish", "is_unreadable", "hits_full", "hits_slow",
           "hits_sync", "hits_write", "hits_read", "hits_map", "hits_clock")
PAGE = 4096


class Control:
    """The page. Its numbers are attributes; clock_ns is how far the clock is off."""

    def __init__(self, path):
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, PAGE)
        self.page = mmap.mmap(fd, PAGE)
        os.close(fd)
        self.magic = MAGIC

    def environment(self, library):
        """Of the processes that it is for."""
        before = os.environ.get("LD_PRELOAD", "")  # ASan's library has to stay in front
        return {"CHAOS_SHIM": str(self.path), "LD_PRELOAD": f"{before} {library}".strip(),
                "ASAN_OPTIONS": ":".join(filter(None, [os.environ.get("ASAN_OPTIONS", ""),
                                                       "verify_asan_link_order=0"]))}

    def __getattr__(self, name):
        if name == "clock_ns":
            return CLOCK.unpack_from(self.page, 0)[0]
        if name in NUMBERS:
            return NUMBER.unpack_from(self.page, 8 + 4 * NUMBERS.index(name))[0]
        raise AttributeError(name)

    def __setattr__(self, name, value):
        if name == "clock_ns":
            CLOCK.pack_into(self.page, 0, value)
        elif name in NUMBERS:
            NUMBER.pack_into(self.page, 8 + 4 * NUMBERS.index(name), value)
        else:
            super().__setattr__(name, value)

    def heal(self):
        """Disk and clock are as they should be."""
        self.clock_ns = 0
        for name in NUMBERS[1:]:
            if not name.startswith("hits_"):
                setattr(self, name, 0)

    def close(self):
        self.heal()
        self.page.close()


def attach(world):
    """Gives each machine of a world its page, before anything is started there: world.controls, by
    the machine's name. Without the library (ninja has made none) there are none."""
    library = world.build / "chaos/shim.so"
    if not library.exists():
        return
    place = world.dir / "shim"
    place.mkdir(exist_ok=True)
    for machine in world.machines:
        control = world.controls[machine.name] = Control(place / machine.name)
        machine.env.update(control.environment(library))


def detach(world):
    """When no process is left."""
    for control in world.controls.values():
        control.close()
    world.controls = {}
