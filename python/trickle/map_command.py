# SPDX-License-Identifier: MIT
"""trickle map: a command for each record of a list, as a durable job.

    options and words -> the form of the list -> the spec of the command -> VMs, job -> map_run

The job's note "run" holds what was typed, so that trickle resume can start this command again; the
list stands in the job's store (keep_elements). Options have the names that GNU parallel gives them
where they mean the same (docs/map.md has a table).
"""
from __future__ import annotations

import os
import sys

from . import cli
from .cli import UsageError, parse
from .map_list import Format, Given, ListError, Records, arguments
from .map_words import Fields, command_words, parse as parse_word, shell_words, shown, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .map_words import Word

MS_MAX = 0xFFFFFFFF
KEEP_DEFAULT = 16 << 20  # bytes of stdout, and of stderr
KEEP_MAX = 256 << 20  # TRK_EXEC_KEEP_MAX
RETRIES_MAX = 65534
LOCAL_VMS = ("--rai", "exec")  # VMs that run commands need no Python

HELP = """\
usage: trickle map [OPTIONS] COMMAND [ARGS...] < LIST
       trickle map [OPTIONS] COMMAND [ARGS...] ::: VALUE...

Runs a command for each line of the list on VMs, as a job: what is done is recorded, and trickle
resume goes on where it ended, however it ended. What a command prints is printed in one piece.

In COMMAND these stand for the line: {} itself, {.} without its ending, {/} its last part, {//} its
directory, {/.} its last part without ending; {#} is its number, from 1. Without any of them {} is
put at the end. COMMAND and ARGS are the words to run; COMMAND alone is split into words by the
rules of a shell, before lines are put in: whatever is in a line, it stays one argument.

the list
  -0, --null          it is cut at zero bytes, not at newlines
  --csv, --tsv        records with a header: {name} or {1} is a field; --no-header: there is none
  --jsonl             an object of JSON per line: {name} is a member
  -C, --colsep REGEX  lines are cut into fields {1}, {2}, ...; with a header: --header :
  -a, --arg-file FILE it is read from there; ::: VALUE... gives it; several :::, all combinations
  -r, --no-run-if-empty
                      empty lines are left out
  -I STRING           STRING stands for the line, and {} for nothing
the command
  --shell[=SHELL]     run it in a shell (default: /bin/sh); values are quoted for it
  --cwd DIR           run it there (default: here)
  --env NAME[=VALUE]  set this variable, or give it on as it is here; may be repeated
  --output NAME       the command makes this file, and is to write to {output} in its place: it is
                      put in place when the command has succeeded and it is not empty; NAME
                      has {} and so on, too; may be repeated: {output2}
  --check COMMAND     and when this one, in which {} is the new file, has exited with 0
  --timeout TIME      a command that takes longer is ended: seconds, or 10m, 2h, 1d
  --retries N         run a command that fails up to N times again
  --max-output SIZE   how much is kept of what a command prints, from its beginning and its end
                      (default: 16M of stdout, and of stderr)
what is printed
  -k, --keep-order    in the order of the list
  --tag               each line begins with the values of its command
  --quiet             nothing of what commands print
  --dry-run           the commands; none is run
  --joblog FILE       a table of what was run, as GNU parallel has it
  --bar               progress, also where stderr is no terminal
failures
  --fail-fast         begin nothing new when one has failed: --halt soon,fail=1
  --halt WHEN,fail=N  when N have failed; soon: wait for what runs; now: end that
the job
  --job NAME          its name (default: the command's with a number: convert-1)
  --no-checkpoint     no job: nothing is recorded
the VMs, see trickle run --help
  -j, --local[=N], --ssh LIST, --remote-trickle PATH, --lan, --hosts LIST, --listen ADDR[:PORT],
  --insecure, --suspect-after SECONDS, --dead-after SECONDS, --log LEVEL

trickle results JOB prints what they printed, trickle why JOB N tells about number N, from 0.

Exit status: 0 when all have succeeded, 1 when some have failed, 2 for wrong usage, 75 when the job
was stopped (Ctrl-C, SIGTERM, trickle cancel, nobody reads the output) or the end of its list is
not known, and it can be resumed.
"""

OPTIONS = cli.RUN_OPTIONS | {
    "--job": "value", "--no-checkpoint": "flag",
    "--null": "flag", "--csv": "flag", "--tsv": "flag", "--jsonl": "flag", "--colsep": "value",
    "--header": "value", "--no-header": "flag", "--arg-file": "value", "--no-run-if-empty": "flag",
    "-I": "value", "--shell": "maybe", "--cwd": "value", "--env": "many", "--output": "many",
    "--check": "value", "--timeout": "value", "--retries": "value", "--max-output": "value",
    "--keep-order": "flag", "--tag": "flag", "--quiet": "flag", "--dry-run": "flag",
    "--joblog": "value", "--bar": "flag", "--fail-fast": "flag", "--halt": "value"}
