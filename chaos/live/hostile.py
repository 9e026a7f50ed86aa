# SPDX-License-Identifier: MIT
"""A peer that means no good, on a machine of its own in the network: without the key it sends
garbage (hostile.c) to every port of the others, with it a job's past (stale.c). As faults of a
plan, and for tests and measurements by hand:

    peer = start(network, "garbage", count=100000)
    peer.wait()
    outcome(peer)            {"connections": 100000, "closed_by_peer": ..., ...}
"""
import ipaddress
import json
import os
import subprocess
from pathlib import Path

from live.network import recorded_streams

BUILD = Path(os.environ.get("TRICKLE_BUILD",
                            Path(__file__).resolve().parents[2] / "build")).resolve()
STREAM_BYTES = 1 << 20  # of a genuine peer, at most, that are said again


def addresses(machines):
    """All ports of the machines at which something listens, at all their addresses."""
    return [f"tcp:{f'[{address}]' if ':' in address else address}:{port}"
            for machine in machines for port in machine.listening()
            for address in machine.addresses]


def genuine(network):
    return [machine for machine in network.machines if not machine.is_hostile]


def start(network, mode, targets=None, machine=None, log=subprocess.DEVNULL, **options):
    """Its process; None: nobody listens. machine: where it runs. options: of hostile.c. log: a
    file for the outcome, or subprocess.PIPE."""
    targets = addresses(genuine(network)) if targets is None else targets
    if not targets:
        return None
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    machine = network.add_hostile() if machine is None else machine
    return machine.start(BUILD / "chaos/hostile", *words, mode, *targets, stdout=log)


def outcome(process):
    """What a peer that has ended says of it; it was started with a pipe."""
    return json.loads(process.communicate()[0])


def save_stream(network, path, which):
    """Writes what one genuine peer has sent when it opened a session; False: none was heard.
    which: from 0 to 1, of all."""
    network.counters()  # what the relay still keeps in memory is in the file then
    ours = {address for machine in genuine(network) for address in machine.addresses}
    streams = [text[:STREAM_BYTES] for (sender, _), text in recorded_streams(network.heard)
               if text[:2] == b"\x16\x03" and str(ipaddress.ip_address(sender[0])) in ours]
    if streams:
        Path(path).write_bytes(streams[int(which * len(streams)) % len(streams)])
    return bool(streams)


class HostileFault:
    kind = ""
    needs = frozenset({"network"})
    weight = 0.5
    durations = [(0.5, 4.0)]
    mode = ""

    def __init__(self, item):
        self.item, self.whom = item, item["whom"]
        self.process = None

    def options(self):
        """Half of the time as fast as it can."""
        return {"rate": 0 if self.whom[0] < 0.5 else 50 + int(500 * self.whom[1])}

    def start(self, world):
        with open(world.dir / f"logs/hostile-{self.item['id']}.log", "wb") as log:
            self.process = start(world.network, self.mode, log=log, seed=self.item["id"],
                                 **self.options())
        return self.told(world)

    def told(self, world):
        if self.process is None:
            return None
        rate = self.options().get("rate", 0)
        return {"machine": "hostile", "vm": None, "pid": self.process.pid,
                "detail": f"{rate} connections a second" if rate else "as fast as it can"}

    def stop(self, world):
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


class Garbage(HostileFault):
    kind, mode = "hostile.garbage", "garbage"


class Half(HostileFault):
    kind, mode = "hostile.half", "half"

    def options(self):
        return {"rate": 1000, "open": 100 + int(400 * self.whom[1]), "hold": 10000}


class Huge(HostileFault):
    kind, mode = "hostile.huge", "huge"


class Replay(HostileFault):
    """Says what a genuine peer has said."""
    kind, mode = "hostile.replay", "replay"

    def start(self, world):
        self.file = world.dir / f"logs/hostile-{self.item['id']}.heard"
        if not save_stream(world.network, self.file, self.whom[1]):
            return None
        return super().start(world)

    def options(self):
        return {**super().options(), "file": self.file}


class OldEpoch(HostileFault):
    """Asks VMs for leases in the name of an earlier run of the job. It has the key."""
    kind = "hostile.old_epoch"

    def start(self, world):
        first, *_ = genuine(world.network)
        targets = addresses(genuine(world.network))
        jobs = first.path("state/jobs")
        names = sorted(jobs.iterdir(), key=os.path.getmtime) if jobs.is_dir() else []
        if not names or not targets:
            return None
        with open(world.dir / f"logs/hostile-{self.item['id']}.log", "wb") as log:
            self.process = world.network.add_hostile().start(
                BUILD / "chaos/stale", first.path("config/trickle/key"), first.path("state"),
                names[-1].name, *targets, stdout=log, stderr=log,
                env={"TRICKLE_FSCK": str(BUILD / "src/ckpt/trickle-fsck")})
        return {**self.told(world), "detail": f"the run before of {names[-1].name}"}

    def options(self):
        return {}


FAULTS = (Garbage, Half, Huge, Replay, OldEpoch)
