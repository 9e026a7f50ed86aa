# SPDX-License-Identifier: MIT
"""What a run folder tells: the run, its faults, the lives of VMs and programs, every attempt.

Read from run.json, events.jsonl, attempts/ and verdict.json. Any of them may be missing or end in
the middle of a line: a run that was killed has a report, too. All times are seconds since the start
of the run, by CLOCK_MONOTONIC.

An hour of small elements has millions of attempts, so they are columns of numbers, not objects.
"""
from __future__ import annotations

import json
import os
from array import array

from . import workloads

# How an attempt ended, and whether it counted; the order is that of drawing, later ones on top.
FIRST, AGAIN, TWICE, CUT, FAILS = range(5)
CLASS_NAMES = {FIRST: "ran once", AGAIN: "ran again", TWICE: "ended twice", CUT: "cut off",
               FAILS: "fails as it should"}


class Life:
    """One process of a VM: rows of the picture are made of these."""

    def __init__(self, machine, vm, pid, start, end=None):
        self.machine = machine
        self.vm = vm        # its number on the machine; None: not known
        self.pid = pid
        self.start = start
        self.end = end      # None: it was there at the end of the run


class Fault:
    """Something that was done to the farm."""

    def __init__(self, event):
        self.id = event.get("id")
        self.kind = str(event.get("kind", "?"))
        self.t = float(event["t"])
        self.until = event.get("until")  # when it was taken back; None: at once, or never
        self.machine = event.get("machine")
        self.vm = event.get("vm")
        self.pid = event.get("pid")
        self.detail = str(event.get("detail") or "")

    @property
    def group(self):
        return self.kind.partition(".")[0]

    @property
    def action(self):
        return self.kind.partition(".")[2] or self.kind


class Attempts:
    """Columns: one entry for each time that an element began somewhere."""

    def __init__(self):
        self.begin = array("d")
        self.end = array("d")     # negative: it has no end line
        self.key = array("q")     # stage number << 40 | index
        self.life = array("i")    # number of the life it ran in
        self.kind = array("b")    # FIRST, AGAIN, ...
        self.stages = []          # names of stages by their number

    def __len__(self):
        return len(self.begin)

    def name(self, i):
        """Of the element: its stage, where there are several, and its index."""
        stage, index = self.stages[self.key[i] >> 40], self.key[i] & (1 << 40) - 1
        return f"{stage}:{index}" if len(self.stages) > 1 else str(index)