SHORT = {"-0": "--null", "-C": "--colsep", "-a": "--arg-file", "-r": "--no-run-if-empty",
         "-k": "--keep-order", "-j": "--local", "-I": "-I", "--jobs": "--local", "--wd": "--cwd",
         "--workdir": "--cwd"}
KINDS = ("--null", "--csv", "--tsv", "--jsonl", "--colsep")
FOR_ONE_RUN = ("--job", "--dry-run")  # not for a resume


def long_options(args: list[str]) -> list[str]:
    """args with the short and the other names of options written out: -j4, -0k, --jobs 4."""
    made: list[str] = []
    at = 0
    while at < len(args) and args[at].startswith("-") and args[at] not in ("-", "--"):
        word = args[at]
        at += 1
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > 2:
            name, equals, value = word[:2], "=", word[2:].removeprefix("=")
            if OPTIONS.get(SHORT.get(name, ""), "") == "flag":
                args[at:at] = [f"-{value}"]
                equals = ""
        taken = SHORT.get(name, name)
        needs = OPTIONS.get(taken) in ("value", "many") or name in ("-j", "--jobs")
        if needs and not equals and at < len(args):
            value, equals = args[at], "="
            at += 1
        made.append(f"{taken}={value}" if equals else taken)
    return made + args[at:]


def command(args: list[str]) -> int:
    found, rest = parse(long_options(list(args)), OPTIONS | {"--help": "flag"})
    if "--help" in found:
        sys.stdout.write(HELP)
        return 0
    plan = Plan(found, *sources_of(rest))
    if "--dry-run" in found:
        return plan.show()
    cli.apply_run_options(found)
    if "--job" in found:
        cli.check_job_name(found["--job"])
    from . import map_run
    return map_run.run(plan)


def sources_of(words: list[str]) -> tuple[list[str], list[list[str]]]:
    """The command, and the values behind each :::."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == ":::":
            parts.append([])
        elif word in ("::::", ":::+", "::::+"):
            raise UsageError(f"{word} is not known here; a file is named by -a FILE, before the "
                             "command")
        else:
            parts[-1].append(word)
    return parts[0], parts[1:]


class Plan:
    """What was typed, checked, and what it makes of the list."""

    def __init__(self, found: dict[str, Any], typed: list[str], sources: list[list[str]]) -> None:
        if not typed or (len(typed) == 1 and not typed[0].strip()):
            raise UsageError("trickle map needs a command: trickle map [OPTIONS] 'command {}' "
                             "< LIST")
        self.found = found
        self.typed = typed
        self.sources = sources
        self.form = form_of(found, sources)
        self.again = os.environ.pop("TRICKLE_RESUME", None)  # what trickle resume has to say
        self.retries = number_of(found, "--retries", 0, RETRIES_MAX)
        self.timeout_ms = seconds_of(found)
        self.keep = size_of(found)
        self.halt = halt_of(found)
        self.env = env_of(found)
        self.cwd = os.path.abspath(found.get("--cwd", "."))
        if "--check" in found and "--output" not in found:
            raise UsageError("--check looks at what --output names, and that is not given")

    @property
    def is_list_named(self) -> bool:
        """It is not standard input."""
        return bool(self.sources) or self.found.get("--arg-file", "-") != "-"

    @property
    def name(self) -> str:
        """What the job is called after: the program, without directory."""
        try:
            words = split(self.typed[0]) if len(self.typed) == 1 else self.typed
        except UsageError:
            words = self.typed[0].split()  # for a shell
        return os.path.basename(words[0]) if words else "map"

    def list(self) -> Records | Given:
        """The list that this command was given. It may have to be waited for."""
        if self.sources:
            self.form.fields.count = len(self.sources)
            return arguments(self.sources)
        path = self.found.get("--arg-file", "-")
        if path != "-":
            try:
                return Records(os.open(path, os.O_RDONLY | os.O_CLOEXEC), self.form, path)
            except OSError as error:
                raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        if os.isatty(0):
            sys.stderr.write("[trickle: the list is read from the terminal; Ctrl-D ends it]\n")
        return Records(0, self.form)

    def spec(self) -> bytes:
        """For the module "exec". The list has said how many fields there are."""
        from . import _trickle
        fields, found = self.form.fields, self.found
        outputs = found.get("--output", [])
        shell = found.get("--shell")
        if shell is not None:
            path = "/bin/sh" if shell is True else shell
            argv = shell_words(path, self.typed, fields, len(outputs))
        else:
            argv = command_words(self.typed, fields, len(outputs))
        used = {piece[1] for word in argv for piece in word
                if isinstance(piece, tuple) and piece[0] == "output"}
        for index in range(len(outputs)):
            if index not in used:
                what = "{output}" if index == 0 else f"{{output{index + 1}}}"
                raise UsageError(f"the command does not say where it writes {outputs[index]!r}: "
                                 f"put {what} in that place")
        try:
            return _trickle.exec_spec({
                "argv": argv, "cwd": os.fsencode(self.cwd), "env": self.env,
                "outputs": [parse_word(text, fields) for text in outputs],
                "check": self.check_words(shell), "timeout_ms": self.timeout_ms,
                "stdout_keep": self.keep, "stderr_keep": self.keep})
        except ValueError as error:
            raise UsageError(str(error)) from None

    def check_words(self, shell: Any) -> list[Word]:
        if "--check" not in self.found:
            return []
        text, fields = self.found["--check"], Fields()
        words = (command_words([text], fields) if shell is None else
                 shell_words("/bin/sh" if shell is True else shell, [text], fields))
        return [[piece if isinstance(piece, bytes) else ("file", *piece[1:]) for piece in word]
                for word in words]

    def show(self) -> int:
        """--dry-run."""
        from . import _trickle
        given = self.list()
        try:
            given.begin()
            spec = self.spec()
            number = 0
            while given.ready or not given.is_ended:
                while given.ready:
                    element = _trickle.exec_element(given.ready.popleft())
                    print(shown(_trickle.exec_argv(spec, element, number)))
                    number += 1
                sys.stdout.flush()
                given.fill(60)
            if given.error is not None:
                raise given.error
        except ListError as error:
            raise UsageError(str(error)) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # seen enough
        return 0

    def note(self) -> dict[str, Any]:
        """What trickle resume needs, for the job's note "run"."""
        options = {k: v for k, v in self.found.items() if k not in FOR_ONE_RUN}
        return {"kind": "map", "program": self.name, "command": self.typed, "sources": self.sources,
                "options": options}


