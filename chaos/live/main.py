# SPDX-License-Identifier: MIT
"""chaos/live: a job on real VMs, under faults, and a verdict.

Exit status: 0 all promises were kept, 1 one was not (the folder says which), 2 wrong usage, 130
interrupted.
"""
import collections
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from live import (checker, evidence, faults, leftovers, machine, own, plan, run, times,
                  workloads)
from live.options import command_of, parser

FOLDERS = ("attempts", "logs", "output", "recorded", "words", "traps/set", "traps/of",
           "traps/sprung")
PROGRAM_FILES = ("__init__.py", "program.py", "element.py", "workloads.py")
MIX_SECONDS = 15.0  # in which the last round of stages may still begin
TURNS_MAX = 100_000
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def chosen_kinds(options, usage):
    classes, weights, lasting = faults.all_kinds()
    only = set(options.only.split(",")) if options.only else set(classes)
    without = set(options.without.split(",")) if options.without else set()
    unknown = (only | without) - set(classes)
    if unknown:
        usage.error(f"there is no fault {', '.join(sorted(unknown))}; --list shows them")
    return classes, {kind: weights[kind] for kind in only - without}, lasting


def make_plan(options, world, classes, weights, lasting):
    """The items; kinds that this world cannot have are said and left out."""
    able = {"vm", "initiator"} | {need for need in ("network", "disk") if getattr(world, need)}
    if not options.program:
        able.add("traps")
    if os.getuid() == 0:
        able.add("second_user")
    left_out = sorted(kind for kind in weights if not set(classes[kind].needs) <= able)
    if left_out:
        say(f"left out, because they cannot be had here: {', '.join(left_out)}")
    weights = {kind: weight for kind, weight in weights.items() if kind not in left_out}
    lasting = {**lasting, **faults.durations(options.dead_after)}
    if options.kills is not None or options.initiator_kills is not None:
        # The program comes back at once: it is its losses that are counted here.
        return plan.make_counted(options.seed, {"vm.kill": options.kills or 0, "initiator.kill":
                                                options.initiator_kills or 0},
                                 {"initiator.kill": [(0.0, 0.1)]})
    if not weights:
        return []
    seconds, harshness = options.minutes * 60, options.harshness
    if options.own_seconds:
        seconds = options.own_seconds
        harshness *= max(1.0, own.FAULTS_LEAST * plan.MEAN_SECONDS / seconds)
    return plan.make(options.seed, seconds, weights, lasting, harshness,
                     is_chosen=options.only is not None)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


def interrupt(number, frame):
    raise Interrupted


def make_world(options):
    """The folder and the machines in it, with VMs that wait."""
    if options.dir.exists() and any(options.dir.iterdir()):
        raise SystemExit(f"live: {options.dir} is there already: remove it, or name another folder "
                         "with --dir")
    for name in FOLDERS:
        (options.dir / name).mkdir(parents=True, exist_ok=True)
    return machine.World(options.dir.resolve(), options.build, options.seed, options.dead_after)


def make_network(world, options):
    """Machines with namespaces of their own, where this user can have them. None: not."""
    network = faults.optional("network")
    if network is None or options.no_network:
        return None
    if network.why_none():
        say(f"no machines of their own: {network.why_none()}")
        return None
    return network.Network(options.machines, options.seed, world.dir / "machines")


def make_machines(world, options):
    world.network = make_network(world, options)
    if world.network is not None:
        world.network.share_key()
        for it in world.network.machines:
            world.machines.append(machine.Machine(
                world, it.name, it.path("state"), it.path("run"),
                {**it.env, "TRICKLE_LAN": "1"}, it.pid, ["--lan"]))
    else:
        runtime = tempfile.mkdtemp(prefix="trk-chaos-")  # short: names of sockets have to fit
        world.runtimes.append(runtime)
        for number in range(options.machines):
            world.machines.append(machine.Machine(world, f"m{number}",
                                                  world.dir / f"state/m{number}", runtime))
    for room in (faults.optional("shim"), faults.optional("disk")):
        if room is not None:
            room.attach(world)
    for it in world.machines:
        if options.program:
            it.env["TRICKLE_NOTES"] = f"{world.dir}/attempts/{it.name}"
        else:
            it.vm_options += ["--memory-limit", machine.MEMORY_LIMIT]
        it.start_supervisor(options.vms)
    for it in world.machines:
        it.supervisors[0].wait_ready()


