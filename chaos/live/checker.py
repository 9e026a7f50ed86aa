# SPDX-License-Identifier: MIT
"""The verdict, from outside. It knows the input and the right answers (workloads), and reads the
program's outputs, the store by the commands that anybody has, the notes of attempts, and the
events. Each check is one promise; what was expected and seen stands in its detail.

When a result was recorded. A program is given a result only after the store has synced it, so the
time at which the first run of the program had it is one by which it was recorded; so is the end of
a `trickle results` that shows it. An attempt that begins later is one too many, unless nobody could
have stopped it:

  - Its VM could not be heard from before the record on, and runs what it had been given then, in
    the moment after it can be heard again (a stopped process, a cut cable).
  - It was given to its VM before the record, and is not taken back in time: when the recorded
    result came from another attempt, of a VM that had been taken for lost, or was held for the job
    from an earlier run. What a VM has been given it begins within two elements' time.
  - Messages take their time: GRACE_SECONDS, but only while the same run of the program goes on. A
    resumed program knows what is recorded, so for it there is no grace.
"""
import collections
import json
import statistics

from live import workloads

GRACE_SECONDS = 0.25
AWAKE_SECONDS = 2.0    # in which a VM that can be heard again may begin what it had
LATE_SECONDS = 6.0     # in which results come that a silent machine has had
SHOWN = 5              # examples in a detail
GIVEN_NS = 100_000_000


class Checks:
    def __init__(self):
        self.done = []

    def add(self, name, problems, expected):
        """problems: texts; none is what is expected."""
        problems = list(problems)
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        saw = "; ".join(problems[:SHOWN]) + more if problems else "just that"
        self.done.append({"name": name, "ok": not problems,
                          "detail": f"expected {expected}, saw {saw}"})

    @property
    def ok(self):
        return all(it["ok"] for it in self.done)


