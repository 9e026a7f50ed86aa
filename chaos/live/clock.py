# SPDX-License-Identifier: MIT
"""Clocks that are set while everything runs, forwards and backwards: of all processes of a machine,
or of one of them. How time passes stays as it is, as when a person or NTP sets the clock.

Other tools may look at the time that files were written, which the kernel notes by its own clock;
for a machine that is a day ahead its files are a day old, as after a real step.
"""
from live.faults import Fault

NS = 1_000_000_000
# Seconds: within what NTP slews, the end of summer time, a wrong date, a battery that was empty.
STEPS = (0.4, 30.0, 3600.0, 86400.0 * 2, 86400.0 * 365 * 20)


class ClockStep(Fault):
    """whom: which machine; and in one number how far, which way, and whether one process is meant
    or all."""
    kind, weight, durations = "clock.step", 1.0, [(0.5, 8.0)]
    needs = frozenset({"disk"})  # what brings the shim

    def start(self, world):
        names = sorted(name for name, control in world.controls.items() if control.clock_ns == 0)
        if not names:
            return None
        name = names[int(self.whom[0] * len(names))]
        self.control = world.controls[name]
        choice = int(self.whom[1] * len(STEPS) * 4)
        seconds = STEPS[choice // 4] * (1 if choice % 2 else -1)
        machine = next(own for own in world.machines if own.name == name)
        pid = self.one_process(world, machine) if choice % 4 >= 2 else None
        self.control.clock_pid = pid or 0
        self.control.clock_ns = int(seconds * NS)
        return {"machine": name, "vm": None, "pid": pid,
                "detail": f"{seconds:+g} s, {'all processes' if pid is None else 'one process'}"}

    def one_process(self, world, machine):
        """The program if it is there, else the first VM."""
        if machine is world.machines[0] and world.program is not None and world.program.is_alive:
            return world.program.pid
        vms = machine.vms()
        return vms[0][1] if vms else None

    def stop(self, world):
        self.control.clock_ns = 0


FAULTS = (ClockStep,)