def revision():
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"],
                          cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write_run(world, options):
    kept = {name: str(value) if isinstance(value, Path) else value
            for name, value in vars(options).items()}
    text = {"version": 1, "seed": options.seed, "minutes": options.minutes,
            "workload": options.workload, "revision": revision(),
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "start_monotonic": world.start, "options": kept, "command": command_of(options)}
    (world.dir / "run.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def stages_of(options, turns):
    """All stages of so many rounds: {name: stage}"""
    return {stage.name: stage for turn in range(turns) for stage in workloads.stages(
        options.seed, options.workload, turn, options.elements or None)}


def turns_of(folder):
    """How many rounds the program has begun, in any of its runs."""
    last = 0
    for path in (folder / "output").glob("program-*.out"):
        with open(path, encoding="utf-8", errors="replace") as file:
            last = max([last, *(int(line.split()[1].rpartition("-")[2]) for line in file
                                if line.startswith("S ") and line.count(" ") == 2)])
    return min(last + 1, TURNS_MAX)


def limit_of(options, items, turns):
    """Seconds by which the job has to have ended."""
    cost = sum(it["seconds"] + times.recovery(it["kind"]) for it in items)
    stages = stages_of(options, turns).values() if options.elements else \
        stages_of(options, 2).values()  # of rounds only the last one is not within the minutes
    seconds = 0 if options.elements else options.minutes * 60
    return times.bound(list(stages), max(options.machines * options.vms // 2, 1), cost, seconds)


def carry_out_own(world, options, items):
    own.use(world, options.program, options.unordered)
    cost = sum(it["seconds"] + times.recovery(it["kind"]) for it in items)
    return run.Run(world, items, 0, own.limit(options.own_seconds, cost)).go()


def copy_program(world):
    """Into the folder: so that nothing changes under a run, and it can be looked into later."""
    place = world.dir / "program/live"
    place.mkdir(parents=True)
    for name in PROGRAM_FILES:
        shutil.copy(Path(__file__).with_name(name), place)
    return place / "program.py"


def carry_out(world, options, items):
    """The sentence that says why the run ended, "" well."""
    if options.program:
        return carry_out_own(world, options, items)
    seconds = options.minutes * 60
    deadline = world.start + max(seconds - min(MIX_SECONDS, seconds / 3), 0)
    world.words = [options.build / "trickle", "run", "--job", machine.JOB,
                   copy_program(world), world.dir, options.seed,
                   options.workload, deadline, options.elements]
    world.words_new = [sys.executable, *world.words[4:]]
    total = sum(stage.count for stage in stages_of(options, 1).values())
    return run.Run(world, items, total, limit_of(options, items, 1)).go()


def judge(world, options, items, reason, left, checks):
    """The verdict; the machines are still there, but nothing runs on them."""
    if options.program:
        seen = own.judge(world, reason, checks)
        totals = {**times.totals(seen, {}), **own.totals(world)}
    else:
        seen, totals = judge_work(world, options, items, reason, checks)
    leftovers.check_processes(left, checks)
    # A program that is killed leaves its control socket to its next run.
    leftovers.check_sockets([] if reason else [it.runtime for it in world.machines], checks)
    leftovers.check_growth(seen.samples, checks)
    check_sessions(world, checks)
    return {**totals, "planned": len(items)}


def judge_work(world, options, items, reason, checks):
    seen = evidence.Evidence(world.dir)
    store = evidence.Store(world.machines[0], options.build / "trickle", machine.JOB)
    turns = turns_of(world.dir)
    known, final = checker.judge(seen, store, reason, stages_of(options, turns), checks)
    rows = checker.parse_results(final.lines) if final else collections.defaultdict(list)
    times.check(seen, known, limit_of(options, items, turns), checks)
    return seen, times.totals(seen, rows)


def check_sessions(world, checks):
    if world.network is not None:
        try:
            problems = [] if world.network.tls_connections() else ["none"]
        except RuntimeError as error:
            problems = [str(error)]
        checks.add("machines talk by TLS", problems, "TCP connections with TLS, and no others")


def descriptor_count():
    return len(os.listdir("/proc/self/fd"))


def perform(options, usage):
    """A whole run: its verdict."""
    classes, weights, lasting = chosen_kinds(options, usage)
    shared, descriptors = leftovers.shared_memory(), descriptor_count()
    world, checks = make_world(options), checker.Checks()
    try:
        make_machines(world, options)
        if options.expect:
            own.expect(world, options.expect)
        elif options.program:
            options.own_seconds = own.run_undisturbed(world, options.program)
        items = make_plan(options, world, classes, weights, lasting)
        plan.write(world.dir / "plan.jsonl", items)
        world.start = time.monotonic()
        write_run(world, options)
        reason = carry_out(world, options, items)
        world.stop_processes()
        left = leftovers.wait_processes(world.dir)
        totals = judge(world, options, items, reason, left, checks)
    finally:
        take_down(world)
    leftovers.check_own(shared, (descriptors, descriptor_count()), checks)
    verdict = {"ok": checks.ok, "checks": checks.done, "totals": totals}
    (world.dir / "verdict.json").write_text(json.dumps(verdict, indent=1) + "\n",
                                            encoding="utf-8")
    return verdict


def take_down(world):
    """Whatever happened: at once, and nothing of the run stays but its folder."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    world.stop_processes([signal.SIGKILL])
    left = leftovers.wait_processes(world.dir, 1.0)
    for pid in left:
        machine.send(pid, signal.SIGKILL)
    if world.disk is not None:
        world.disk.close()
    if world.controls:
        faults.optional("shim").detach(world)
    if world.network is not None:
        world.network.close()
    world.close()
    for folder in world.runtimes:
        shutil.rmtree(folder, ignore_errors=True)


def show(verdict):
    for it in verdict["checks"]:
        if not it["ok"]:
            say(f"FAILED  {it['name']}: {it['detail']}")
    totals = verdict["totals"]
    if totals["attempts"]:
        say(f"{totals['elements']} elements, {totals['attempts']} attempts, "
            f"{totals['wasted_percent']} % of the work wasted, {totals['seconds']:.0f} s")
    say("faults: " + (", ".join(f"{n} {kind}" for kind, n in totals["faults"].items()) or "none"))
    for name, what in (("detection_ms", "killed: begins again elsewhere"),
                       ("detection_silent_ms", "silent: begins again elsewhere"),
                       ("recovery_ms", "program resumed: next new element")):
        if totals[name]["count"]:
            say(f"{what}: median {totals[name]['median']} ms, 99 % {totals[name]['p99']} ms, "
                f"{totals[name]['count']} times")


def free_folder(name):
    """This one, or with a number behind."""
    path, number = Path(name), 1
    while path.exists():
        number += 1
        path = Path(f"{name}-{number}")
    return path


def report(folder):
    """The page and the picture, where that room is there."""
    room = faults.optional("report")
    if room is not None:
        room.write(folder)


def main(words=None):
    usage = parser()
    options = usage.parse_args(words)
    if options.list:
        print("\n".join(sorted(faults.all_kinds()[0])))
        return 0
    if (options.kills is not None or options.initiator_kills is not None) and not options.elements:
        usage.error("--kills and --initiator-kills are spread over --elements")
    if options.minutes <= 0 or options.elements < 0 or min(options.machines, options.vms) < 1:
        usage.error("minutes, machines and VMs are positive numbers")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1, 10**9)
    options.dir = (options.dir or free_folder(f"chaos-{options.seed}")).absolute()
    options.build = (options.build or Path(os.environ["TRICKLE_BUILD"])).resolve()
    sys.path.insert(0, str(options.build / "python"))  # values of the store are unpickled here
    for number in INTERRUPTS:
        signal.signal(number, interrupt)
    say(f"seed {options.seed}, {options.workload}, folder {options.dir}")
    try:
        verdict = perform(options, usage)
    except Interrupted:
        say(f"interrupted; all was ended, and what was written is in {options.dir}")
        return 130
    report(options.dir)
    show(verdict)
    if not verdict["ok"]:
        say(f"NOT OK: what is known is in {options.dir}; again: {command_of(options)}")
        return 1
    say("ok: all promises were kept")
    if options.tidy:
        shutil.rmtree(options.dir)
    return 0