class Output:
    """What a run of the program has printed. An hour has hundreds of these, that say the same.

    texts: {line: itself}, had: {(stage, index): when a run first had it, in monotonic ns}, given:
    the tenths of seconds in which one had any; those of all runs."""

    def __init__(self, path, texts, had, given):
        self.lines = []         # without the times at which the program had the results
        self.calls = []         # lines about calls beside the work
        text = path.read_bytes().decode("utf-8", "replace")
        for line in text.split("\n")[:-1]:  # the last one was not written to its end
            if line.startswith("R "):
                line, _, ns = line.rpartition(" ")
                _, stage, index, _ = line.split(" ", 3)
                element = stage, int(index)
                had[element] = min(had.get(element, 1 << 62), int(ns))
                given.add(int(ns) // GIVEN_NS)
            line = texts.setdefault(line, line)
            (self.calls if line.startswith("C ") else self.lines).append(line)

    @property
    def is_whole(self):
        return bool(self.lines) and self.lines[-1].startswith("D ")


def judge(evidence, store, reason, stages, checks):
    """All checks of the work itself. reason: why the run ended, "" well. stages: by name."""
    checks.add("the job ends", [reason] if reason else [], "the program to end with status 0")
    texts, had, given = {}, {}, set()
    outputs = [Output(path, texts, had, given) for _, path in evidence.outputs()]
    evidence.given = [evidence.since_start(tenth * GIVEN_NS) for tenth in given]
    while len(outputs) > 1 and outputs[-2].is_whole and not outputs[-1].lines:
        outputs.pop()  # the job was done when the program was killed, and this run was told so
    final = outputs[-1] if outputs else None
    if final is not None:
        check_output(final, stages, bool(evidence.damages), checks)
        check_calls(final, checks)
        check_same(evidence, outputs, checks)
        check_store(evidence, store, final, stages, checks)
    check_attempts(evidence, final, checks)
    known = known_records(evidence, had)
    again = ran_again(evidence, known)
    checks.add("nothing recorded runs again", again, "no attempt of what had been recorded")
    check_rivals(evidence, checks)
    check_terms(evidence, checks)
    check_strangers(evidence, checks)
    return known, final


# --- the program's output ---------------------------------------------------------------------


def parse_results(lines):
    """{stage: [(index, digest or None, pid, begun, how it failed)]} in the order of the lines."""
    found = collections.defaultdict(list)
    for line in lines:
        words = line.split(" ")
        if words[0] == "R" and len(words) == 6:
            found[words[1]].append((int(words[2]), words[3], int(words[4]), int(words[5]), None))
        elif words[0] == "F":
            found[words[1]].append((int(words[2]), None, None, None, words[3]))
    return found


def check_output(output, stages, is_damaged, checks):
    """is_damaged: the store was, and what happened to elements that failed may be lost."""
    results = parse_results(output.lines)
    missing, double, wrong, order = [], [], [], []
    begun = [line.split(" ")[1] for line in output.lines if line.startswith("S ")]
    ended = [line.split(" ")[1] for line in output.lines if line.startswith("T ")]
    turns = [int(line.split(" ")[1]) for line in output.lines if line.startswith("D ")]
    if len(turns) != 1:
        missing.append(f"{len(turns)} lines that say that all is done")
    wanted = [name for name in stages
              if turns and int(name.rpartition("-")[2]) < turns[0]]
    if begun != wanted or ended != wanted:
        order.append(f"stages {begun[-3:]} began and {ended[-3:]} ended of {wanted[-3:]}")
    for name in wanted:
        stage, rows = stages[name], results.get(name, [])
        counts = collections.Counter(row[0] for row in rows)
        missing += [f"no result of {name} {index}" for index in range(stage.count)
                    if index not in counts]
        double += [f"{n} results of {name} {index}" for index, n in counts.items() if n > 1]
        for index, digest, _, _, how in rows:
            if how != UNKNOWN or not is_damaged or workloads.expected(stage, index):
                wrong += wrong_result(stage, index, digest, how)
        if stage.call != "forkgen":
            order += [f"{name} {row[0]} at place {at}" for at, row in enumerate(rows)
                      if row[0] != at]
    checks.add("each element has a result", missing, "a result for each")
    checks.add("no element has two", double, "one result for each")
    checks.add("results are right", wrong, "those of the pure function")
    checks.add("order is kept", order, "the order of the work")


UNKNOWN = "unknown"  # how an element failed

# How an element that cannot be computed has to end.
FAILURES = {"abort": ("died",), "raise": ("ValueError",), "loop": ("timeout",)}


def wrong_result(stage, index, digest, how):
    if not 0 <= index < stage.count:
        return [f"{stage.name} has no element {index}"]
    expected = workloads.expected(stage, index)
    if expected is None:
        reasons = FAILURES[workloads.poison(index)]
        # What else ended its VM counts towards the tries, so the last try may have been that.
        return [] if digest is None and how in (*reasons, "died", "timeout", "lost") else \
            [f"{stage.name} {index}: {how or digest} instead of {reasons[0]}"]
    if digest == expected:
        return []
    return [f"{stage.name} {index}: {digest or 'failed: ' + str(how)} instead of {expected}"]


def check_calls(output, checks):
    wrong = [line for line in output.calls if not line.endswith("wrong:0")]
    checks.add("calls beside the work are right", wrong, "no wrong answer of a call")


def check_same(evidence, outputs, checks):
    """Each run of the program, as far as it came, has seen what the one saw that came furthest: the
    last one or, of those before what was recorded was damaged, one of them."""
    starts = {it["number"]: it["t"] for it in evidence.programs if it["what"] != "end"}
    ages = [sum(at <= starts.get(number, 0) for at in evidence.damages)
            for (number, _), _ in zip(evidence.outputs(), outputs)]
    longest = {}
    for age, output in zip(ages, outputs):
        longest[age] = max(longest.get(age, []), output.lines, key=len)
    longest[ages[-1]] = outputs[-1].lines
    problems = []
    for number, output in enumerate(outputs[:-1]):
        final = longest[ages[number]]
        if output.lines != final[:len(output.lines)]:
            at = next((at for at, (one, other) in enumerate(zip(output.lines, final))
                       if one != other), min(len(output.lines), len(final)))
            one = output.lines[at] if at < len(output.lines) else "nothing"
            other = final[at] if at < len(final) else "nothing"
            problems.append(f"run {number}, line {at + 1}: {one!r}, elsewhere {other!r}")
    checks.add("the same before and after a resume", problems,
               "the outputs of all runs to begin like that of the last one")


# --- the store --------------------------------------------------------------------------------


def check_store(evidence, store, final, stages, checks):
    results = parse_results(final.lines)
    problems = []
    try:
        facts = store.facts()
        if (facts["state"], facts["is_closed"]) != ("done", True) or \
                facts["added"] != facts["recorded"]:
            problems.append(f"the job is {facts['state']}, {facts['recorded']} of {facts['added']}")
        for stage in store.status()["stages"]:
            name = stage["name"]
            if name not in stages:
                problems.append(f"an unknown stage {name}")
                continue
            recorded = store.results(name, evidence.dir / "results.pickle")
            problems += differences(name, results.get(name, []), recorded)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        problems.append(f"{type(error).__name__}: {error}")
    checks.add("the store holds what the program saw", problems, "the same attempts' results")


def differences(name, rows, recorded):
    """Between what the program printed and what the store gives."""
    shown = {row[0]: row[1:4] for row in rows}
    for index in shown.keys() | recorded.keys():
        value = recorded.get(index)
        if index not in recorded:
            yield f"{name} {index} is not in the store"
        elif index not in shown:
            yield f"{name} {index} is only in the store"
        elif isinstance(value, Exception):
            if shown[index][0] is not None:
                yield f"{name} {index} has failed in the store only"
        elif (value[0], workloads.digest(value[1]), *value[2:]) != (index, *shown[index]):
            yield f"{name} {index}: {workloads.digest(value[1])} of pid {value[2]} in the store, " \
                  f"{shown[index][0]} of pid {shown[index][1]} seen"


# --- attempts ---------------------------------------------------------------------------------


def check_attempts(evidence, final, checks):
    """Each result is that of an attempt which noted that it had come to its end."""
    ended = {(it.stage, it.index, it.pid, it.begun_ns) for it in evidence.attempts
             if it.ended is not None}
    problems = [] if final is None else [
        f"{stage} {row[0]} of pid {row[2]}" for stage, rows in parse_results(final.lines).items()
        for row in rows if row[1] is not None and (stage, row[0], row[2], row[3]) not in ended]
    checks.add("each result comes from an attempt", problems, "an attempt that ended, for each")


def known_records(evidence, had):
    """{(stage, index): when it was recorded at the latest, seconds}"""
    known = {element: evidence.since_start(ns) for element, ns in had.items()}
    for at, stage, indices in evidence.recorded():
        for index in indices:
            known[stage, index] = min(known.get((stage, index), at), at)
    return known


def ran_again(evidence, known):
    starts = [it["t"] for it in evidence.programs if it["what"] != "end"]
    silences = evidence.silences()
    earlier = collections.defaultdict(list)
    for attempt in evidence.attempts:
        recorded = known.get(attempt.element)
        if recorded is not None and any(recorded <= at <= attempt.begun
                                        for at in evidence.damages):
            recorded = None  # it may be lost
        if recorded is not None and attempt.begun > recorded and not is_excused(
                attempt, recorded, earlier[attempt.element], silences, starts):
            yield f"{attempt} but recorded by {recorded:.3f}"
        earlier[attempt.element].append(attempt)


def is_silent(silence, attempt):
    machine, pid, _, _ = silence
    return (machine is None or machine == attempt.machine) and pid in (None, attempt.pid)


def is_excused(attempt, recorded, earlier, silences, starts):
    """See the top of this file."""
    begun = attempt.begun
    for silence in silences:
        _, _, since, until = silence
        if since <= recorded + GRACE_SECONDS and is_silent(silence, attempt) and \
                since <= begun <= until + AWAKE_SECONDS:
            return True
        if since <= recorded <= until + LATE_SECONDS and begun <= recorded + queue_seconds(
                attempt.stage) and any(is_silent(silence, other) for other in earlier):
            return True
    if any(recorded < start <= begun for start in starts):
        return False
    return begun <= recorded + GRACE_SECONDS


def queue_seconds(stage):
    """How long an element may wait at its VM for those before it."""
    return 2 * workloads.longest(stage.rpartition("-")[0]) + GRACE_SECONDS


def check_rivals(evidence, checks):
    """Of two that resume a job at once, or of one that resumes what runs, one is refused: because
    another process has it (1) or, very early, because nothing is known yet that could be resumed
    (2)."""
    seen = {it["id"]: it for it in evidence.events if it["event"] == "rivals"}
    problems = []
    for fault in evidence.faults:
        if fault["kind"] != "initiator.twice":
            continue
        rival = seen.get(fault["id"])
        if rival is None:
            problems.append(f"nobody was refused at fault {fault['id']}")
        elif rival["status"] not in (1, 2) and not rival.get("is_ended") and \
                not (rival["is_done"] and rival["status"] == 0):
            problems.append(f"status {rival['status']} at fault {fault['id']}")
    checks.add("one of two resumes is refused", problems, "status 1 or 2 of one of them")


# How a program may end that was sent SIGTERM: stopped, with a word how to go on; at once, before it
# had its job; it was killed because it took too long; or was just done. What its disk makes of it
# while that fails is another matter.
TERM_ENDS = (75, -15, 130, -9, 0)


def check_terms(evidence, checks):
    ends = {it["pid"]: it["status"] for it in evidence.programs if it["what"] == "end"}
    bad = [(it["t"], evidence.healed.get(it["id"], evidence.end)) for it in evidence.faults
           if it["kind"].startswith("disk.")]
    problems = [f"status {ends[it['pid']]} at fault {it['id']}" for it in evidence.faults
                if it["kind"] == "initiator.term" and ends.get(it["pid"], 0) not in TERM_ENDS and
                not any(since <= evidence.healed.get(it["id"], evidence.end) and it["t"] <= until
                        for since, until in bad)]
    checks.add("SIGTERM ends the program in order", problems, "that it says how to go on")


PAST_MODES = "past the modes of directories"  # in the detail of such a fault


def check_strangers(evidence, checks):
    """Another user of the machine gets no connection, or one that is closed without a word. One
    that was ended before it began has said nothing."""
    problems = []
    for fault in evidence.faults:
        if fault["kind"] != "hostile.other_user":
            continue
        try:
            text = (evidence.dir / f"logs/hostile-{fault['id']}.log").read_text()
            told = json.loads(text) if text else {}
        except (OSError, ValueError) as error:
            problems.append(f"fault {fault['id']} has not told: {error}")
            continue
        let_in = "received_bytes" if PAST_MODES in fault["detail"] else "connections"
        if told.get(let_in, 0) > 0:
            problems.append(f"{told[let_in]} {let_in} at fault {fault['id']}")
    checks.add("another user is kept out", problems, "no connection, or no answer")


def spread(values):
    """Median and 99 % of times in s, as ms."""
    if not values:
        return {"median": None, "p99": None, "count": 0}
    ordered = sorted(values)
    return {"median": round(statistics.median(ordered) * 1000, 2), "count": len(ordered),
            "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 2)}
