# SPDX-License-Identifier: MIT
"""What can go wrong with processes. Other rooms add to KINDS what goes wrong with networks, disks
and clocks, by lists FAULTS of classes of the same form:

    kind                 its name, needs: what a world has to have for it
    start(world) -> dict what was done, as an event (machine, vm, pid, detail); None: it cannot be
                         done just now, and is tried again later
    stop(world)          takes it back; only called after a start
    poll(world) -> dict  optional: start() has only prepared it, and this says when it has happened

A fault is made for one item of the plan: it has .item, and .whom to choose by.
"""
import importlib
import os
import signal
import subprocess

from live.machine import read_file, send, state_of

ROOMS = ("network", "hostile", "stranger", "disk", "clock")
WEIGHTS = {"vm.kill": 6, "vm.stop": 3, "vm.term": 1, "vm.segv": 2, "vm.abort": 2, "vm.memory": 0.5,
           "vm.loop": 0.5, "vm.add": 1, "vm.brittle": 1, "vm.drain": 1, "supervisor.kill": 1,
           "initiator.kill": 3, "initiator.term": 1, "initiator.stop": 1, "initiator.twice": 1}
VMS_MAX = 10       # vm.add adds none beyond
SOON_SECONDS = 2.0  # in which a program that was resumed may be hit again, early or late
CRASH_PART = 0.5    # of the kills of the program, followed by one at a chosen instant
POWER_PART = 0.3    # of the kills of the program are kills of all
CRASHES = ("write", "torn", "sync", "frame")


class Fault:
    kind = ""
    needs = frozenset()

    def __init__(self, item):
        self.item = item
        self.whom = item["whom"]

    def stop(self, world):
        """Nothing to be taken back."""

    def pick_vm(self, world):
        """(machine, index, pid) of a VM that runs; None: there is none."""
        there = [vm for vm in world.all_vms() if vm[3] in "RSD"]
        if not there:
            return None
        machine, index, pid, _ = there[int(self.whom[1] * len(there))]
        return machine, index, pid

    def pick_supervisor(self, world):
        """One whose VMs are up."""
        there = [own for machine in world.machines for own in machine.supervisors
                 if own.is_alive and own.vms()]
        return there[int(self.whom[0] * len(there))] if there else None


class VmSignal(Fault):
    needs = frozenset({"vm"})
    number = signal.SIGKILL

    def start(self, world):
        found = self.pick_vm(world)
        if found is None or not send(found[2], self.number):
            return None
        machine, index, pid = found
        self.pid, self.begun = pid, read_file(f"/proc/{pid}/stat").split()[21:22]
        return {"machine": machine.name, "vm": index, "pid": pid, "detail": self.number.name}


class VmKill(VmSignal):
    kind = "vm.kill"


class VmTerm(VmSignal):
    kind, number = "vm.term", signal.SIGTERM


class VmStop(VmSignal):
    kind, number = "vm.stop", signal.SIGSTOP

    def stop(self, world):
        if read_file(f"/proc/{self.pid}/stat").split()[21:22] == self.begun:
            send(self.pid, signal.SIGCONT)


class Trap(Fault):
    """Prepared here, and done by the user code of the element that comes by next."""
    needs = frozenset({"vm", "initiator", "traps"})
    traps = ()

    def start(self, world):
        if world.program is None or not world.program.is_alive:
            return None
        self.trap = self.traps[int(self.whom[1] * len(self.traps))]
        self.name = f"{self.item['id']}-{self.trap}"
        (world.dir / f"traps/set/{self.name}").touch()
        return {}

    def poll(self, world):
        for name in os.listdir(world.dir / "traps/sprung"):
            if name.startswith(self.name + "-"):
                pid, ns = map(int, name.split("-")[2:])
                machine, index = who(world, pid)
                return {"machine": machine, "vm": index, "pid": pid, "detail": self.trap,
                        "happened": round(ns / 1e9 - world.start, 6)}
        return None

    def stop(self, world):
        """Takes the trap away if nobody has stepped into it."""
        (world.dir / f"traps/set/{self.name}").unlink(missing_ok=True)


class VmSegv(Trap):
    kind, traps = "vm.segv", ("segv",)


class VmAbort(Trap):
    kind, traps = "vm.abort", ("abort",)


class VmMemory(Trap):
    kind, traps = "vm.memory", ("memory", "rlimit")


class VmLoop(Trap):
    kind, traps = "vm.loop", ("loop",)


