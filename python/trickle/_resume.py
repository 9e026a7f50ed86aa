# SPDX-License-Identifier: MIT
"""trickle resume: takes the place of the program that ran the job.

What the job's note "run" says is put together again - arguments, directory, environment, hash
seed - and executed in this process, with TRICKLE_RESUME telling the program's side (_job.py, for
programs that are not Python's src/farm/command.c) which job it is to open and how.
"""
from __future__ import annotations

import os
import sys

from . import _trickle
from ._job import TROUBLE, digests, is_kept
from .cli import (EXIT_FAILED, FARM_OPTIONS, LISTEN_OPTIONS, TIME_OPTIONS, UsageError,
                  apply_farm_options, apply_times, vm_count)
from .jobs import look, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._look import Look

HELP = """\
usage: trickle resume [OPTIONS] JOB

Goes on with a job: runs its program again, with the same arguments and hash seed, in the same
directory, and with the environment variables PATH, PYTHON*, VIRTUAL_ENV, LANG, LC_* and TZ as they
were. Of all others that differ the names are shown. What is recorded is not computed again.

  --retry-failed      elements that failed run again
  --on-change=keep    the code or a list of work has changed: equal elements keep their results
  --on-change=redo    works whose code has changed run again
  --keep-env NAME     keep the variable NAME as it is now, also for further resumes; may be repeated
  --local[=N]         start N VMs here for this run, as in trickle run
  --lan, --hosts LIST, --discovery PATH, --listen ADDR[:PORT], --insecure,
  --suspect-after SECONDS, --dead-after SECONDS, --log LEVEL
                      as in trickle run; otherwise as the job was started
  --help              this text

Exit status: the program's own; 0 also when the job is done already; 1 when it failed or another
process runs the job, 2 for wrong usage, 75 when it was stopped and can be resumed.
"""

RESUME_OPTIONS = FARM_OPTIONS | LISTEN_OPTIONS | TIME_OPTIONS | {
    "--retry-failed": "flag", "--on-change": "value", "--keep-env": "many", "--local": "maybe"}


def command_resume(args: list[str]) -> int:
    got = words(HELP, args, RESUME_OPTIONS, 1, 1)
    if got is None:
        return 0
    found, (name,) = got
    if found.get("--on-change", "keep") not in ("keep", "redo"):
        raise UsageError(f"--on-change is keep or redo, not {found['--on-change']!r}")
    asked = checked(found)
    job = look(name)
    if job.info["is_running"]:
        sys.stderr.write(f"trickle: the job {name} is run by {job.holder()}: wait for it, or stop "
                         f"it with: trickle cancel {name}\n")
        return EXIT_FAILED
    retry = "--retry-failed" in found and job.failed > 0
    if job.run.get("kind") == "map" and not retry:
        from .map_list import may_differ
        from .map_print import print_finished
        is_to_change = "--on-change" in found
        has_list = may_differ(is_to_change) or (
            is_to_change and job.run["options"].get("--arg-file", "-") != "-")
        status = None if has_list else print_finished(job)
        if status is not None:
            return status
    elif job.state == "done" and not retry:
        failed = (f", {job.failed} elements failed: --retry-failed runs them again"
                  if job.failed else "")
        sys.stderr.write(f"[trickle: {name} is done: {job.recorded} results{failed}]\n")
        return 0
    if job.info["is_damaged"]:
        run = {}  # the store has to be opened, and with that repaired, to know
    else:
        run = job.run
    if not run:
        run = recover(job)
    again(job, run, found, asked)
    return 0


def checked(found: dict[str, Any]) -> dict[str, str]:
    """The options for the farm, before this process is given up for the new one, as environment
    variables: a program that runs without the command takes them from there."""
    before = dict(os.environ)
    apply_farm_options(found)
    apply_times(found)
    asked = {name: value for name, value in os.environ.items() if before.get(name) != value}
    os.environ.clear()
    os.environ.update(before)
    if "--local" in found:
        vm_count(found["--local"])
    return asked


