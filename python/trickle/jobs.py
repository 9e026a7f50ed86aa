# SPDX-License-Identifier: MIT
"""The commands about jobs: jobs, status, why, results, cancel, rm, fsck. resume is in _resume.py.

They look from outside: at the store, for what is recorded; at the control socket of the program
that runs the job, for what is only live. Nothing here takes part in a run, so nothing here has to
be quick to import but `status`.
"""
from __future__ import annotations

import os
import sys
from time import monotonic, sleep, time

from . import _trickle
from ._job import TROUBLE, find_fsck
from ._look import ASK_SECONDS, Look
from .cli import EXIT_FAILED, UsageError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from .map_print import Recorded

CANCEL_SECONDS = 60.0
POLL_SECONDS = 0.02

HELP = {
    "jobs": """\
usage: trickle jobs [--json]

Lists the jobs there are: name, state, progress, size on the disk, and when each was started first.

  running    a program runs it
  stopped    it ended before it was done: trickle resume JOB goes on
  failed     its program ended with an error; trickle resume JOB tries again what is missing
  done       its program ended well; it is removed after 7 days unless elements of it failed
  damaged    its store does not check: trickle resume JOB saves what is good

Exit status: 0, 2 for wrong usage.
""",
    "status": """\
usage: trickle status [--json] JOB

Shows how far a job is: each of its works with progress, rate and time left; and of a running one
what runs on which VM for how long, and how its disk does.

Exit status: 0, 2 when there is no such job or for wrong usage.
""",
    "why": """\
usage: trickle why [--json] [--stage STAGE] JOB ELEMENT

Tells what happened to an element: all runs of it that are known, and what became of it. ELEMENT is
its number, from 0. With several works in the job, --stage says which: its name or number, as
trickle status shows them.

Exit status: 0, 1 when there is no such element, 2 for wrong usage.
""",
    "results": """\
usage: trickle results [--json | --pickle FILE] [--stage STAGE] JOB

Prints the recorded results of a job, a line each, in the order of elements; also while it runs.
They are unpickled here, with the program's own modules; where that cannot be they are shown raw.
Of a job of trickle map: what its commands wrote to standard output.
Those of a program in C are bytes: shown as text where they are text.

  --json         a line of JSON each: index, status ("ok", "exception", "error"), attempt, and
                 value; or repr where a value has no JSON; or pickle (base64) where it cannot be
                 unpickled; or base64, of bytes that are no text. Of commands: index, status
                 ("ok", "failed", "error"), attempt, element, outcome, why, exit_status,
                 signal, duration, cpu, stdout, stderr, ...; what is not UTF-8 as
                 stdout_base64
  --pickle FILE  writes them as a pickled dict: index -> value, of failed ones the exception
  --stage STAGE  of which work, where there are several: its name or number

Exit status: 0, 1 when something cannot be read, 2 for wrong usage.
""",
    "cancel": """\
usage: trickle cancel JOB

Stops a running job in order: its program gets KeyboardInterrupt, as by Ctrl-C (one that is not
Python's: SIGTERM). What is recorded stays, and trickle resume JOB goes on. Waits until it has
stopped.

Exit status: 0 when it has stopped, 1 when it did not run or does not stop, 2 for wrong usage.
""",
    "rm": """\
usage: trickle rm JOB...

Removes jobs and all that they recorded. A running one is left alone.

Exit status: 0 when all are removed, 1 otherwise, 2 for wrong usage.
""",
    "fsck": """\
usage: trickle fsck [--json] JOB

Reads the whole store of a job that nobody runs, and says whether it is whole. Changes nothing.

Exit status: 0 when it is whole, 1 otherwise, 2 for wrong usage.
""",
}


def look(name: str) -> Look:
    try:
        found = Look(name)
    except LookupError:
        names = _trickle.job_names()
        there = f"there are: {', '.join(names)}" if names else "there are none"
        raise UsageError(f"there is no job {name}; {there}") from None
    except TROUBLE as error:
        raise UsageError(str(error)) from None
    return found


def stage_of(job: Look, wanted: str | None) -> dict[str, Any]:
    try:
        return job.stage(wanted)
    except LookupError as error:
        raise UsageError(str(error)) from None


