# SPDX-License-Identifier: MIT
"""trickle chaos: a program of the user's own, round after round under faults.

Each round is a run of chaos/live in a process of its own, in a folder of its own, with the next
seed. The first one lets the program run undisturbed before; what it printed then, and how long that
took, is what the other rounds know.
"""
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from live import main as live_main
from live import own, report
from live.machine import end_with_parent
from trickle.cli import EXIT_FAILED, EXIT_USAGE, UsageError, parse

KINDS = ("vm.kill", "vm.stop", "vm.term", "vm.drain", "vm.add", "supervisor.kill",
         "initiator.kill", "initiator.stop", "initiator.twice")
VMS = 4
EXIT_INTERRUPTED = 130

HELP = f"""\
usage: trickle chaos [OPTIONS] PROGRAM [ARGS...]
       trickle chaos --report DIR

Shows whether a program gives the same whatever happens to it. It runs once undisturbed, and then
again, as another job, while VMs are killed, stopped, drained and added, and the program itself is
killed and resumed. What it prints and the results of its works have to be the same.

It has to print the same each time it is run: no times, no process numbers. Its own effects, such as
files that it writes, happen again and again; run it where that does not matter.

  --rounds N          so many times under faults (default: 1, without end with --minutes)
  --minutes M         begin no further round when so much time is over
  --seed N            of the faults (default: a fresh one); the next round has the next one
  --expect FILE       what it has to print; it is not run undisturbed then, and the faults of a
                      round are spread over the minutes (default: 1)
  --unordered         the order of the lines that it prints does not matter
  --vms N             VMs on two machines, which are two only in name (default: {VMS})
  --harshness X       X times as many faults (default: 1)
  --only KIND,...     faults of these kinds only:
                      {", ".join(KINDS[:5])},
                      {", ".join(KINDS[5:])}
  --without KIND,...  no faults of these kinds
  --dead-after SECONDS
                      a VM that is silent for so long is lost (default: 2)
  --dir DIR           the folder for all that is known of the run (default: chaos-SEED); it has to
                      be new. Of several rounds each has a folder in it
  --report DIR        write the report of a round anew
  --help              this text

Each round leaves a folder with report.html, report.txt and what they are made of, events, logs and
stores. The last line says how it went.

Exit status: 0 all was the same, 1 it was not or the program fails by itself, 2 wrong usage, 130
interrupted.
"""

OPTIONS = {"--help": "flag", "--unordered": "flag"} | dict.fromkeys(
    ("--rounds", "--minutes", "--seed", "--expect", "--vms", "--harshness", "--only", "--without",
     "--dead-after", "--dir", "--report"), "value")


