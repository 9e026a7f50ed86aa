# SPDX-License-Identifier: MIT
"""Reads what a run has left in its folder: events, attempts, the program's outputs, the store.

The store is read by `trickle results --pickle`, `trickle status` and `trickle jobs`, as anybody
would. All times are seconds since the start of the run.
"""
import json
import os
import pickle
import subprocess

INITIATOR = "initiator."
FIRST = "m0"  # the machine of the program


class Attempt:
    """One run of an element: from its notes."""
    __slots__ = ("stage", "index", "pid", "machine", "begun", "begun_ns", "ended")

    def __init__(self, stage, index, pid, machine, begun, begun_ns):
        self.stage, self.index, self.pid, self.machine = stage, index, pid, machine
        self.begun, self.begun_ns = begun, begun_ns
        self.ended = None  # it never did: its process was ended

    @property
    def element(self):
        return self.stage, self.index

    def __repr__(self):
        ended = "did not end" if self.ended is None else f"ended {self.ended:.3f}"
        return f"{self.stage} {self.index} on {self.machine} pid {self.pid} at {self.begun:.3f}, " \
               f"{ended}"


def read_lines(path):
    """Lines of JSON; one that is not whole, because its writer was killed, is the last."""
    found = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
    return found


class Evidence:
    def __init__(self, folder):
        self.dir = folder
        self.run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        self.events = read_lines(folder / "events.jsonl")
        self.samples = read_lines(folder / "samples.jsonl")
        self.attempts = sorted(self.read_attempts(), key=lambda it: it.begun)
        self.faults = [it for it in self.events if it["event"] == "fault"]
        self.healed = {it["id"]: it["t"] for it in self.events if it["event"] == "healed"}
        self.damages = [it["t"] for it in self.faults if it["kind"] == "disk.damage"]
        self.given = []  # when the program was given results, by the checker
        self.programs = [it for it in self.events if it["event"] == "program"]
        self.end = max([it["t"] for it in self.events], default=0.0)

    def since_start(self, ns):
        return ns / 1e9 - self.run["start_monotonic"]

    def read_attempts(self):
        for entry in sorted(os.scandir(self.dir / "attempts"), key=lambda it: it.name):
            machine = entry.name.rpartition("-")[0]
            running = None
            with open(entry.path, encoding="ascii") as file:
                for line in file:
                    words = line.split()
                    if len(words) != 5 or not line.endswith("\n"):
                        continue
                    ns = int(words[4])
                    if words[0] == "B":
                        if running is not None:
                            yield running  # it was interrupted, or raised
                        running = Attempt(words[1], int(words[2]), int(words[3]), machine,
                                          self.since_start(ns), ns)
                    elif running is not None:
                        running.ended = self.since_start(ns)
                        yield running
                        running = None
            if running is not None:
                yield running

    def outputs(self):
        """[(number, path)] of the runs of the program, the first first."""
        found = [(int(path.stem.partition("-")[2]), path)
                 for path in (self.dir / "output").glob("program-*.out")]
        return sorted(found)

    def recorded(self):
        """[(when, stage, indices)]: what `trickle results` gave during the run, and when that had
        ended: by then they were recorded."""
        for event in self.events:
            if event["event"] != "recorded":
                continue
            for path in (self.dir / "recorded").glob(f"{event['number']}-*"):
                try:
                    values = pickle.loads(path.read_bytes())
                except (EOFError, pickle.UnpicklingError):
                    continue  # that process was ended at the end of the run
                yield event["t"], path.name.partition("-")[2], list(values)

    def silences(self):
        """[(machine or None, pid or None, from, to)]: when a process, a machine or all of them
        (both None) could not be heard."""
        found = []
        for it in self.faults:
            ended = self.healed.get(it["id"], self.end)
            if it["kind"] == "vm.stop":
                found.append((None, it["pid"], it["t"], ended))
            elif it["kind"].startswith("net."):
                # The program's machine is silent for all of the others.
                where = it.get("machine")
                found.append((None if where == FIRST else where, None, it["t"], ended))
            elif it["kind"] == INITIATOR + "stop":
                found.append((None, None, it["t"], ended))
        return found

    def absences(self):
        """[(from, to)]: when no program ran, or it was stopped."""
        found, since = [], 0.0
        for it in self.programs:
            if it["what"] == "end":
                since = it["t"]
            elif since is not None:
                found.append((since, it["t"]))
                since = None
        if since is not None:
            found.append((since, self.end + 1e9))
        for it in self.faults:
            if it["kind"] == INITIATOR + "stop":
                found.append((it["t"], self.healed.get(it["id"], self.end)))
            elif it["kind"] == INITIATOR + "kill":  # its end is noticed a moment later
                found.append((it["t"], it["t"] + 0.1))
        return found


class Store:
    """A job's store, from outside: by the commands, on the machine where it is."""

    def __init__(self, machine, trickle, job):
        self.machine, self.trickle, self.job = machine, trickle, job

    def ask(self, *words):
        process = self.machine.popen([self.trickle, *words], text=True, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE)
        out, err = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"trickle {words[0]}: status {process.returncode}: {err}")
        return out

    def facts(self):
        """Its line of `trickle jobs --json`."""
        jobs = {it["name"]: it for it in json.loads(self.ask("jobs", "--json"))}
        return jobs[self.job]

    def status(self):
        return json.loads(self.ask("status", "--json", self.job))

    def results(self, stage, path):
        """{index: value}"""
        self.ask("results", "--stage", stage, "--pickle", path, self.job)
        with open(path, "rb") as file:
            found = pickle.load(file)
        os.unlink(path)
        return found