def words(help_text: str, args: list[str], options: dict[str, str], least: int, most: int | None,
          ) -> tuple[dict[str, Any], list[str]] | None:
    """Options and arguments of a command, which may be mixed; None: it has printed its help."""
    found: dict[str, Any] = {}
    rest: list[str] = []
    while args:
        more, args = parse(args, options | {"--help": "flag"}, found)
        found |= more
        if args:
            rest.append(args[0])
            args = args[1:]
    if "--help" in found:
        sys.stdout.write(help_text)
        return None
    if len(rest) < least or (most is not None and len(rest) > most):
        raise UsageError(f"wrong words; {help_text.splitlines()[0]}")
    return found, rest


# --- words for people -----------------------------------------------------------------------------


def print_json(value: Any, indent: int | None = 2) -> None:
    import json
    print(json.dumps(value, indent=indent))


def bytes_text(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def progress_text(recorded: int, added: int, is_closed: bool, failed: int) -> str:
    if is_closed and not added:
        return "nothing recorded"
    text = f"{recorded} of {added}{'' if is_closed else '+'}"
    if is_closed and added:
        text += f" ({100 * recorded // added} %)"
    return text + (f", {failed} failed" if failed else "")


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths)]
        print("  ".join([*cells, row[-1]]).rstrip())


# --- jobs, status ---------------------------------------------------------------------------------


def command_jobs(args: list[str]) -> int:
    got = words(HELP["jobs"], args, {"--json": "flag"}, 0, 0)
    if got is None:
        return 0
    found = []
    for name in _trickle.job_names():
        try:
            job = Look(name)
        except (LookupError, *TROUBLE):
            continue  # it was removed meanwhile
        if job.is_real:
            found.append(job)
    if "--json" in got[0]:
        print_json([job.facts() for job in found])
    elif not found:
        sys.stderr.write("trickle: there are no jobs\n")
    else:
        rows = [("NAME", "STATE", "PROGRESS", "SIZE", "STARTED")]
        for job in found:
            state = f"running ({job.info['pid']})" if job.info["is_running"] else job.state
            if job.info["is_running"] and job.info["host"] not in ("", os.uname().nodename):
                state = f"running ({job.info['pid']} on {job.info['host']})"
            started = job.run.get("first_started")
            rows.append((job.name, state, progress_text(job.recorded, job.added, job.is_closed,
                                                        job.failed),
                         bytes_text(job.info["bytes"]),
                         f"{span(max(time() - started, 0))} ago" if started else ""))
        print_table(rows)
    return 0


def stage_facts(job: Look, live: Any) -> list[dict[str, Any]]:
    """Each work: from the store, and where it is under way as its program has it."""
    works = {w["stage"]: w for w in live["works"] if w["stage"] is not None} if live else {}
    facts = []
    for stage in job.stages:
        fact = {"number": stage["number"], "key": stage["key"], "name": stage["name"],
                "added": stage["added"], "is_closed": stage["is_closed"],
                "recorded": stage["recorded"], "failed": stage["failed"],
                "bytes": stage["bytes"], "is_open": False}
        work = works.get(stage["number"])
        if work is not None:
            made = work["done"] - work["restored"]
            rate = made / work["seconds"] if work["seconds"] > 0 else 0.0
            added = max(stage["added"], work["added"])
            left = added - work["done"]
            fact |= {"is_open": True, "added": added,
                     "is_closed": stage["is_closed"] or work["is_closed"],
                     "recorded": max(stage["recorded"], work["done"]),
                     "failed": max(stage["failed"], work["failed"]),
                     "restored": work["restored"], "reissued": work["reissued"],
                     "vms": work["vms"], "seconds": work["seconds"], "rate": rate,
                     "eta": left / rate if rate > 0 and work["is_closed"] else None}
        facts.append(fact)
    return facts


def command_status(args: list[str]) -> int:
    got = words(HELP["status"], args, {"--json": "flag"}, 1, 1)
    if got is None:
        return 0
    job = look(got[1][0])
    live = job.ask("status")
    stages = stage_facts(job, live)
    if "--json" in got[0]:
        print_json(job.facts() | {"stages": stages, "vms": live["vms"] if live else [],
                                  "store": live["store"] if live else None})
        return 0
    print_status(job)
    for stage in stages:
        print_stage(stage)
    if live:
        for work in live["works"]:
            if work["stage"] is None:
                print(f"  {work['name']}: {work['done']} of {work['added']}, not recorded")
        print_live(live)
    return 0