def recover(job: Look) -> dict[str, Any]:
    """The note "run" of a job whose store is damaged: opening saves what is good."""
    name = job.name
    job.view.close()
    try:
        opened = _trickle.Job(name, must_exist=True)
        for sentence in opened.opened()["text"].splitlines():
            sys.stderr.write(f"[trickle: {sentence}]\n")
        data = opened.get(_trickle.NOTE_JOB, "run")
        opened.close()
    except TROUBLE as error:
        raise UsageError(str(error)) from None
    if data is None:
        raise UsageError(f"how the job {name} was run is not known any more: run its program again "
                         f"with TRICKLE_JOB={name}")
    import json
    return json.loads(data)


def again(job: Look, run: dict[str, Any], found: dict[str, Any], asked: dict[str, str]) -> None:
    """Runs the program in place of this process."""
    if run["kind"] != "run" and "--local" in found:
        raise UsageError(f"the program of {job.name} is not run by trickle run, so it starts no "
                         "VMs; start some with: trickle vm")
    if run.get("is_interactive"):
        raise UsageError(f"the job {job.name} was run from a Python shell; run it there again with "
                         f"trickle.job({job.name!r})")
    environment = environment_of(run, found.get("--keep-env", []))
    environment["TRICKLE_RESUME"] = (program_text if run["kind"] == "program"
                                     else resume_text)(job.name, run, found)
    argv = list(run["argv"])
    if run["kind"] in ("run", "map"):
        options = dict(run["options"]) | {
            name: value for name, value in found.items()
            if name in FARM_OPTIONS | LISTEN_OPTIONS | TIME_OPTIONS or name == "--local"}
        argv += [run["kind"], *option_words(options), "--"]
        argv += [run["path"], *run["args"]] if run["kind"] == "run" else [
            *run["command"], *(word for source in run["sources"] for word in (":::", *source))]
    else:
        environment |= asked | {"TRICKLE_JOB": job.name}
    if job.recorded:
        sys.stderr.write(f"[trickle: {job.name} goes on: {job.recorded} results are recorded]\n")
    job.view.close()
    sys.stderr.flush()
    try:
        os.chdir(run["cwd"])
        os.execve(run["interpreter"], argv, environment)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}; the job was run there") from None


def option_words(options: dict[str, Any]) -> list[str]:
    """Options as they are typed."""
    return [name if value is True else f"{name}={value}" for name, values in options.items()
            for value in (values if isinstance(values, list) else [values])]


def kept_names(run: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return sorted({*run.get("keep_env", ()), *found.get("--keep-env", ())})


def resume_text(name: str, run: dict[str, Any], found: dict[str, Any]) -> str:
    import json
    return json.dumps({"name": name, "on_change": found.get("--on-change", "refuse"),
                       "retry_failed": "--retry-failed" in found,
                       "keep_env": kept_names(run, found)})


def program_text(name: str, run: dict[str, Any], found: dict[str, Any]) -> str:
    """The same for a program that is not Python's: words; TRICKLE_JOB has the name."""
    return " ".join([found.get("--on-change", "refuse"),
                     "retry" if "--retry-failed" in found else "-", *kept_names(run, found)])


def macs(environment: Any) -> dict[str, str]:
    """As digests, for a program that is not Python's: what its note has."""
    import hmac
    return {name: hmac.new(b"trickle env", os.fsencode(environment[name]),
                           "sha256").hexdigest()[:16] for name in digests(environment)}


def environment_of(run: dict[str, Any], keep: list[str]) -> dict[str, str]:
    """This shell's, with what is kept as it was; the names of all else that differs are shown."""
    old = run["env"]
    own = {name: value for name, value in os.environ.items()
           if name not in old and (not is_kept(name) or name in keep)}
    own |= {name: value for name, value in old.items() if name not in keep}
    own |= {name: os.environ[name] for name in keep if name in os.environ}
    now = macs(own) if run["kind"] == "program" else digests(own)
    before = run.get("others", {})
    skip = {*run.get("keep_env", ()), *keep, *old}
    differ = sorted(name for name in {*now, *before} - skip if now.get(name) != before.get(name))
    if differ:
        sys.stderr.write("[trickle: environment variables that differ from those of the job's "
                         f"start: {' '.join(differ)}]\n")
    return own
