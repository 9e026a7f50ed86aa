# SPDX-License-Identifier: MIT
"""How long things took: when lost elements began again, how soon a resumed program was at work,
how much work was wasted, and whether the job ended as soon as it could have.

Detection: from the loss of a VM to the moment when the element that ran on it begins on another
one. It holds all there is: noticing, assigning, and the wait until that VM is free. Losses while no
program ran, or while a network was bad, are left out: nobody was there to notice.

Waste: time of attempts whose result is not the recorded one, as part of that of all attempts. An
attempt that was ended counts until its process was gone; time in which a process was stopped, and
attempts of elements that cannot be computed, do not count.
"""
import bisect
import collections

from live import workloads
from live.checker import spread

KILLS = {"vm.kill", "vm.segv", "vm.abort"}  # what ends the process of a VM at once
STALL_SECONDS = 8.0        # beyond what an element may take, nothing at all may happen
BASE_SECONDS = 60.0        # that a job may take beside its elements
OVERHEAD_SECONDS = 0.002   # of an element, on a busy machine
SLOWER = 3.0               # so much longer than alone may elements take

# Seconds after which all is as before, once a fault is over.
RECOVERY = {"vm.kill": 3.0, "vm.term": 3.0, "vm.segv": 3.0, "vm.abort": 3.0, "vm.memory": 8.0,
            "vm.loop": workloads.TIMEOUT_SECONDS + 3.0, "vm.add": 0.0, "vm.brittle": 4.0,
            "vm.stop": 4.0, "vm.drain": 8.0, "supervisor.kill": 6.0, "initiator.kill": 6.0,
            "initiator.term": 6.0, "initiator.twice": 6.0, "initiator.stop": 8.0}
RECOVERY_OTHER = 15.0


def recovery(kind):
    return RECOVERY.get(kind, RECOVERY_OTHER)


class Gone:
    """When each process of a VM had ended: as the harness saw it or made it, at the latest."""

    def __init__(self, evidence):
        self.at = {}
        for it in evidence.events:
            if it["event"] == "vm" and it["what"] == "end":
                self.at.setdefault(it["pid"], it["t"])
        for it in evidence.faults:
            if it["kind"] in KILLS | {"vm.term"}:
                when = it.get("happened", it["t"])
                self.at[it["pid"]] = min(when, self.at.get(it["pid"], when))


def overlaps(spans, since, until):
    return any(start < until and since < end for start, end in spans)


def detection(evidence):
    """(times of killed, times of silent processes), in s."""
    unfinished, begun = collections.defaultdict(list), collections.defaultdict(list)
    for attempt in evidence.attempts:
        begun[attempt.element].append(attempt)
        unfinished[attempt.pid].append(attempt)
    absences = evidence.absences() + [(since, until) for _, pid, since, until in
                                      evidence.silences() if pid is None]
    killed, silent = [], []
    for it in evidence.faults:
        is_kill = it["kind"] in KILLS
        healed = evidence.healed.get(it["id"], evidence.end)
        if not is_kill and (it["kind"] != "vm.stop" or
                            healed - it["t"] < evidence.run["options"]["dead_after"]):
            continue
        at = it.get("happened", it["t"])
        for attempt in unfinished[it["pid"]]:
            is_running = attempt.begun <= at and (attempt.ended is None or attempt.ended > at)
            again = next((other.begun for other in begun[attempt.element]
                          if other.begun > at and other.pid != it["pid"]), None)
            if not is_running or again is None or overlaps(absences, at, again):
                continue
            if is_kill:
                killed.append(again - at)
            elif again < healed:
                silent.append(again - at)
    return killed, silent


def resumption(evidence):
    """Seconds from each resume to the first attempt or result after it that is new."""
    begins = [it.begun for it in evidence.attempts]
    ends = {it["number"]: it["t"] for it in evidence.programs if it["what"] == "end"}
    found = []
    for it in evidence.programs:
        if it["what"] == "resume":
            at = bisect.bisect_right(begins, it["t"])
            if at < len(begins) and begins[at] < ends.get(it["number"], evidence.end):
                found.append(begins[at] - it["t"])
    return found