def print_status(job: Look) -> None:
    about = {"running": job.holder(), "failed": f"exit status {job.end.get('status')}",
             "stopped": f"go on with: trickle resume {job.name}",
             "damaged": job.info["text"]}.get(job.state, "")
    print(f"{job.name}: {job.state}{f' ({about})' if about else ''}")
    if "command" in job.run:
        print(f"  {' '.join(job.run['command'])}")
    runs = f", {job.info['epoch']} runs" if job.info["epoch"] > 1 else ""
    started = job.run.get("first_started")
    if started:
        print(f"  {job.run.get('program') or 'a Python shell'}, started "
              f"{span(max(time() - started, 0))} ago{runs}, {bytes_text(job.info['bytes'])}")


def print_stage(stage: dict[str, Any]) -> None:
    text = progress_text(stage["recorded"], stage["added"], stage["is_closed"], stage["failed"])
    if stage["is_open"]:
        count = stage["vms"]
        text += f", {stage['rate']:.3g}/s on {count} VM{'' if count == 1 else 's'}"
        if stage["eta"] is not None:
            text += f", {span(stage['eta'])} left"
        if stage["reissued"]:
            text += f", {stage['reissued']} runs begun again"
    print(f"  {stage['number']}  {stage['name']}: {text}")


def print_live(live: dict[str, Any]) -> None:
    for vm in sorted(live["vms"], key=lambda vm: (vm["host"], vm["index"])):
        state = "" if vm["state"] == "leased" else f" ({vm['state']})"
        if vm["element"] is None:
            what = "waits"
        else:
            what = f"{vm['work']} {vm['element']} for {span(vm['seconds'])}"
            if vm["queued"]:
                what += f", {vm['queued']} more queued"
        print(f"  VM {vm['index']} on {vm['host']} (pid {vm['pid']}){state}: {what}")
    store = live["store"]
    if store["is_paused"]:
        print(f"  the store is paused: {store['text']}")
    elif store["syncs"]:
        each = 1000 * store["sync_seconds"] / store["syncs"]
        print(f"  {store['syncs']} syncs of {each:.1f} ms, {bytes_text(store['queued_bytes'])} "
              "on their way to the disk")


# --- why ------------------------------------------------------------------------------------------


def element_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 64:
        raise UsageError(f"an element is named by its number from 0 on, not {text!r}")
    return int(text)


def runs_of(job: Look, stage: dict[str, Any], index: int) -> list[dict[str, Any]]:
    """All runs that are known, recorded ones and those that the program remembers."""
    runs = job.view.attempts(stage["number"], index)
    seen = {(run["epoch"], run["attempt"], run["outcome"], run["pid"]) for run in runs}
    for run in job.ask("attempts", f"{stage['number']} {index}") or []:
        run["output"] = bytes.fromhex(run["output"])
        run["epoch"] = job.info["epoch"]
        if (run["epoch"], run["attempt"], run["outcome"], run["pid"]) not in seen:
            runs.append(run)
    return sorted(runs, key=lambda run: (run["epoch"], run["attempt"]))


def command_why(args: list[str]) -> int:
    got = words(HELP["why"], args, {"--json": "flag", "--stage": "value"}, 2, 2)
    if got is None:
        return 0
    found, (name, element) = got
    index = element_number(element)
    job = look(name)
    stage = stage_of(job, found.get("--stage"))
    runs = runs_of(job, stage, index)
    result = job.view.result(stage["number"], index)
    commands = None
    if job.run.get("kind") == "map":
        from .map_print import Recorded, run_text
        commands = Recorded(job, stage)
        for run in runs:
            run["text"] = run_text(run)
    is_known = index < stage["added"] or runs or result is not None
    live = None if result is not None else job.ask("status")
    running = [vm for vm in live["vms"] if vm["element"] == index
               and vm["stage"] == stage["number"]] if live else []
    if "--json" in found:
        print_json({"job": name, "stage": stage["number"], "name": stage["name"], "index": index,
                    "runs": [run | {"output": run.pop("text", None)
                                    or run["output"].decode("utf-8", "replace")} for run in runs],
                    **({"command": commands.command(index)} if commands else {}),
                    "running": running, "is_known": bool(is_known),
                    "status": None if result is None else STATUS[result[1]],
                    "attempts": None if result is None else result[2]})
    else:
        print_why(job, stage, index, runs, result, running, bool(is_known), commands)
    return 0 if is_known else EXIT_FAILED


