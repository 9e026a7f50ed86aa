# SPDX-License-Identifier: MIT
"""What can go wrong between machines, as faults of a plan: each is made for an item, whose two
numbers from 0 to 1 (`whom`) choose the machines and how bad it is. See faults.py for the form."""


class NetFault:
    """A condition of the network (network.py) that holds until it is taken back."""
    kind = ""
    needs = frozenset({"network"})
    weight = 1.0
    durations = [(0.3, 1.5), (1.5, 5.0)]

    def __init__(self, item):
        self.item, self.whom = item, item["whom"]
        self.condition = None

    def start(self, world):
        here, there = self.pick_two(world)
        if there is None:
            return None
        self.condition, detail = self.impose(world.network, here, there)
        return {"machine": here.name, "vm": None, "pid": None, "detail": detail}

    def stop(self, world):
        if self.condition is not None:
            self.condition.lift()

    def pick(self, world):
        """One of the machines that are no peer's of ours."""
        genuine = [m for m in world.network.machines if not m.is_hostile]
        return genuine[int(self.whom[0] * len(genuine)) % len(genuine)]

    def pick_two(self, world):
        """One, and another one or None, when there is no other."""
        here = self.pick(world)
        others = [m for m in world.network.machines if m is not here and not m.is_hostile]
        return here, others[int(self.whom[1] * len(others)) % len(others)] if others else None

    def between(self, low, high):
        """How bad, by the second number; small values are as likely as great ones."""
        return low * (high / low) ** (self.whom[1] * 7 % 1)


class Delay(NetFault):
    kind = "net.delay"

    def impose(self, network, here, there):
        ms = self.between(2, 400)
        return (network.delay(here, there, ms=ms, jitter_ms=ms / 4),
                f"{ms:.0f} to {1.25 * ms:.0f} ms between {here.name} and {there.name}")


class Loss(NetFault):
    kind = "net.loss"

    def impose(self, network, here, there):
        p = self.between(0.01, 0.3)
        return network.loss(here, p=p), f"{100 * p:.0f} % of all of {here.name}"


class Duplicate(NetFault):
    kind = "net.duplicate"
    weight = 0.5

    def impose(self, network, here, there):
        p = self.between(0.02, 0.5)
        return network.duplicate(here, p=p), f"{100 * p:.0f} % of all of {here.name}"


class Reorder(NetFault):
    kind = "net.reorder"
    weight = 0.5

    def impose(self, network, here, there):
        p = self.between(0.02, 0.3)
        return (network.reorder(here, p=p, ms=5),
                f"{100 * p:.0f} % of all of {here.name} 5 ms late")


class Rate(NetFault):
    kind = "net.rate"

    def impose(self, network, here, there):
        kbit = self.between(500, 50000)
        return (network.rate(here, there, kbit=kbit, queue_bytes=64000),
                f"{kbit:.0f} kbit/s between {here.name} and {there.name}")


class Partition(NetFault):
    """One machine is cut off from all others, or from one."""
    kind = "net.partition"
    weight = 2.0

    def impose(self, network, here, there):
        if self.whom[1] < 0.6:
            return network.partition(here), f"{here.name} from all others"
        return network.partition(here, there), f"{here.name} from {there.name}"


class PartitionOneWay(NetFault):
    kind = "net.partition_one_way"

    def impose(self, network, here, there):
        if self.whom[1] < 0.5:
            return network.partition_one_way(here), f"nothing that {here.name} sends comes"
        return (network.partition_one_way([m for m in network.machines if m is not here], here),
                f"nothing comes to {here.name}")


class MulticastLost(NetFault):
    kind = "net.multicast_lost"

    def impose(self, network, here, there):
        return network.multicast_lost(here), f"all that {here.name} sends"


class Reset(NetFault):
    """All connections of one machine end; there is nothing to take back."""
    kind = "net.reset"
    weight = 2.0
    durations = [(0.0, 0.0)]

    def impose(self, network, here, there):
        return None, f"{network.reset(here)} connections of {here.name}"


class Move(NetFault):
    """A machine gets other addresses, and keeps them."""
    kind = "net.move"
    durations = [(0.0, 0.0)]

    def impose(self, network, here, there):
        old = here.address
        return None, f"{here.name} from {old} to {network.move(here)}"


FAULTS = (Delay, Loss, Duplicate, Reorder, Rate, Partition, PartitionOneWay, MulticastLost, Reset,
          Move)