class History:
    def __init__(self, folder):
        self.folder = str(folder)
        self.run = read_json(folder, "run.json")
        self.verdict = read_json(folder, "verdict.json")
        self.bad_lines = 0       # of events or attempts that could not be read
        self.faults = []
        self.lives = []
        self.programs = []       # (start, end or None) of each time the program ran
        self.attempts = Attempts()
        self.raised = []         # attempts that raised something
        self.duration = 0.0      # of the run, in seconds
        self._read_events()
        self._read_attempts()
        self._find_duration()
        classify(self)

    # --- events ---------------------------------------------------------------------------------

    def _read_events(self):
        by_id, running = {}, {}
        for event in self._events():
            what = event.get("event")
            t = float(event["t"])
            self.duration = max(self.duration, t)
            if what == "fault":
                self.faults.append(Fault(event))
                by_id[self.faults[-1].id] = self.faults[-1]
            elif what == "healed" and event.get("id") in by_id:
                by_id[event["id"]].until = t
            elif what == "vm":
                self._vm_event(event, t, running)
            elif what == "program":
                self._program_event(event, t)

    def _events(self):
        try:
            with open(os.path.join(self.folder, "events.jsonl"), encoding="utf-8",
                      errors="replace") as file:
                for line in file:
                    try:
                        event = json.loads(line)
                        float(event["t"])
                        yield event
                    except (ValueError, KeyError, TypeError):
                        self.bad_lines += 1
        except FileNotFoundError:
            pass

    def _vm_event(self, event, t, running):
        machine, pid = str(event.get("machine", "?")), event.get("pid")
        if event.get("what") == "start":
            running[machine, pid] = life = Life(machine, event.get("vm"), pid, t)
            self.lives.append(life)
        elif (life := running.pop((machine, pid), None)) is not None:
            life.end = t

    def _program_event(self, event, t):
        if event.get("what") == "end":
            for i, (start, end, pid) in enumerate(self.programs):
                if end is None and pid == event.get("pid"):
                    self.programs[i] = (start, t, pid)
        else:
            self.programs.append((t, None, event.get("pid")))

    # --- attempts -------------------------------------------------------------------------------

    def _read_attempts(self):
        place = os.path.join(self.folder, "attempts")
        stages = {}
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            if name.endswith(".log"):
                machine = name[:-4].rpartition("-")[0] or name[:-4]
                self._read_attempts_file(os.path.join(place, name), machine, stages)
        self.attempts.stages = [name.decode(errors="replace") for name in stages]

    def _read_attempts_file(self, path, machine, stages):
        """Lines "B stage index pid ns" and "E ...": a VM computes one element at a time."""
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
        origin = float(self.run.get("start_monotonic") or 0.0)
        table, lives, pending = self.attempts, {}, {}
        for line in lines:
            if not line:
                continue
            try:
                what, stage, index, pid, ns = line.split(b" ")
                key = stages.setdefault(stage, len(stages)) << 40 | int(index)
                pid, t = int(pid), int(ns) / 1e9 - origin
            except ValueError:
                self.bad_lines += 1
                continue
            if t > self.duration:
                self.duration = t
            if what == b"B":
                pending[pid] = len(table.begin)
                table.begin.append(t)
                table.end.append(-1.0)
                table.key.append(key)
                if pid not in lives:
                    lives[pid] = self._life_at(machine, pid, t)
                table.life.append(lives[pid])
            else:
                at = pending.pop(pid, None)
                if at is not None and table.key[at] == key:
                    table.end[at] = t
                    if what == b"X":
                        self.raised.append(at)

    def _life_at(self, machine, pid, t):
        """The number of the life that this process has, made up where no event tells of it."""
        if not hasattr(self, "_by_pid"):
            self._by_pid = {}
            for number, life in enumerate(self.lives):
                self._by_pid.setdefault((life.machine, life.pid), []).append(number)
        known = self._by_pid.setdefault((machine, pid), [])
        for number in reversed(known):
            if self.lives[number].start <= t + 1.0:  # it may begin before its start was seen
                return number
        self.lives.append(Life(machine, None, pid, t))
        known.append(len(self.lives) - 1)
        return known[-1]

    def _find_duration(self):
        """And what had no end: an attempt ends with its process, or when the next one began."""
        table, last = self.attempts, {}
        for i in range(len(table) - 1, -1, -1):
            life = table.life[i]
            if life not in last and self.lives[life].vm is None and self.lives[life].end is None:
                self.lives[life].end = max(table.end[i], table.begin[i])
            last.setdefault(life, i)
        for life in self.lives:
            if life.end is None:
                life.end = self.duration
        self.programs = [(start, end if end is not None else self.duration)
                         for start, end, _ in self.programs]
        self.faults.sort(key=lambda fault: fault.t)


def read_json(folder, name):
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            value = json.load(file)
        return value if isinstance(value, dict) else {}
    except (FileNotFoundError, ValueError):
        return {}


def classify(history):
    """Says of each attempt what it was for its element. Of those that ended the first one counts;
    what ended later was done twice; what never ended was cut off. A first end that was not the
    first begin ran again."""
    table = history.attempts
    count = len(table)
    table.kind = array("b", bytes(count))
    order = sorted(range(count), key=table.key.__getitem__)
    following = {}  # of each life, when its next attempt began
    for i in range(count - 1, -1, -1):
        if table.end[i] < 0:
            life = table.life[i]
            table.kind[i] = CUT
            end = min(following.get(life, history.lives[life].end), history.lives[life].end)
            table.end[i] = max(end, table.begin[i])
        following[table.life[i]] = table.begin[i]
    for i in history.raised:
        table.kind[i] = CUT
    at = 0
    while at < count:
        key, start = table.key[order[at]], at
        while at < count and table.key[order[at]] == key:
            at += 1
        if at - start > 1:
            classify_element(table, sorted(order[start:at], key=table.begin.__getitem__))
    set_apart(table)


def set_apart(table):
    """What is cut off because its element cannot be computed, and was made for that."""
    poisons = {number for number, name in enumerate(table.stages) if name.startswith("poison-")}
    for i in range(len(table)):
        stage, index = table.key[i] >> 40, table.key[i] & (1 << 40) - 1
        if table.kind[i] == CUT and stage in poisons and workloads.poison(index):
            table.kind[i] = FAILS


def classify_element(table, tries):
    """tries: the attempts of one element, in the order in which they began."""
    ended = [i for i in tries if table.kind[i] != CUT]
    if not ended:
        return
    counts = min(ended, key=table.end.__getitem__)
    for i in ended:
        table.kind[i] = TWICE
    table.kind[counts] = FIRST if counts == tries[0] else AGAIN
