# SPDX-License-Identifier: MIT
"""The options of chaos/live, and the command that repeats a run."""
import argparse
import shlex
from pathlib import Path

from live import workloads

# In the command, or apart.
NOT_REPEATED = ("seed", "dir", "build", "tidy", "list", "program", "command", "own_seconds")


def parser():
    made = argparse.ArgumentParser(
        prog="live", description="Runs a job on real VMs, makes processes die, stop and misbehave "
        "while it runs, and says whether all of Trickle's promises were kept.",
        epilog="The folder has run.json, plan.jsonl, events.jsonl, attempts/, output/, logs/ and "
        "verdict.json; docs/chaos.md explains them.")
    made.add_argument("--minutes", type=float, default=1.0, metavar="M",
                      help="how long rounds of work are begun and faults are made (default: 1)")
    made.add_argument("--seed", type=int, help="of the plan and the work (default: a fresh one)")
    made.add_argument("--workload", choices=sorted(workloads.WORKLOADS), default="mix",
                      help="what is computed (default: mix, a bit of everything)")
    made.add_argument("--elements", type=int, default=0, metavar="N",
                      help="one round of so many elements a stage, whatever time it takes")
    add_faults(made)
    add_world(made)
    return made


def add_faults(made):
    made.add_argument("--kills", type=int, metavar="N",
                      help="exactly so many SIGKILLs of VMs, spread over the work, and no faults "
                      "but those counted; needs --elements")
    made.add_argument("--initiator-kills", type=int, metavar="N",
                      help="exactly so many SIGKILLs of the program, each followed by a resume")
    made.add_argument("--only", metavar="KIND,...", help="faults of these kinds only")
    made.add_argument("--without", metavar="KIND,...", help="no faults of these kinds")
    made.add_argument("--harshness", type=float, default=1.0, metavar="X",
                      help="X times as many faults (default: 1)")


def add_world(made):
    made.add_argument("--no-network", action="store_true",
                      help="no machines with networks of their own, though they could be had")
    made.add_argument("--machines", type=int, default=2, metavar="N", help="(default: 2)")
    made.add_argument("--vms", type=int, default=2, metavar="N",
                      help="VMs per machine (default: 2)")
    made.add_argument("--dead-after", type=float, default=2.0, metavar="S",
                      help="seconds of silence after which a VM is lost (default: 2)")
    made.add_argument("--dir", type=Path, help="folder of the run (default: chaos-SEED)")
    made.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--tidy", action="store_true", help="remove the folder if all was well")
    made.add_argument("--unordered", action="store_true",
                      help="of PROGRAM: the order of the lines that it prints does not matter")
    made.add_argument("--expect", type=Path, metavar="FILE",
                      help="of PROGRAM: what it has to print; it does not run undisturbed then, "
                      "and faults are spread over the minutes")
    made.add_argument("--own-seconds", type=float, help=argparse.SUPPRESS)  # what it takes then
    made.add_argument("--command", help=argparse.SUPPRESS)  # what repeats the run
    made.add_argument("--program", nargs=argparse.REMAINDER, metavar="PROGRAM",
                      help="with its arguments: an own program instead of a workload. It runs once "
                      "undisturbed, and has to give the same under faults; the last option")
    made.add_argument("--list", action="store_true", help="show the kinds of faults and end")


def command_of(options):
    """What repeats the run."""
    if options.command:
        return options.command
    words = ["build/chaos/live", "--seed", str(options.seed)]
    usual = parser().parse_args([])
    for name, value in sorted(vars(options).items()):
        if value != getattr(usual, name, value) and name not in NOT_REPEATED:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words + (["--program", *options.program] if options.program else []))