STATUS = ("ok", "exception", "error")
FAILED_WITH_TEXT = 2  # the status of a failure whose payload is a sentence


def print_why(job: Look, stage: dict[str, Any], index: int, runs: list[dict[str, Any]],
              result: Any, running: list[dict[str, Any]], is_known: bool,
              commands: Recorded | None) -> None:
    print(f"element {index} of {stage['name']} (work {stage['number']} of {job.name})")
    if commands is not None and (line := commands.command(index)) is not None:
        print(f"  {line}")
    from ._attempts import Attempt, story
    for epoch in sorted({run["epoch"] for run in runs}):
        if job.info["epoch"] > 1:
            print(f"  in run {epoch} of the program:")
        for line in story([Attempt(run) for run in runs if run["epoch"] == epoch]):
            print(line)
    for vm in running:
        print(f"  it runs on VM {vm['index']} of {vm['host']} (pid {vm['pid']}), for "
              f"{span(vm['seconds'])}")
    if result is not None:
        _, status, attempt, payload = result
        if commands is not None:
            print("\n".join(commands.why(index, status, payload)))
        elif status == 0:
            print(f"  attempt {attempt} gave its result: {bytes_text(len(payload))}")
        else:
            print(f"  it failed, in attempt {attempt}: {failure_text(job, status, payload)}")
    elif not is_known:
        print(f"  there is no such element: {stage['added']} are known so far")
    elif not running:
        print("  it has no result yet" + ("" if job.info["is_running"] else
                                          f"; go on with: trickle resume {job.name}"))


def failure_text(job: Look, status: int, payload: bytes) -> str:
    return failure_line(job, value_of(job, status, payload))


def failure_line(job: Look, error: BaseException) -> str:
    from ._codec import first_line
    return str(error).split("\n", 1)[0] if job.is_program else first_line(error)


# --- results --------------------------------------------------------------------------------------


def results_of(job: Look, stage: dict[str, Any]) -> Iterator[tuple[int, int, int, bytes]]:
    position = (0, 0)
    while True:
        some, position = job.view.results(stage["number"], position)
        if not some:
            return
        yield from some


def use_modules_of(job: Look) -> None:
    """Values may be instances of the program's own classes."""
    program = job.run.get("program")
    if program and os.path.isabs(program) and not job.is_program:
        sys.path.insert(0, os.path.dirname(os.path.realpath(program)))


def value_of(job: Look, status: int, payload: bytes) -> Any:
    """May raise anything."""
    from ._codec import failure, loads_value
    if job.is_program:  # it has bytes, and its failures are sentences
        return payload if status == 0 else failure(FAILED_WITH_TEXT, payload)
    if status == 0:
        return _trickle.decode(payload, loads_value)
    return failure(status, payload)


def result_json(job: Look, index: int, status: int, attempt: int, payload: bytes,
                ) -> dict[str, Any]:
    line: dict[str, Any] = {"index": index, "status": STATUS[status], "attempt": attempt}
    try:
        value = value_of(job, status, payload)
    except Exception as error:
        from base64 import b64encode
        return line | {"pickle": b64encode(payload).decode(), "why": str(error)}
    if status != 0:
        return line | {"error": failure_line(job, value)}
    if job.is_program:
        from base64 import b64encode
        text = text_of(payload)
        return line | ({"value": text} if text is not None
                       else {"base64": b64encode(payload).decode()})
    return line | ({"value": value} if is_plain(value) else {"repr": repr(value)})


