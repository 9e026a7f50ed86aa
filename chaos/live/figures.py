# SPDX-License-Identifier: MIT
"""Figures of a run, from its history: throughput, wasted work, how long losses took to be noticed.

They come from what the elements noted themselves and from when faults were made, not from what
Trickle says about itself.
"""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter

from .history import AGAIN, CUT, FAILS, FIRST, TWICE

ENDS_VM = {"vm.kill", "vm.segv", "vm.abort"}  # at once
SILENCES_VM = {"vm.stop"}
INITIATOR_ENDS = {"initiator.kill"}


def percentile(values, share):
    """The smallest value that so large a share of the values does not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, int(share * len(ordered) + 0.999999) - 1))]


def spread(seconds):
    """Times as the verdict has them: milliseconds, median and 99 %."""
    if not seconds:
        return None
    return {"median": percentile(seconds, 0.5) * 1e3, "p99": percentile(seconds, 0.99) * 1e3,
            "count": len(seconds)}


def wasted_percent(history):
    """Share of the time spent in elements that brought no result; None without any."""
    useful = wasted = 0.0
    table = history.attempts
    for i in range(len(table)):
        took = table.end[i] - table.begin[i]
        if table.kind[i] in (FIRST, AGAIN):
            useful += took
        elif table.kind[i] != FAILS:
            wasted += took
    return 100 * wasted / (useful + wasted) if useful + wasted > 0 else None


def throughput(history, bins):
    """Elements that ended in each of so many equal parts of the run, per second."""
    width = history.duration / bins
    counts = [0] * bins
    if width <= 0:
        return counts
    table = history.attempts
    for i in range(len(table)):
        if table.kind[i] not in (CUT, FAILS):
            counts[min(bins - 1, max(0, int(table.end[i] / width)))] += 1
    return [count / width for count in counts]


def ceiling(rates):
    """Where an axis of rates ends: at the highest one or, where few are far above all others, so
    that one can see the others."""
    usual = percentile([rate for rate in rates if rate > 0], 0.95) or 0
    most = max(rates, default=0)
    return most if most <= 4 * usual else 1.5 * usual


class Losses:
    """Which element ran in a process at an instant, and where it began next."""

    def __init__(self, history):
        self.table = table = history.attempts
        self.lives = history.lives
        self.of_life, self.of_key = {}, {}
        for i in range(len(table)):
            self.of_life.setdefault(table.life[i], []).append(i)
        victims = {table.key[i] for i in range(len(table)) if table.kind[i] in (CUT, TWICE, AGAIN)}
        for i in range(len(table)):
            if table.key[i] in victims:
                self.of_key.setdefault(table.key[i], []).append(i)
        self.by_pid, self.by_vm = {}, {}
        for number, life in enumerate(self.lives):
            self.by_pid.setdefault((life.machine, life.pid), []).append(number)
            self.by_vm.setdefault((life.machine, life.vm), []).append(number)

    def running(self, life, t):
        tries = self.of_life.get(life, [])
        at = bisect_right(tries, t, key=self.table.begin.__getitem__) - 1
        return tries[at] if at >= 0 and self.table.end[tries[at]] >= t else None

    def reassigned(self, fault):
        """Seconds until what the fault interrupted began elsewhere; None: nothing was, or never."""
        for life in self.by_pid.get((fault.machine, fault.pid), ()):
            victim = self.running(life, fault.t)
            if victim is not None:
                later = [self.table.begin[i] - fault.t
                         for i in self.of_key.get(self.table.key[victim], ())
                         if self.table.begin[i] > fault.t and self.table.life[i] != life]
                return min(later, default=None)
        return None

    def back(self, fault):
        """Seconds until the VM's next process began an element; None: it did not."""
        begins = [self.table.begin[tries[0]] - fault.t
                  for life in self.by_vm.get((fault.machine, fault.vm), ())
                  if (tries := self.of_life.get(life)) and self.lives[life].pid != fault.pid
                  and self.table.begin[tries[0]] > fault.t]
        return min(begins, default=None)


def times(history):
    """Name -> spread: what the table of times shows. Times are None where nothing was measured."""
    losses = Losses(history)
    killed = [f for f in history.faults if f.kind in ENDS_VM]
    silent = [f for f in history.faults if f.kind in SILENCES_VM]
    begins = sorted(history.attempts.begin)

    def measured(faults, how):
        return spread([took for fault in faults if (took := how(fault)) is not None])

    def work_again(fault):
        """After the program was ended: until an element began in the next one."""
        starts = [start for start, _ in history.programs if start > fault.t]
        at = bisect_left(begins, min(starts)) if starts else len(begins)
        return begins[at] - fault.t if at < len(begins) else None
    return {
        "VM ended: its element began elsewhere": measured(killed, losses.reassigned),
        "VM silent: its element began elsewhere": measured(silent, losses.reassigned),
        "VM ended: the VM computes again": measured(killed, losses.back),
        "program ended: work goes on": measured(
            [f for f in history.faults if f.kind in INITIATOR_ENDS], work_again),
    }


def totals(history):
    """What the verdict says, and what it does not say from the history."""
    kinds = Counter(history.attempts.kind)
    kills = Counter(fault.kind for fault in history.faults)
    found = {"elements": kinds[FIRST] + kinds[AGAIN], "attempts": len(history.attempts),
             "wasted_percent": wasted_percent(history),
             "kills_vm": kills["vm.kill"], "kills_initiator": kills["initiator.kill"]}
    given = history.verdict.get("totals")
    if isinstance(given, dict):
        found |= {name: value for name, value in given.items() if value is not None}
        found.pop("seconds", None)  # of the run: stands at its head
    return found