class VmAdd(Fault):
    """A supervisor with new VMs."""
    kind = "vm.add"

    def start(self, world):
        if len(world.all_vms()) >= VMS_MAX:
            return {"machine": None, "vm": None, "pid": None, "detail": "there are enough"}
        machine = world.machines[int(self.whom[0] * len(world.machines))]
        own = machine.start_supervisor(1 + int(self.whom[1] * 2))
        return {"machine": machine.name, "vm": own.first, "pid": own.pid,
                "detail": f"{own.count} more"}


class VmBrittle(Fault):
    """New VMs that are killed, each time, when they send for the n-th time; their supervisor, too.
    For a short time: an element that is lost 20 times is given up."""
    kind = "vm.brittle"

    def start(self, world):
        machine = world.machines[int(self.whom[0] * len(world.machines))]
        instant = f"frame:{int(100 ** self.whom[1]) + 2}"
        env = machine.crashing(instant)
        if not env:
            return {"machine": None, "vm": None, "pid": None, "detail": "tests are not built"}
        self.own = machine.start_supervisor(1, env)
        return {"machine": machine.name, "vm": self.own.first, "pid": self.own.pid,
                "detail": instant}

    def stop(self, world):
        if hasattr(self, "own"):
            send(self.own.pid, signal.SIGTERM)


class Replaced(Fault):
    """A supervisor goes, and another one with as many VMs comes when this is taken back."""
    needs = frozenset({"vm"})

    def start(self, world):
        self.old = self.pick_supervisor(world)
        if self.old is None:
            return None
        return {"machine": self.old.machine.name, "vm": None, "pid": self.old.pid,
                "detail": self.end(world)}

    def stop(self, world):
        self.old.machine.start_supervisor(self.old.count)


class VmDrain(Replaced):
    """By SIGTERM to their supervisor, or first one of them by `trickle drain`."""
    kind = "vm.drain"

    def end(self, world):
        vms = self.old.vms()
        if self.whom[1] < 0.5:
            send(self.old.pid, signal.SIGTERM)
            return f"all {len(vms)} of a supervisor"
        index, pid, _ = vms[int(self.whom[1] * len(vms))]
        world.beside.append(self.old.machine.popen(
            [world.build / "trickle", "drain", str(pid)], stdout=subprocess.DEVNULL,
            stderr=world.log("drain")))
        return f"vm {index}, pid {pid}"

    def stop(self, world):
        send(self.old.pid, signal.SIGTERM)
        super().stop(world)


class SupervisorKill(Replaced):
    """Its guard ends the VMs."""
    kind = "supervisor.kill"

    def end(self, world):
        send(self.old.pid, signal.SIGKILL)
        return "SIGKILL"


class InitiatorFault(Fault):
    needs = frozenset({"initiator"})

    def is_there(self, world):
        """It runs, and is not just being resumed by two; most of these wait until it has done
        something."""
        return world.program is not None and world.program.is_alive and \
            not world.program.is_counted and state_of(world.program.pid) in ("R", "S", "D") and \
            not any(rival[1] is world.program for rival in world.rivals) and \
            world.now() - world.program.started >= SOON_SECONDS * self.whom[0] ** 2

    def kill(self, world, detail="SIGKILL"):
        """None: it had ended by itself, and is not to be started again for us."""
        pid = world.program.pid
        send(pid, signal.SIGKILL)
        if world.program.process.wait() != -signal.SIGKILL:
            return None
        world.program.is_counted = True  # its end was ours
        return {"machine": world.machines[0].name, "vm": None, "pid": pid, "detail": detail}


class InitiatorKill(InitiatorFault):
    """Now and, at times, once more when the resumed program writes or syncs its store, or sends,
    for the n-th time: at instants that no clock would hit. Or with all VMs in the same instant, as
    when the power fails: then nobody holds what was not on the disk."""
    kind = "initiator.kill"

    def start(self, world):
        if not self.is_there(world):
            return None
        if "at" not in self.item or self.whom[1] < 1 - POWER_PART:
            return self.kill(world)
        send(world.program.pid, signal.SIGSTOP)  # it does not see them go
        for _, _, pid, _ in world.all_vms():
            send(pid, signal.SIGKILL)
        return self.kill(world, "SIGKILL, with all VMs")

    def stop(self, world):
        crash = None
        if "at" in self.item and self.whom[1] < CRASH_PART:
            what = CRASHES[int(self.whom[0] * len(CRASHES))]
            crash = f"{what}:{int(500 ** (self.whom[1] / CRASH_PART))}"
        world.start_program(crash=crash)


