# SPDX-License-Identifier: MIT
"""What goes wrong, when, and to whom: from the seed alone, so that a run can be had again.

A plan is a list of dicts, in order of time:

    id        a number, from 1 on
    at        seconds since the start of the run, or
    after     the part (0..1) of all elements that have ended by then
    kind      of the fault
    seconds   how long it lasts, for those that are taken back
    whom      two numbers from 0 to 1: which machine, which of its VMs, of those there are then

Each run leaves some kinds out, and prefers others: a seed that does everything all the time never
does one thing for long. Faults do not wait for each other, so they come together, too.
"""
import json
import random

QUIET_PART = 0.15    # at the end nothing new goes wrong
FIRST_SECONDS = 0.3  # and so long at the begin
ABSENT_PART = 0.25   # of the kinds that are not chosen by hand
MEAN_SECONDS = 1.6   # between two faults


def pick_kinds(rng, kinds):
    """{kind: weight}; kinds: {kind: usual weight}."""
    chosen = {kind: weight * 4 ** rng.uniform(-1, 1) for kind, weight in sorted(kinds.items())
              if rng.random() >= ABSENT_PART}
    return chosen or dict(kinds)


def make(seed, seconds, kinds, durations, harshness=1.0, is_chosen=False):
    """Faults spread over so many seconds. kinds: {kind: weight}; durations: {kind: [(low, high)]},
    one of which is drawn for each fault. is_chosen: the kinds are by hand, all of them are used."""
    rng = random.Random(f"plan {seed}")
    weights = dict(kinds) if is_chosen else pick_kinds(rng, kinds)
    items, at = [], FIRST_SECONDS
    while True:
        at += rng.expovariate(harshness / MEAN_SECONDS)
        if at >= seconds * (1 - QUIET_PART):
            break
        kind, = rng.choices(list(weights), list(weights.values()))
        items.append(item(rng, kind, durations, at=round(at, 3)))
    return numbered(items)


def make_counted(seed, counts, durations):
    """Exactly so many faults of each kind, at random points of the work."""
    rng = random.Random(f"plan {seed}")
    items = [item(rng, kind, durations, after=round(rng.uniform(0.005, 0.985), 5))
             for kind, count in sorted(counts.items()) for _ in range(count)]
    return numbered(sorted(items, key=lambda it: it["after"]))


def item(rng, kind, durations, **when):
    low, high = rng.choice(durations.get(kind, [(0.0, 0.0)]))
    return {**when, "kind": kind, "seconds": round(rng.uniform(low, high), 3),
            "whom": [round(rng.random(), 6), round(rng.random(), 6)]}


def numbered(items):
    return [{"id": number, **it} for number, it in enumerate(items, 1)]


def write(path, items):
    with open(path, "w", encoding="utf-8") as file:
        for it in items:
            file.write(json.dumps(it) + "\n")


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]
