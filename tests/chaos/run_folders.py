# SPDX-License-Identifier: MIT
"""Run folders for tests of the report, made up from a seed: VMs that compute, are killed and start
again, and a program that is killed and resumed."""
import json
import random

START = 1000.0  # start_monotonic


class Folder:
    """Writes a run folder bit by bit; times are seconds since the start."""

    def __init__(self, path, **run):
        self.path = path
        (path / "attempts").mkdir(parents=True)
        self.run = {"version": 1, "seed": 7, "minutes": 1.0, "workload": "made up",
                    "revision": "abcdef012345", "started": "2026-11-22T21:30:00Z",
                    "start_monotonic": START, "options": {}} | run
        (path / "run.json").write_text(json.dumps(self.run))
        self.events = []
        self.logs = {}
        self.faults = 0

    def event(self, t, event, **more):
        self.events.append({"t": round(t, 6), "event": event} | more)

    def fault(self, t, kind, machine=None, vm=None, pid=None, until=None, detail=""):
        self.faults += 1
        self.event(t, "fault", kind=kind, id=self.faults, machine=machine, vm=vm, pid=pid,
                   until=None, detail=detail)
        if until is not None:
            self.event(until, "healed", kind=kind, id=self.faults)

    def vm(self, machine, vm, pid, start, end=None):
        self.event(start, "vm", what="start", machine=machine, vm=vm, pid=pid)
        if end is not None:
            self.event(end, "vm", what="end", machine=machine, vm=vm, pid=pid)

    def attempt(self, machine, pid, index, begin, end=None, stage=0):
        log = self.logs.setdefault((machine, pid), [])
        log.append(f"B {stage} {index} {pid} {int((START + begin) * 1e9)}\n")
        if end is not None:
            log.append(f"E {stage} {index} {pid} {int((START + end) * 1e9)}\n")

    def write(self, verdict=None):
        self.events.sort(key=lambda event: event["t"])
        (self.path / "events.jsonl").write_text(
            "".join(json.dumps(event) + "\n" for event in self.events))
        for (machine, pid), lines in self.logs.items():
            (self.path / "attempts" / f"{machine}-{pid}.log").write_text("".join(lines))
        if verdict is not None:
            (self.path / "verdict.json").write_text(json.dumps(verdict))
        return self.path


VERDICT = {"ok": True, "checks": [
    {"name": "every element has one result", "ok": True,
     "detail": "expected 400 results, saw 400"},
    {"name": "nothing recorded ran again", "ok": True, "detail": "expected 0, saw 0"}],
    "totals": {"elements": 400, "attempts": 410, "wasted_percent": 1.25, "kills_vm": 9,
               "kills_initiator": 2, "detection_ms": {"median": 11.5, "p99": 42.0},
               "recovery_ms": {"median": 310.0, "p99": 900.0}}}


class Farm:
    """Makes up a run of a farm: elements in turn on all VMs, each kill costs one element."""

    def __init__(self, folder, machines, vms, seconds, element, kills, seed=1):
        self.folder = folder
        self.random = random.Random(seed)
        self.seconds = seconds
        self.element = element
        self.pid = 100
        self.next_index = 0
        self.again = []
        places = [(f"m{m}", v) for m in range(machines) for v in range(vms)]
        self.kills = {place: [] for place in places}
        for _ in range(kills):
            self.kills[self.random.choice(places)].append(self.random.uniform(0.02, 0.98) * seconds)
        for place in places:
            self.run_vm(*place)

    def run_vm(self, machine, vm):
        t = 0.05
        for kill in [*sorted(self.kills[machine, vm]), None]:
            end = self.seconds if kill is None else kill
            if end <= t + 0.3:
                continue
            self.pid += 1
            self.folder.vm(machine, vm, self.pid, t, kill)
            if kill is not None:
                self.folder.fault(kill, "vm.kill", machine, vm, self.pid)
            t += 0.02
            while t < end:
                index = self.take()
                stop = t + self.element * self.random.uniform(0.5, 1.5)
                self.folder.attempt(machine, self.pid, index, t, stop if stop < end else None)
                if stop >= end and kill is not None:
                    self.again.append(index)
                t = stop + self.element * 0.02
            t = end + 0.2

    def take(self):
        if self.again and self.random.random() < 0.5:
            return self.again.pop()
        self.next_index += 1
        return self.next_index