def form_of(found: dict[str, Any], sources: list[list[str]]) -> Format:
    kinds = [kind for kind in KINDS if kind in found]
    if len(kinds) > 1:
        raise UsageError(f"{kinds[0]} and {kinds[1]} exclude each other")
    if sources and (kinds or "--arg-file" in found):
        raise UsageError("with ::: the list is what follows it: no option for the list goes with "
                         "that")
    kind = kinds[0][2:] if kinds else "lines"
    header = found.get("--header", ":")
    if header != ":":
        raise UsageError("--header takes a colon: --header :")
    if kind not in ("csv", "tsv", "colsep") and {"--header", "--no-header"} & found.keys():
        raise UsageError("only --csv, --tsv and --colsep have a header")
    has_header = "--header" in found or (kind != "colsep" and "--no-header" not in found)
    return Format(kind, has_header=has_header, colsep=found.get("--colsep", ""),
                  skip_empty="--no-run-if-empty" in found, stands=found.get("-I", "{}"))


def number_of(found: dict[str, Any], option: str, default: int, most: int) -> int:
    text = found.get(option)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > most:
        raise UsageError(f"{option} takes a number from 0 to {most}, not {text!r}")
    return int(text)


def seconds_of(found: dict[str, Any]) -> int:
    """--timeout in milliseconds; 0: none."""
    text = found.get("--timeout")
    if text is None:
        return 0
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    try:
        seconds = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        seconds = -1.0
    if not 0.001 <= seconds <= MS_MAX / 1000:
        raise UsageError(f"--timeout takes seconds, or a time as 90s, 10m, 2h, 1d; not {text!r}")
    return int(seconds * 1000)


def size_of(found: dict[str, Any]) -> int:
    """--max-output in bytes."""
    text = found.get("--max-output")
    if text is None:
        return KEEP_DEFAULT
    unit = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:].lower(), 0)
    digits = text[:-1] if unit else text
    if not digits.isascii() or not digits.isdigit() or int(digits) * (unit or 1) > KEEP_MAX:
        raise UsageError(f"--max-output takes a number of bytes, or 100k, 10M, up to 256M; not "
                         f"{text!r}")
    return int(digits) * (unit or 1)


def halt_of(found: dict[str, Any]) -> tuple[bool, int] | None:
    """--halt: (whether what runs is ended, after how many failures); None: never."""
    text = found.get("--halt", "soon,fail=1" if "--fail-fast" in found else "never")
    if text == "never":
        return None
    when, _, count = text.partition(",fail=")
    if when not in ("now", "soon") or not count.isascii() or not count.isdigit() or int(count) < 1:
        raise UsageError(f"--halt takes now,fail=N, soon,fail=N or never; not {text!r}")
    return when == "now", int(count)


def env_of(found: dict[str, Any]) -> dict[str, str]:
    made = {}
    for text in found.get("--env", []):
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--env takes NAME or NAME=VALUE, not {text!r}")
        if not equals:
            if name not in os.environ:
                raise UsageError(f"--env {name}: there is no such variable here; --env "
                                 f"{name}=VALUE sets it")
            value = os.environ[name]
        made[name] = value
    return made