def text_of(payload: bytes) -> str | None:
    """What can be shown as it is, on a line; else None."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def is_plain(value: Any) -> bool:
    """Whether JSON gives back what it was."""
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(it) for key, it in value.items())
    if type(value) is list:
        return all(map(is_plain, value))
    if type(value) is float:
        return value - value == 0  # neither nan nor infinite
    return value is None or type(value) in (bool, int, str)


def result_line(job: Look, index: int, status: int, payload: bytes) -> str:
    try:
        value = value_of(job, status, payload)
        if status != 0:
            return f"{index}: failed: {failure_line(job, value)}"
        if job.is_program:
            value = text_of(payload)
            return f"{index}: {payload!r}" if value is None else f"{index}: {value}"
        return f"{index}: {value!r}"
    except Exception as error:
        return f"{index}: {len(payload)} bytes that cannot be shown ({error})"


def command_results(args: list[str]) -> int:
    options = {"--json": "flag", "--pickle": "value", "--stage": "value"}
    got = words(HELP["results"], args, options, 1, 1)
    if got is None:
        return 0
    found, (name,) = got
    if "--json" in found and "--pickle" in found:
        raise UsageError("--json and --pickle exclude each other")
    job = look(name)
    stage = stage_of(job, found.get("--stage"))
    try:
        if job.run.get("kind") == "map":
            return map_results(job, stage, found)
        use_modules_of(job)
        if "--pickle" in found:
            return write_pickle(job, stage, found["--pickle"])
        for index, status, attempt, payload in results_of(job, stage):
            if "--json" in found:
                print_json(result_json(job, index, status, attempt, payload), None)
            else:
                print(result_line(job, index, status, payload))
    except TROUBLE as error:
        sys.stderr.write(f"trickle: {error}\n")
        return EXIT_FAILED
    return 0


def map_results(job: Look, stage: dict[str, Any], found: dict[str, Any]) -> int:
    from .map_print import Recorded, print_stdout
    if "--pickle" in found:
        raise UsageError(f"{job.name} has run commands, and what they print is no Python value: "
                         "trickle results --json")
    if "--json" not in found:
        return print_stdout(job, stage)
    recorded = Recorded(job, stage)
    for result in recorded.results():
        print_json(recorded.json(*result), None)
    return 0


def write_pickle(job: Look, stage: dict[str, Any], path: str) -> int:
    import pickle
    values = {}
    for index, status, _, payload in results_of(job, stage):
        try:
            values[index] = value_of(job, status, payload)
        except Exception as error:
            sys.stderr.write(f"trickle: the result of element {index} cannot be unpickled here: "
                             f"{error}\n")
            return EXIT_FAILED
    beside = f"{path}.{os.getpid()}~"
    try:
        with open(beside, "wb") as file:
            pickle.dump(values, file, 5)
        os.replace(beside, path)
    except Exception as error:
        sys.stderr.write(f"trickle: {path} cannot be written: {error}\n")
        try:
            os.unlink(beside)
        except OSError:
            pass
        return EXIT_FAILED
    return 0


# --- cancel, rm, fsck -----------------------------------------------------------------------------


def command_cancel(args: list[str]) -> int:
    got = words(HELP["cancel"], args, {}, 1, 1)
    if got is None:
        return 0
    job = look(got[1][0])
    if not job.info["is_running"]:
        sys.stderr.write(f"trickle: nobody runs the job {job.name}: it is {job.state}\n")
        return EXIT_FAILED
    is_told = job.ask("cancel") is not None  # one that just dies may not get to answer
    holder, epoch = job.info["pid"], job.info["epoch"]
    until = monotonic() + (CANCEL_SECONDS if is_told else ASK_SECONDS)
    while monotonic() < until:
        sleep(POLL_SECONDS)
        info = job.view.info()
        if not info["is_running"] or (info["pid"], info["epoch"]) != (holder, epoch):
            return 0
    if not is_told:
        sys.stderr.write(f"trickle: the job {job.name} is run by {job.holder()}, which cannot be "
                         "reached from here; end that process\n")
        return EXIT_FAILED
    sys.stderr.write(f"trickle: the job {job.name} was told to stop, but {job.holder()} still runs "
                     "it; end that process\n")
    return EXIT_FAILED


def command_rm(args: list[str]) -> int:
    got = words(HELP["rm"], args, {}, 1, None)
    if got is None:
        return 0
    status = 0
    for name in got[1]:
        try:
            if not Look(name).remove():
                raise LookupError(f"there is no job {name}")
        except (LookupError, *TROUBLE) as error:
            sys.stderr.write(f"trickle: {error}\n")
            status = EXIT_FAILED
    return status


def command_fsck(args: list[str]) -> int:
    got = words(HELP["fsck"], args, {"--json": "flag"}, 1, 1)
    if got is None:
        return 0
    name = got[1][0]
    find_fsck()
    try:
        found = _trickle.job_check(name)
    except TROUBLE as error:
        sys.stderr.write(f"trickle: {error}\n")
        return EXIT_FAILED
    if found is None:
        look(name)  # raises when there is no such job
        found = (True, "nothing was recorded yet")
    is_whole, text = found
    if "--json" in got[0]:
        print_json({"name": name, "is_whole": is_whole, "text": text})
    else:
        print(f"{name}: {text}")
    return 0 if is_whole else EXIT_FAILED
