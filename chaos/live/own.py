# SPDX-License-Identifier: MIT
"""Faults for a program of the user's own.

It runs once undisturbed, and then as another job while things go wrong. What it computes is its
own business, so what is right is what it did then: the same results of each work, by `trickle
results`, and the same output; or the output that is expected, and then it does not run undisturbed.
Faults inside of its elements, and the checks that need to know these, are left out. VMs note what
they run (TRICKLE_NOTES), for the report.
"""
import json
import shutil
import subprocess

from live import checker, evidence, figures, machine
from live.history import History

REFERENCE = "undisturbed"
SLOWER = 4.0           # so much longer may it take under faults
BASE_SECONDS = 60.0
UNKNOWN_SECONDS = 3600.0  # that it may take where nobody knows how long it takes undisturbed
FAULTS_LEAST = 10.0    # about so many there are, however short it is
UNDISTURBED = "output/undisturbed.out"
TOLD_DONE = f"[trickle: {machine.JOB} is done: ".encode()  # how `trickle resume` begins


def run_undisturbed(world, words):
    """Seconds that it took; SystemExit when it does not end well by itself."""
    since = world.now()
    with open(world.dir / UNDISTURBED, "wb") as out, world.log("undisturbed") as log:
        status = world.machines[0].popen(
            [world.build / "trickle", "run", "--job", REFERENCE, *words],
            stdout=out, stderr=log).wait()
    if status != 0:
        raise SystemExit(f"live: {words[0]} ends with status {status} even when all is well: see "
                         f"{world.dir}/logs/undisturbed.log")
    took = world.now() - since
    for path in (world.dir / "attempts").iterdir():  # of that run
        path.unlink()
    return took


def expect(world, path):
    """What it has to print is known already."""
    try:
        shutil.copyfile(path, world.dir / UNDISTURBED)
    except OSError as error:
        raise SystemExit(f"live: {path} cannot be read: {error.strerror}") from None


def use(world, words, is_unordered):
    """Makes it the world's program."""
    world.words = [world.build / "trickle", "run", "--job", machine.JOB, *words]
    world.words_new = [world.build / "trickle", "run", *words]
    world.is_unordered = is_unordered


def limit(seconds, cost):
    """By when it has to have ended under faults. seconds: that it takes undisturbed, or None; cost:
    that faults may take."""
    return BASE_SECONDS + cost + (SLOWER * seconds if seconds else UNKNOWN_SECONDS)


def lines_of(path, is_unordered):
    lines = path.read_bytes().split(b"\n")
    return sorted(lines) if is_unordered else lines


def results_of(store):
    """{work: {index: what it is}}, without which attempt it was."""
    found = {}
    for stage in store.status()["stages"]:
        rows = map(json.loads, store.ask("results", "--json", "--stage", stage["number"],
                                         store.job).splitlines())
        found[stage["key"]] = {row["index"]: {name: value for name, value in row.items()
                                              if name != "attempt"} for row in rows}
    return found


def last_output(seen):
    """Of the last run that ran the job; None: there is none. One that was killed when its job was
    done is resumed by one that only says so."""
    outputs = seen.outputs()
    while len(outputs) > 1 and outputs[-1][1].stat().st_size == 0 and TOLD_DONE in (
            seen.dir / f"logs/program-{outputs[-1][0]}.log").read_bytes():
        outputs.pop()
    return outputs[-1][1] if outputs else None


def judge(world, reason, checks):
    """The checks that can be made of any program."""
    seen = evidence.Evidence(world.dir)
    checks.add("the job ends", [reason] if reason else [], "the program to end with status 0")
    path = last_output(seen)
    if path is not None:
        wanted = lines_of(world.dir / UNDISTURBED, world.is_unordered)
        got = lines_of(path, world.is_unordered)
        at = next((at for at, (one, other) in enumerate(zip(wanted, got)) if one != other),
                  min(len(wanted), len(got)))
        checks.add("the output is the same", [] if wanted == got else [
            f"line {at + 1}: {got[at:at + 1]} instead of {wanted[at:at + 1]}"],
            "what the program prints undisturbed")
    if (world.dir / "logs/undisturbed.log").exists():
        checks.add("the results are the same", differences(world), "those of the undisturbed job")
    checker.check_rivals(seen, checks)
    return seen


def totals(world):
    """What the notes of its elements tell."""
    found = figures.totals(History(world.dir))
    return {"elements": found["elements"], "wasted_percent": round(found["wasted_percent"] or 0, 2)}


def differences(world):
    trickle = world.build / "trickle"
    try:
        one, other = (evidence.Store(world.machines[0], trickle, job)
                      for job in (REFERENCE, machine.JOB))
        wanted, got = results_of(one), results_of(other)
        facts = other.facts()
    except (RuntimeError, OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
        yield f"{type(error).__name__}: {error}"
        return
    if facts["state"] != "done" or facts["added"] != facts["recorded"]:
        yield f"the job is {facts['state']}, {facts['recorded']} of {facts['added']}"
    if wanted.keys() != got.keys():
        yield f"works {sorted(got)} instead of {sorted(wanted)}"
    for stage in wanted.keys() & got.keys():
        for index in sorted(wanted[stage].keys() | got[stage].keys()):
            before, after = wanted[stage].get(index), got[stage].get(index)
            if before != after and not (before and after and before["status"] == after["status"]
                                        != "ok"):
                yield f"{stage} {index}: {after} instead of {before}"