def wasted(evidence, rows):
    """Percent of the time of all attempts. rows: of the final output, by stage."""
    counted = {(stage, row[0], row[2], row[3]) for stage, found in rows.items() for row in found}
    failed = {(stage, row[0]) for stage, found in rows.items() for row in found if row[1] is None}
    stopped = collections.defaultdict(list)
    for _, pid, since, until in evidence.silences():
        stopped[pid].append((since, until))
    gone = Gone(evidence).at
    total = useful = 0.0
    following = {}
    for attempt in reversed(evidence.attempts):  # what came next in the same process
        end = attempt.ended
        if end is None:
            end = min(gone.get(attempt.pid, evidence.end), following.get(attempt.pid, 1e12))
        following[attempt.pid] = attempt.begun
        if attempt.element in failed or end <= attempt.begun:
            continue
        took = uncovered(stopped.get(attempt.pid, ()), attempt.begun, end)
        total += took
        if (*attempt.element, attempt.pid, attempt.begun_ns) in counted:
            useful += took
    return 100 * (total - useful) / total if total else 0.0


def finished_twice(evidence):
    """How many attempts came to their end although an earlier one of their element had."""
    ends = collections.Counter(it.element for it in evidence.attempts if it.ended is not None)
    return sum(ends.values()) - len(ends)


def excuses(evidence):
    """[(from, to)]: when faults were there, or their consequences; sorted and without overlap."""
    spans = sorted((it["t"], max(evidence.healed.get(it["id"], 0), it["t"]) + recovery(it["kind"]))
                   for it in evidence.faults)
    merged = []
    for since, until in spans:
        if merged and since <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(until, merged[-1][1]))
        else:
            merged.append((since, until))
    return merged


def uncovered(spans, since, until):
    """Seconds of a time that no span covers."""
    left = until - since
    for start, end in spans:
        left -= max(min(end, until) - max(start, since), 0.0)
    return max(left, 0.0)


def stalls(evidence, known):
    """Times without any sign of progress that no fault excuses. What was recorded is given to a
    resumed program once more, which is progress, too."""
    moments = sorted([it.begun for it in evidence.attempts] + list(known.values()) +
                     evidence.given +
                     [it.ended for it in evidence.attempts if it.ended is not None])
    spans = excuses(evidence)
    for since, until in zip(moments, [*moments[1:], end_of(evidence)]):
        if until - since > STALL_SECONDS and \
                uncovered(spans, since, until) > STALL_SECONDS + workloads.LONG_SECONDS:
            yield f"nothing happened from {since:.1f} to {until:.1f} s"


def bound(stages, vms, faults_seconds, seconds):
    """By when a job has to have ended: its elements on its VMs, and what faults may have cost."""
    alone = sum(workloads.seconds(stage.kind, stage.seed, index) + OVERHEAD_SECONDS +
                stage.slow_ms / 1000 * vms
                for stage in stages for index in range(stage.count))
    poisons = sum(stage.count / workloads.POISON_PERIOD for stage in stages
                  if stage.kind == "poison") * 3 * (workloads.POISON_TIMEOUT + 3.0)
    return seconds + BASE_SECONDS + SLOWER * (alone + poisons) / vms + faults_seconds


def check(evidence, known, limit, checks):
    """Adds the checks of time."""
    checks.add("work goes on where it can", stalls(evidence, known),
               f"progress at least every {STALL_SECONDS:.0f} s beside faults")
    ended = end_of(evidence)
    checks.add("the job ends in time", [] if ended <= limit else [f"{ended:.0f} s"],
               f"an end within {limit:.0f} s")


def end_of(evidence):
    return max((it["t"] for it in evidence.programs if it["what"] == "end"), default=evidence.end)


def totals(evidence, rows):
    """What the verdict says in numbers. rows: of the final output, by stage."""
    killed, silent = detection(evidence)
    kinds = collections.Counter(it["kind"] for it in evidence.faults)
    twice = sum(it["detail"] == "by two at once" for it in evidence.faults
                if it["kind"] == "initiator.twice")
    return {"elements": sum(map(len, rows.values())), "attempts": len(evidence.attempts),
            "seconds": round(end_of(evidence), 3),
            "wasted_percent": round(wasted(evidence, rows), 2),
            "finished_twice": finished_twice(evidence), "kills_vm": kinds["vm.kill"],
            "kills_initiator": kinds["initiator.kill"] + twice,
            "faults": dict(sorted(kinds.items())),
            "detection_ms": spread(killed), "detection_silent_ms": spread(silent),
            "recovery_ms": spread(resumption(evidence))}