class InitiatorTerm(InitiatorFault):
    """It has its job, and time to end in order, and is resumed; where it takes too long it is
    killed."""
    kind = "initiator.term"

    def start(self, world):
        if not self.is_there(world) or not world.program.has_begun(world):
            return None
        world.program.is_counted = True
        send(world.program.pid, signal.SIGTERM)
        return {"machine": world.machines[0].name, "vm": None, "pid": world.program.pid,
                "detail": "SIGTERM"}

    def stop(self, world):
        world.program.process.kill()  # nobody, if it has ended
        if world.program.process.wait() != 0:  # else it was just done
            world.start_program()


class InitiatorStop(InitiatorFault):
    """Long enough for the VMs to take it for gone, and hold what they have."""
    kind = "initiator.stop"

    def start(self, world):
        if not self.is_there(world):
            return None
        self.pid = world.program.pid
        send(self.pid, signal.SIGSTOP)
        return {"machine": world.machines[0].name, "vm": None, "pid": self.pid,
                "detail": "SIGSTOP"}

    def stop(self, world):
        if world.program.pid == self.pid:
            send(self.pid, signal.SIGCONT)


class InitiatorTwice(InitiatorFault):
    """Resumed while it runs, or killed and resumed by two at once: one has to be refused. Which
    one is not said, since a program that runs may be just about to take its job."""
    kind = "initiator.twice"

    def start(self, world):
        if not self.is_there(world) or not world.has_job():
            return None
        self.is_killed = self.whom[1] < 0.5
        if self.is_killed:
            return self.kill(world, "by two at once")
        self.resume_beside(world)
        return {"machine": world.machines[0].name, "vm": None, "pid": world.program.pid,
                "detail": "while it runs"}

    def stop(self, world):
        if self.is_killed:
            world.start_program()
            self.resume_beside(world)

    def resume_beside(self, world):
        number = self.item["id"]
        with open(world.dir / f"output/twice-{number}.out", "wb") as out, \
                world.log(f"twice-{number}") as log:
            other = world.machines[0].popen(world.resume_words(), stdout=out, stderr=log)
        world.rivals.append((number, world.program, other))


OWN = (VmKill, VmTerm, VmStop, VmSegv, VmAbort, VmMemory, VmLoop, VmAdd, VmBrittle, VmDrain,
       SupervisorKill, InitiatorKill, InitiatorTerm, InitiatorStop, InitiatorTwice)


def durations(dead_after):
    """{kind: [(low, high)]} in seconds: shorter and longer than a silence that means death."""
    short, long = (0.05 * dead_after, 0.8 * dead_after), (1.3 * dead_after, 2.5 * dead_after)
    return {"vm.stop": [short, long], "vm.drain": [(0.1, 1.0)], "vm.brittle": [(0.5, 2.0)],
            "supervisor.kill": [(0.0, 1.5)],
            "initiator.kill": [(0.0, 0.2), (0.2, 2.0)], "initiator.term": [(2.0, 5.0)],
            "initiator.stop": [short, long],
            "initiator.twice": [(0.0, 0.3)],
            **{kind: [(3.0, 3.0)] for kind in ("vm.segv", "vm.abort", "vm.memory", "vm.loop")}}


def optional(name):
    """A module of another room, or None where it is not there."""
    try:
        return importlib.import_module(f"live.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"live.{name}":
            raise
        return None


def all_kinds():
    """({kind: class}, {kind: weight}, {kind: durations}) of this room and of those present."""
    classes, weights, lasting = {}, {}, {}
    for room in ROOMS:
        module = optional(room)
        for cls in getattr(module, "FAULTS", ()):
            classes[cls.kind] = cls
            weights[cls.kind] = getattr(cls, "weight", 1.0)
            lasting[cls.kind] = getattr(cls, "durations", [(0.5, 4.0)])
    for cls in OWN:
        classes[cls.kind] = cls
        weights[cls.kind] = WEIGHTS[cls.kind]
    return classes, weights, lasting


def who(world, pid):
    """(machine's name, VM's index) of the process of a VM, also of one that has ended."""
    for machine in world.machines:
        for own in machine.supervisors:
            if own.known.get(pid) is not None:
                return machine.name, own.first + own.known[pid]
    return None, None

