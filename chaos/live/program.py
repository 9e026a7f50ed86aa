# SPDX-License-Identifier: MIT
"""The program under test: a job of rounds of stages, until its time is over.

Whatever decides what it does is a value made once, so each run of it makes the same elements and
sees the same results. It prints what it sees, a line each:

    S stage count                       a stage begins
    R stage index digest pid begun t    a result: its value's digest, the attempt's process and
                                        begin, and when the program had it (monotonic ns)
    F stage index how                   an element that failed: of what
    T stage                             a stage has ended
    C right|lost|wrong|left             how many calls beside the work ended so
    D rounds                            all is done

usage: program.py FOLDER SEED WORKLOAD DEADLINE ELEMENTS     (monotonic s; elements: 0 as usual)
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import trickle  # noqa: E402
from live import element, workloads  # noqa: E402

FLUSH_NS = 20_000_000  # lines of trivial elements may be so old when the program is killed
CONNECT_SECONDS = 120  # at times there is no VM at all
CALL_PERIOD = 10       # elements between two calls


class Counter:
    """Lives on a VM beside the work."""

    def __init__(self, start):
        self.value = start

    def add(self, n):
        self.value += n
        return self.value


def twice(x):
    return 2 * x


class Page:
    """Standard output, in lines. What the program has seen it has to print before it can be killed,
    so each is written at once, but for those of very many elements."""

    def __init__(self):
        self.lines = []
        self.due = 0
        self.may_wait = False

    def say(self, *words):
        self.lines.append(" ".join(map(str, words)))
        if not self.may_wait or time.monotonic_ns() >= self.due:
            self.flush()

    def flush(self):
        self.lines.append("")
        data = "\n".join(self.lines).encode()
        while data:
            data = data[os.write(1, data):]
        self.lines = []
        self.due = time.monotonic_ns() + FLUSH_NS


def why(failed):
    """The kind of the last run's end, in a word."""
    if failed.exception is not None:
        return type(failed.exception).__name__
    return failed.attempts[-1].outcome if failed.attempts else "unknown"


class Calls:
    """Calls, forks and a remote object, beside the work. A VM may be lost at any time; what is
    answered has to be right."""

    def __init__(self, vms):
        self.vms = vms
        self.ready = set()  # handles that know our names
        self.counts = {"right": 0, "lost": 0, "wrong": 0}

    def one(self, x):
        try:
            vm = self.vms[x % len(self.vms)]
            if vm not in self.ready:
                trickle.inject(vm, twice, Counter)
                self.ready.add(vm)
            counter = vm.Counter(x)
            given = (vm.twice(x), counter.add(2), trickle.join(trickle.fork(vm, twice, x + 1)))
            self.counts["right" if given == (2 * x, x + 2, 2 * x + 2) else "wrong"] += 1
        except (trickle.VMLost, ZeroDivisionError, IndexError):
            self.counts["lost"] += 1


class Job:
    def __init__(self, folder, seed, workload, deadline, elements):
        self.folder, self.seed, self.workload = folder, seed, workload
        self.deadline, self.elements = deadline, elements
        self.begun = time.monotonic_ns()
        self.page = Page()
        self.vms = trickle.connect(timeout=CONNECT_SECONDS)
        self.before = []  # the results of the last "first" stage

    def run(self):
        turn = 0
        while turn == 0 or trickle.once(f"round {turn}", self.has_time):
            for stage in workloads.stages(self.seed, self.workload, turn, self.elements):
                self.page.say("S", stage.name, stage.count)
                self.page.may_wait = stage.kind == "trivial"
                self.stage(stage)
                self.page.may_wait = False
                self.page.say("T", stage.name)
            turn += 1
        self.page.say("D", turn)

    def has_time(self):
        return not self.elements and time.monotonic() < self.deadline

    def inputs(self, stage, seen):
        """seen: the results of this stage that the program has had so far."""
        count = stage.count * (workloads.CHUNK if stage.kind == "chunks" else 1)
        for index in range(count):
            given = None
            if stage.kind == "second":
                given = self.before[index]
            elif stage.kind == "crawl":
                given = len(seen), seen[-1] if seen else None
            elif stage.kind == "words":
                given = f"{self.folder}/words/{stage.seed}-{index}.txt"
                if not os.path.exists(given):
                    with open(given + ".part", "w", encoding="utf-8") as file:
                        file.write(workloads.text(stage.seed, index))
                    os.rename(file.name, given)
            yield self.folder, stage.name, stage.kind, stage.seed, index, given

    def results(self, stage, seen):
        options = {"name": stage.name, "on_error": "return", "progress": False, "retries": 3,
                   "timeout": workloads.TIMEOUT_SECONDS}
        function, inputs = element.run, self.inputs(stage, seen)
        if stage.kind == "poison":
            options.update(retries=0, timeout=workloads.POISON_TIMEOUT)
        elif stage.kind == "chunks":
            options["chunksize"] = workloads.CHUNK
            function = element.run_chunk
        elif stage.kind == "twice":
            options["speculate"] = True
        if stage.call == "forkwork":
            return trickle.forkwork(self.vms, function, list(inputs), **options)
        return trickle.forkgen(self.vms, function, inputs, ordered=stage.call == "ordered",
                               **options)

    def stage(self, stage):
        calls = Calls(self.vms) if stage.kind == "beside" else None
        seen = []
        for place, result in enumerate(self.results(stage, seen)):
            self.show(stage, result)
            if stage.kind in ("first", "crawl"):
                seen.append(result)
            if not self.is_new(result):
                continue
            if calls is not None and place % CALL_PERIOD == 0:
                calls.one(place)
            if stage.slow_ms:
                time.sleep(stage.slow_ms / 1000)
        if stage.kind == "first":
            self.before = seen
        if calls is not None:
            self.page.say("C", *(f"{how}:{n}" for how, n in calls.counts.items()))

    def is_new(self, result):
        """Was it made in this run? What was recorded before does not take its time again: there may
        be an hour of it."""
        return isinstance(result, trickle.WorkFailed) or result[3] >= self.begun

    def show(self, stage, result):
        if isinstance(result, trickle.WorkFailed):
            self.page.say("F", stage.name, result.index, why(result))
            return
        index, value, pid, begun = result
        self.page.say("R", stage.name, index, workloads.digest(value), pid, begun,
                      time.monotonic_ns())


def main():
    folder, seed, workload, deadline, elements = sys.argv[1:]
    Job(folder, int(seed), workload, float(deadline), int(elements) or None).run()


if __name__ == "__main__":
    main()
