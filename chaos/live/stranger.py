# SPDX-License-Identifier: MIT
"""Another user of the machine, who tries each unix socket that there is, and says things that mean
no good (hostile.c). Twice over, because two things stand in the way:

    the modes of the directories      no connection comes about at all
    the user who has the other end    here the modes do not count for it (CAP_DAC_OVERRIDE), as
                                      were they wrong: the connection is closed without an answer

The checker reads in its log what became of it.
"""
import os
import shutil
import signal

from live import leftovers
from live.checker import PAST_MODES
from live.faults import Fault
from live.machine import send

OTHER = 65534
MODES = ("garbage", "half", "huge")
RATE = 200  # connections a second


def words(is_past_modes):
    """What makes a command the other user's."""
    some = "-all,+dac_override" if is_past_modes else "-all"
    return ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups",
            f"--inh-caps={some}", f"--ambient-caps={some}"]


def sockets(machine):
    """Their names as the machine has them."""
    place = machine.env["TRICKLE_RUNTIME"]
    return [f"unix:{place}/{os.path.relpath(path, machine.runtime)}"
            for path in leftovers.sockets([machine.runtime])]


class OtherUser(Fault):
    kind, weight, durations = "hostile.other_user", 0.5, [(0.3, 2.0)]
    needs = frozenset({"second_user"})
    count = 0  # connections; 0: until it is ended

    def start(self, world):
        machine = world.machines[int(self.whom[0] * len(world.machines))]
        targets = sockets(machine)
        if not targets:
            return None
        is_past, mode = self.whom[1] < 0.5, MODES[int(self.whom[1] * 1000) % len(MODES)]
        program = os.open(world.build / "chaos/hostile", os.O_RDONLY)  # wherever that is
        with world.log(f"hostile-{self.item['id']}") as log:
            self.process = machine.popen(
                [*words(is_past), f"/proc/self/fd/{program}", "--rate", RATE, "--hold", "500",
                 "--count", self.count, "--seed", self.item["id"], mode, *targets],
                pass_fds=[program], stdout=log, stderr=log, cwd="/")
        os.close(program)
        return {"machine": machine.name, "vm": None, "pid": self.process.pid,
                "detail": f"{mode}, {PAST_MODES}" if is_past else mode}

    def stop(self, world):
        send(self.process.pid, signal.SIGTERM)
        self.process.wait()


FAULTS = (OtherUser,) if shutil.which("setpriv") else ()