class Plan:
    """What the words of the command line say. build: where trickle and trickle-vm are."""

    def __init__(self, found, program, build):
        self.found, self.program, self.build = found, program, build
        self.minutes = number(found, "--minutes", float, None, 0.0001)
        self.rounds = number(found, "--rounds", int, None if self.minutes else 1, 1)
        self.seed = number(found, "--seed", int, random.SystemRandom().randrange(1, 10**9), 0)
        self.vms = number(found, "--vms", int, VMS, 1)
        self.machines = 2 if self.vms > 1 else 1
        number(found, "--harshness", float, 1.0, 0.01)
        number(found, "--dead-after", float, 2.0, 0.2)
        self.kinds = kinds(found)
        self.folder = Path(found["--dir"]) if "--dir" in found else \
            live_main.free_folder(f"chaos-{self.seed}")
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UsageError(f"{self.folder} is there already: remove it, or name another one with "
                             "--dir")
        self.expect = Path(found["--expect"]) if "--expect" in found else None
        if self.expect is not None and not self.expect.is_file():
            raise UsageError(f"there is no file {self.expect} to be expected")
        self.seconds = None  # that the program takes undisturbed

    def place(self, index):
        """The folder of a round."""
        return self.folder if self.rounds == 1 else self.folder / str(index + 1)

    def repeats(self, index):
        """The command that repeats a round."""
        kept = [word for name, value in self.found.items()
                if name not in ("--rounds", "--minutes", "--seed", "--dir")
                for word in ([name] if value is True else [name, value])]
        return shlex.join(["trickle", "chaos", "--seed", str(self.seed + index), *kept,
                           *self.program])

    def words(self, index):
        """The command line of chaos/live for a round."""
        made = ["--seed", self.seed + index, "--dir", self.place(index), "--build", self.build,
                "--no-network", "--machines", self.machines,
                "--vms", -(-self.vms // self.machines), "--only", ",".join(self.kinds),
                "--command", self.repeats(index)]
        for name in ("--harshness", "--dead-after"):
            made += [name, self.found[name]] if name in self.found else []
        made += ["--unordered"] if "--unordered" in self.found else []
        if self.seconds is not None:
            made += ["--own-seconds", self.seconds]
        elif self.minutes is not None:
            made += ["--minutes", self.minutes]
        if self.expect is not None:
            made += ["--expect", self.expect]
        return [str(word) for word in [*made, "--program", *self.program]]


def number(found, name, kind, usual, least):
    if name not in found:
        return usual
    try:
        value = kind(found[name])
    except ValueError:
        value = None
    if value is None or not least <= value < 1e9:
        what = "a number" if kind is float else "a whole number"
        raise UsageError(f"{name} takes {what} from {least:g} on, not {found[name]!r}")
    return value


def kinds(found):
    chosen = set(found["--only"].split(",")) if "--only" in found else set(KINDS)
    without = set(found["--without"].split(",")) if "--without" in found else set()
    unknown = sorted((chosen | without) - set(KINDS))
    if unknown:
        raise UsageError(f"there is no fault {', '.join(unknown)} here; trickle chaos --help shows "
                         "them")
    if not chosen - without:
        raise UsageError("no kind of fault is left")
    return sorted(chosen - without)


def counted(count, what):
    return f"{count} {what}" + ("" if count == 1 else "s")


def say(text):
    print(f"trickle chaos: {text}", file=sys.stderr, flush=True)


class Stopped(Exception):
    """Ctrl-C or SIGTERM."""


def stop(signum, frame):
    raise Stopped


def run_round(plan, index):
    """The verdict of a round; None: there is none, and what it said instead is in the log."""
    place = plan.place(index)
    place.mkdir(parents=True)
    live = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = f"import sys; sys.path.insert(0, {live!r}); from live.main import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *plan.words(index)], stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=end_with_parent, start_new_session=True)
    try:
        text = process.communicate()[1]
    except Stopped:
        process.send_signal(signal.SIGTERM)  # it takes all down that it has started
        process.communicate()
        raise
    (place / "logs").mkdir(exist_ok=True)
    (place / "logs/chaos.log").write_text(text, encoding="utf-8")
    try:
        return json.loads((place / "verdict.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        for line in text.splitlines()[-3:]:
            say(line.removeprefix("live: "))
        return None


def learn(plan, index):
    """What the next rounds know from this one."""
    place = plan.place(index)
    run = json.loads((place / "run.json").read_text(encoding="utf-8"))
    if plan.expect is None:
        plan.expect = place / own.UNDISTURBED
        plan.seconds = run["options"]["own_seconds"]


def carry_out(plan):
    """All rounds; the exit status."""
    since, index, faults = time.monotonic(), 0, 0
    while plan.rounds is None or index < plan.rounds:
        if index > 0 and plan.minutes is not None and time.monotonic() - since > plan.minutes * 60:
            break
        say(f"round {index + 1}, seed {plan.seed + index}" + (
            "" if plan.expect else ", after an undisturbed run"))
        verdict = run_round(plan, index)
        place = plan.place(index)
        if verdict is None:
            say(f"FAILED: round {index + 1} could not be judged; see {place}/logs")
            return EXIT_FAILED
        count = sum(verdict["totals"]["faults"].values())
        faults += count
        if not verdict["ok"]:
            for check in verdict["checks"]:
                if not check["ok"]:
                    say(f"{check['name']}: {check['detail']}")
            say(f"FAILED: round {index + 1}, {counted(count, 'fault')}; see {place}/report.html; "
                f"again: {plan.repeats(index)}")
            return EXIT_FAILED
        learn(plan, index)
        index += 1
    say(f"ok: {counted(index, 'round')} with {counted(faults, 'fault')} gave what was expected; "
        f"see {plan.place(index - 1)}/report.html")
    return 0


def command(args, build):
    found, rest = parse(args, OPTIONS)
    if "--help" in found:
        sys.stdout.write(HELP)
        return 0
    if "--report" in found:
        return report.main([found["--report"], *rest])
    if not rest:
        raise UsageError("trickle chaos needs a program: trickle chaos [OPTIONS] PROGRAM [ARGS...]")
    if not os.path.isfile(rest[0]):
        raise UsageError(f"there is no program {rest[0]}")
    plan = Plan(found, rest, build)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        return carry_out(plan)
    except Stopped:
        say(f"interrupted; what was written is in {plan.folder}")
        return EXIT_INTERRUPTED
    except OSError as error:
        say(f"{error}")
        return EXIT_USAGE
