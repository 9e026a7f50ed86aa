# SPDX-License-Identifier: MIT
"""What the benchmarks share: two VMs of their own, runs in turn, medians, ratios.

Every figure is a ratio to an alternative measured in the same run, ours and the alternatives in
turn, several rounds; the ratio of a round compares neighbours, so that what else the machine does
matters less. Speeds are compared as rates: an alternative may be given a part of the work
(--scale) where all of it would take minutes.
"""
import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("TRICKLE_BUILD", ROOT / "build")).resolve()
VMS = 2

sys.path.insert(0, str(BUILD / "python"))


def rate(count, function):
    """Runs function once: things per second when it does count things."""
    start = time.perf_counter()
    function()
    return count / (time.perf_counter() - start)


class Bench:
    """One benchmark run: its options, and the rows of its table."""

    def __init__(self, description):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
        parser.add_argument("--scale", type=float, default=0.1,
                            help="part of the work that slow alternatives are given (0.1)")
        parser.add_argument("--quick", action="store_true",
                            help="a hundredth of everything, once: does it run at all?")
        parser.add_argument("--json", action="store_true", help="rows as JSON, for run_all")
        self.options = parser.parse_args()
        if self.options.quick:
            self.options.rounds = 1
        self.rows = []
        self.runtime = tempfile.mkdtemp(prefix="trk-bench-")
        os.environ["TRICKLE_RUNTIME"] = self.runtime
        self.home = os.environ["TRICKLE_HOME"] = tempfile.mkdtemp(prefix="trk-bench-home-")

    def size(self, count):
        return max(count // 100, 1) if self.options.quick else count

    def scaled(self, count):
        return max(int(self.size(count) * self.options.scale), 1)

    def start_vms(self):
        from trickle.cli import trickle_vm, vm_environment
        from trickle.local import LocalVMs
        vms = LocalVMs(trickle_vm(), VMS, vm_environment())
        assert vms.wait_listening(), "the VMs did not start"

    def compare(self, what, unit, ours, others, smaller_is_better=False):
        """ours: a function that measures once and returns a number; others: name -> (such a
        function, what the ratio should be at least, or None). A ratio over 1 means that Trickle
        does better."""
        functions = {"trickle": ours} | {name: function for name, (function, _) in others.items()}
        seen = {name: [] for name in functions}
        for _ in range(self.options.rounds):
            for name, function in functions.items():
                seen[name].append(function())
                self.say(f"{what}: {name}: {seen[name][-1]:,.4g} {unit}")
        self.add(what, unit, seen, {name: target for name, (_, target) in others.items()},
                 smaller_is_better)

    def add(self, what, unit, seen, targets, smaller_is_better=False):
        """seen: name -> what was measured, round by round, "trickle" among them; targets: the
        others, with what the ratio should be."""
        for name, target in targets.items():
            pairs = zip(seen["trickle"], seen[name])
            ratios = [b / a if smaller_is_better else a / b for a, b in pairs]
            self.rows.append({"what": what, "unit": unit, "ours": spread(seen["trickle"]),
                              "other": name, "theirs": spread(seen[name]),
                              "ratio": spread(ratios), "target": target})

    def limit(self, what, unit, ours, limit):
        """A figure with a limit of its own: the ratio is limit to ours."""
        seen = [ours() for _ in range(self.options.rounds)]
        self.rows.append({"what": what, "unit": unit, "ours": spread(seen), "other": "the limit",
                          "theirs": (limit, limit, limit),
                          "ratio": spread([limit / value for value in seen]), "target": 1})

    def spread(self, what, unit, values, limit):
        """Many values with a limit: their median, and what 99 % of them do not exceed."""
        ordered = sorted(values)
        for name, value in (("median", statistics.median(ordered)),
                            ("99 %", ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)])):
            self.say(f"{what}: {name} of {len(ordered)}: {value:.3g} {unit}")
            self.rows.append({"what": f"{what}, {name}", "unit": unit,
                              "ours": (value, ordered[0], ordered[-1]), "other": "the limit",
                              "theirs": (limit, limit, limit),
                              "ratio": (limit / value, limit / ordered[-1], limit / ordered[0]),
                              "target": 1})

    def say(self, text):
        if not self.options.json:
            print(text, file=sys.stderr)

    def finish(self):
        print(json.dumps(self.rows) if self.options.json else table(self.rows))
        shutil.rmtree(self.home, ignore_errors=True)
        if not os.listdir(self.runtime):
            shutil.rmtree(self.runtime, ignore_errors=True)


def spread(values):
    return statistics.median(values), min(values), max(values)


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows):
    """Median and range of ours, theirs and the ratio."""
    lines = [("what", "unit", "trickle", "beside", "", "ratio", "wanted")]
    for row in rows:
        show = {name: f"{number(row[name][0])} ({number(row[name][1])}..{number(row[name][2])})"
                for name in ("ours", "theirs", "ratio")}
        wanted = "" if row["target"] is None else ">= " + number(row["target"])
        if row["target"] is not None:
            wanted += "  yes" if row["ratio"][0] >= row["target"] else "  NO"
        lines.append((row["what"], row["unit"], show["ours"], row["other"], show["theirs"],
                      show["ratio"], wanted))
    widths = [max(len(line[i]) for line in lines) for i in range(7)]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, widths)).rstrip()
                     for line in lines)
