# SPDX-License-Identifier: MIT
"""The trickle command.

It must be quick: a two-line program should not wait for its farm. So options are parsed by hand
(argparse costs 10 ms), modules are imported where they are needed, and the VMs of --local come
up while the package is imported and the program is compiled.

The program runs in this process as a fresh module __main__, as if Python itself had been given
it, with the names of the paper in its globals. What is not caught in it goes up through here to
the interpreter, which knows best how to end (SystemExit, SIGINT, flushing); excepthook() only
leaves out the frames that are ours.
"""
import os
import sys

PACKAGE = os.path.dirname(os.path.abspath(__file__))
AT_HAND = ("connect", "inject", "fork", "join", "joinany", "forkwork", "forkgen", "fetch", "same")
LOG_LEVELS = ("error", "warn", "info", "debug")
EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 75
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as of a shell
JOB_COMMANDS = ("jobs", "status", "why", "results", "cancel", "rm", "fsck")

HELP = """\
usage: trickle PROGRAM [ARGS...]
       trickle run [OPTIONS] PROGRAM [ARGS...]
       trickle map [OPTIONS] COMMAND [ARGS...] < LIST
       trickle resume [OPTIONS] JOB
       trickle jobs | status JOB | why JOB ELEMENT | results JOB
       trickle cancel JOB | rm JOB... | fsck JOB
       trickle vm [OPTIONS]
       trickle vms [OPTIONS]
       trickle drain [OPTIONS] VM...
       trickle key new | show | import | rotate | finish
       trickle chaos [OPTIONS] PROGRAM [ARGS...]

Runs Python functions and commands on the VMs of this machine and of the network.

  trickle PROGRAM   run a program; connect, inject, fork, join, joinany, forkwork, forkgen,
                    fetch and same are at hand in it
  trickle run       the same with options; --local brings its own VMs
  trickle map       run a command for each line of a list
  trickle resume    go on with a job that was stopped, or failed, however it ended
  trickle jobs      list the jobs there are: each run of a program is one
  trickle status    how far a job is, and what runs where
  trickle why       what happened to an element of a job
  trickle results   what is recorded of a job
  trickle cancel    stop a running job; it can be resumed
  trickle rm        remove jobs and what they recorded
  trickle fsck      check the store of a job
  trickle vm        start VMs on this machine, or with --ssh on others
  trickle vms       list the VMs that answer
  trickle drain     let VMs finish what they run, then end them
  trickle key       the key that makes machines one farm
  trickle chaos     does a program give the same while VMs and it itself are killed?

Each command has --help. trickle --version prints the version.
"""

HELP_RUN = """\
usage: trickle run [OPTIONS] PROGRAM [ARGS...]

Runs a Python program with connect, inject, fork, join, joinany, forkwork, forkgen, fetch and
same at hand. A file that has the name of a command is run as ./NAME. The run is a job: results of
forkwork and forkgen are recorded, and trickle resume goes on where it ended, however it ended.

  --job NAME      the job's name (default: the program's with a number: prog-1)
  --no-checkpoint no job: nothing is recorded
  --keep-env NAME restore this environment variable too in trickle resume; may be repeated
  --local[=N]     start N VMs here for this run (default: one per core); only these are used,
                  and they end with the run
  --ssh LIST      start VMs on these machines for this run: HOST,...; they end with it
  --remote-trickle PATH
                  where trickle is there (default: on the PATH there)
  --lan           look for VMs on the local network too; needs a key: trickle key new
  --hosts LIST    look for VMs at these addresses: HOST:PORT,...
  --discovery PATH
                  look for VMs by this discovery module of others, too: a shared object
  --listen ADDR[:PORT]
                  let VMs join that connect to here (trickle vm --join), from where nobody can
                  connect to; needs a key, too
  --insecure      allow plain TCP to other hosts: anyone on the way can read and change all
  --suspect-after SECONDS
                  a VM that is silent for so long gets nothing new (default: 2)
  --dead-after SECONDS
                  a VM that is silent for so long is lost: its work goes to others (default: 10)
  --log LEVEL     error, warn (default), info or debug
  --help          this text

Exit status: the program's own; 1 when it failed, 2 for wrong usage, 75 when the job was stopped
(Ctrl-C, SIGTERM, trickle cancel) and can be resumed.
"""

HELP_VM = """\
usage: trickle vm [OPTIONS]
       trickle vm --ssh HOST... [--remote-trickle PATH] [OPTIONS]
       trickle vm --sandbox [DIR...] [OPTIONS]

  --ssh HOST...         start the VMs on these machines, by ssh; they end with this command
  --remote-trickle PATH where trickle is there (default: on the PATH there)
  --sandbox [DIR...]    VMs see the file system read-only but for these directories, an empty
                        /tmp and no other processes; needs bubblewrap

trickle vm is trickle-vm with the Python of this command; it knows:

"""

HELP_VMS = """\
usage: trickle vms [OPTIONS]

Lists the VMs that answer: host, pid, Python, state and whose they are.

  --json          one JSON list with all that is known of each VM
  --lan           ask on the local network too
  --hosts LIST    ask at these addresses too: HOST:PORT,...
  --discovery PATH
                  ask this discovery module of others too: a shared object
  --insecure      allow plain TCP to other hosts
  --log LEVEL     error, warn (default), info or debug
  --help          this text

Exit status: 0 when there is a VM, 1 when none answered, 2 for wrong usage.
"""


HELP_DRAIN = """\
usage: trickle drain [OPTIONS] VM...

Lets VMs finish what they run, give the rest back to their program, and end. VM is the pid that
trickle vms shows, or HOST:PID. The program goes on with its other VMs; remote objects move there
where they can.

  --lan           ask on the local network too
  --hosts LIST    ask at these addresses too: HOST:PORT,...
  --discovery PATH
                  ask this discovery module of others too: a shared object
  --insecure      allow plain TCP to other hosts
  --log LEVEL     error, warn (default), info or debug
  --help          this text

Exit status: 0 when all of them are leaving, 1 when one was not found or did not answer, 2 for wrong
usage.
"""


class UsageError(Exception):
    """Wrong words on the command line; the message is a sentence for the person who typed them."""


def parse(args, options, before=None):
    """Takes options from the front of args. options: name -> "flag", "value", "many" (values, a
    list) or "maybe" (a value only as --name=value). Returns ({name: True or text}, what is left).
    before: what was found in front of these."""
    found = dict(before or {})
    at = 0
    while at < len(args) and args[at].startswith("-") and args[at] != "-":
        name, equals, value = args[at].partition("=")
        at += 1
        if name == "--":
            break
        if name == "-h":
            name = "--help"
        kind = options.get(name)
        if kind is None:
            raise UsageError(f"there is no option {name} here")
        if kind == "flag" and equals:
            raise UsageError(f"the option {name} takes no value")
        if kind in ("value", "many") and not equals:
            if at == len(args):
                raise UsageError(f"the option {name} needs a value")
            value, equals = args[at], "="
            at += 1
        if kind == "many":
            found[name] = [*found.get(name, ()), value]
        else:
            found[name] = value if equals else True
    return found, args[at:]


FARM_OPTIONS = {"--help": "flag", "--lan": "flag", "--insecure": "flag", "--hosts": "value",
                "--discovery": "value", "--log": "value"}
LISTEN_OPTIONS = {"--listen": "value"}
TIME_OPTIONS = {"--suspect-after": "value", "--dead-after": "value"}
RUN_OPTIONS = FARM_OPTIONS | LISTEN_OPTIONS | TIME_OPTIONS | {
    "--local": "maybe", "--ssh": "value", "--remote-trickle": "value"}
JOB_OPTIONS = {"--job": "value", "--no-checkpoint": "flag", "--keep-env": "many"}


def apply_farm_options(found):
    """What the options of run and vms have in common goes to the C side by its environment."""
    if "--log" in found:
        if found["--log"] not in LOG_LEVELS:
            raise UsageError(f"--log takes one of {', '.join(LOG_LEVELS)}, not {found['--log']!r}")
        os.environ["TRICKLE_LOG"] = found["--log"]
    if "--lan" in found:
        os.environ["TRICKLE_LAN"] = "1"
    if "--insecure" in found:
        os.environ["TRICKLE_INSECURE"] = "1"
    if "--hosts" in found:
        os.environ["TRICKLE_HOSTS"] = found["--hosts"]
    if "--discovery" in found:
        os.environ["TRICKLE_DISCOVERY"] = os.path.abspath(found["--discovery"])
    if "--listen" in found:
        os.environ["TRICKLE_LISTEN"] = found["--listen"]


def apply_times(found):
    """How long a VM may be silent."""
    seconds = {}
    for option in ("--suspect-after", "--dead-after"):
        text = found.get(option)
        if text is not None:
            try:
                seconds[option] = float(text)
            except ValueError:
                seconds[option] = -1.0
            if not 0.1 <= seconds[option] <= 1e6:
                raise UsageError(f"{option} takes a number of seconds from 0.1 on, not {text!r}")
            os.environ["TRICKLE" + option.upper().replace("-", "_")[1:]] = text
    if len(seconds) == 2 and seconds["--suspect-after"] > seconds["--dead-after"]:
        raise UsageError("--suspect-after is more than --dead-after")


def trickle_vm():
    """The path of the program trickle-vm that belongs to this package: in the build directory or
    the prefix that the package is in, else the one on PATH."""
    place = os.path.dirname(PACKAGE)
    while place != "/":
        place = os.path.dirname(place)
        for path in (place + "/trickle-vm", place + "/bin/trickle-vm"):
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
    import shutil
    path = shutil.which("trickle-vm")
    if path is None:
        raise UsageError("trickle-vm was found neither beside this package nor on PATH")
    return path


def vm_environment():
    """The VMs load the package that this is, wherever it was found."""
    own = os.environ | {"TRICKLE_PKGDIR": os.path.dirname(PACKAGE)}
    for name in ("TRICKLE_JOB", "TRICKLE_RESUME", "TRICKLE_LISTEN"):
        own.pop(name, None)
    return own


def excepthook(kind, error, traceback):
    """Prints an exception of the program without frames of this package, also in its causes."""
    if os.environ.get("TRICKLE_LOG") != "debug":
        seen = set()
        todo = [error]
        while todo:
            link = todo.pop()
            if link is None or id(link) in seen:
                continue
            seen.add(id(link))
            link.__traceback__ = without_own_frames(link.__traceback__)
            todo += [link.__cause__, link.__context__]
        traceback = error.__traceback__
    sys.__excepthook__(kind, error, traceback)


def without_own_frames(traceback):
    from types import TracebackType
    kept = []
    while traceback is not None:
        frame = traceback.tb_frame
        is_own = os.path.dirname(frame.f_code.co_filename) == PACKAGE
        if not is_own and "trickle_command" not in frame.f_globals:
            kept.append(traceback)
        traceback = traceback.tb_next
    result = None
    for link in reversed(kept):
        result = TracebackType(result, link.tb_frame, link.tb_lasti, link.tb_lineno)
    return result


def run_program(path, args):
    """Runs a program as __main__. Returns when it has come to its end."""
    try:
        import io
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as error:
        raise UsageError(f"the program {path} cannot be read: {error.strerror}") from None
    import trickle
    main = type(sys)("__main__")
    loader = type(__spec__.loader)("__main__", path) if __spec__ else None
    vars(main).update(__file__=path, __builtins__=sys.modules["builtins"], __cached__=None,
                      __annotations__={}, __loader__=loader)
    for name in AT_HAND:
        setattr(main, name, getattr(trickle, name))
    packages = os.path.dirname(PACKAGE)
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    if packages not in sys.path:
        sys.path.append(packages)
    sys.argv = [path, *args]
    sys.excepthook = excepthook
    code = compile(source, path, "exec", dont_inherit=True)
    sys.modules["__main__"] = main
    exec(code, vars(main))


def command_run(args):
    found, rest = parse(args, RUN_OPTIONS | JOB_OPTIONS)
    if "--help" in found:
        sys.stdout.write(HELP_RUN)
        return 0
    if not rest:
        raise UsageError("trickle run needs a program: trickle run [OPTIONS] PROGRAM [ARGS...]")
    return run(found, rest)


def run(found, rest):
    """Runs a program, with the options of trickle run."""
    apply_run_options(found)
    check_program(rest[0])
    if "--no-checkpoint" not in found:
        fix_hash_seed()
    if "--job" in found:
        check_job_name(found["--job"])
    vms = RunVMs(found)
    status = want_job(found, rest)  # while the supervisor comes up
    if status is not None:
        return status
    if not vms.wait_listening():
        return stopped_early()
    return run_to_its_end(rest[0], rest[1:])


def apply_run_options(found):
    """What run and map have in common, checked and put in place."""
    if "--job" in found and "--no-checkpoint" in found:
        raise UsageError("--job and --no-checkpoint exclude each other")
    if "--local" in found:
        vm_count(found["--local"])
        for name in ("TRICKLE_LAN", "TRICKLE_HOSTS", "TRICKLE_DISCOVERY", "TRICKLE_LISTEN"):
            os.environ.pop(name, None)  # only the VMs of this run, unless an option says more
    apply_farm_options(found)
    apply_times(found)


class RunVMs:
    """The VMs that come with a run, by --local and --ssh."""

    def __init__(self, found, local_options=()):
        self.local = self.remote = None
        if "--local" in found:
            from trickle.local import LocalVMs
            self.local = LocalVMs(trickle_vm(), vm_count(found["--local"]), vm_environment(),
                                  local_options)
        if "--ssh" in found:
            from trickle import ssh
            self.remote = ssh.RunVMs(found["--ssh"].split(","),
                                     found.get("--remote-trickle", "trickle"))

    def wait_listening(self):
        """False: Ctrl-C came before the VMs."""
        if self.local is not None and not self.local.wait_listening():
            raise UsageError("the VMs of --local could not be started")
        return self.remote is None or self.remote.wait_listening()


def fix_hash_seed():
    """Starts this process anew with a hash seed that is known, so that a resumed program sees its
    sets in the same order."""
    if os.environ.get("PYTHONHASHSEED", "random") in ("", "random") and not (
            sys.flags.ignore_environment):
        os.environ["PYTHONHASHSEED"] = str(int.from_bytes(os.urandom(4), "little"))
        os.execv(sys.executable, sys.orig_argv)


def check_job_name(name):
    """Of a new job. Whether another one takes the name meanwhile is seen when it is opened."""
    from trickle import _trickle
    if os.path.exists(f"{_trickle.job_home()[0]}/jobs/{name}/data.mdb"):
        raise UsageError(f"there is a job {name} already; go on with: trickle resume {name}, or "
                         f"remove it with: trickle rm {name}")


def want_job(found, rest):
    """The job that the program is to have. None, or the status to end with: a job that is resumed
    is opened here, before anything is run."""
    from trickle import _job
    again = os.environ.pop("TRICKLE_RESUME", None)
    if "--no-checkpoint" in found:
        _job.is_off = True
        return None
    note = _job.start_of_run()
    kept = found.get("--keep-env", [])
    options = {k: v for k, v in found.items() if k not in JOB_OPTIONS}
    words = len(sys.orig_argv) - len(sys.argv) + 1  # interpreter, its options, this command
    note |= {"kind": "run", "argv": sys.orig_argv[:words], "program": os.path.abspath(rest[0]),
             "path": rest[0], "args": rest[1:], "options": options,
             "local": vm_count(found["--local"]) if "--local" in found else None}
    _job.keep_env(note, kept)
    _job.wanted = wanted = _job.Wanted(found.get("--job"), note)
    wanted.must_be_new = wanted.is_fixed = "--job" in found
    if again is not None:
        _job.use_resume(wanted, again)
        try:
            _job.open_wanted()
        except _job.TROUBLE as error:
            sys.stderr.write(f"trickle: {error}\n")
            return EXIT_FAILED
    return None


def stopped_early():
    """By Ctrl-C, before the program began."""
    from trickle import _job
    if not _job.is_open():
        return EXIT_INTERRUPTED
    _job.status = EXIT_STOPPED
    return EXIT_STOPPED


def run_to_its_end(path, args):
    """The program as part of a job: how it ended is noted, and what stops it does not kill it."""
    from trickle import _job
    try:
        run_program(path, args)
        _job.status = 0
    except KeyboardInterrupt:
        if not _job.is_open():
            raise
        _job.status = EXIT_STOPPED
        sys.exit(EXIT_STOPPED)
    except SystemExit as end:
        code = end.code
        _job.status = code & 0xFF if isinstance(code, int) else 0 if code is None else EXIT_FAILED
        raise
    except BaseException:
        _job.status = EXIT_FAILED
        raise
    return 0


def vm_count(text):
    if text is True:
        return len(os.sched_getaffinity(0))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1024:
        raise UsageError(f"--local takes a number of VMs from 1 to 1024, not {text!r}")
    return int(text)


def check_program(path):
    if os.path.isdir(path):
        raise UsageError(f"{path} is a directory, not a program")
    if not os.path.exists(path):
        raise UsageError(f"there is no program or command {path}; see trickle --help")


def command_vm(args):
    if "--help" in args or "-h" in args:
        sys.stdout.write(HELP_VM)
        sys.stdout.flush()
    elif "--ssh" in args or "--ssh-remote" in args:
        from trickle import ssh
        return ssh.command_vm_ssh(args)
    path = trickle_vm()
    if "--sandbox" in args and "--help" not in args:
        from trickle import sandbox
        args = sandbox.replace(args)
    if not any(a == "--python" or a.startswith("--python=") for a in args):
        args = ["--python", sys.executable, *args]  # a venv's trickle makes that venv's VMs
    os.execve(path, ["trickle-vm", *args], vm_environment())


def command_key(args):
    from trickle import keys
    return keys.command_key(args)


def command_map(args):
    from trickle.map_command import command
    return command(args)


def command_chaos(args):
    """The package `live` is in a directory of its own, which only this command looks into."""
    sys.path.insert(0, f"{PACKAGE}/chaos")
    from live import rounds
    return rounds.command(args, os.path.dirname(trickle_vm()))


def words_after(args, option):
    """The words behind an option, up to the next option; and args without all of these."""
    at = args.index(option)
    end = at + 1
    while end < len(args) and not args[end].startswith("-"):
        end += 1
    return args[at + 1:end], args[:at] + args[end:]


def open_farm(program):
    from trickle import _trickle
    try:
        return _trickle.Farm(program=program, listen="")  # that is for the program
    except _trickle.TrickleError as error:
        sys.stderr.write(f"trickle: {error}\n")
        sys.exit(EXIT_FAILED)


def list_vms(farm):
    """The VMs that answer; why those are not used that were found and do not is said."""
    vms = farm.vms()
    while (notice := farm.notice(0.0)) is not None:
        if notice[0] == "message":
            sys.stderr.write(f"trickle: {notice[4].decode(errors='replace')}\n")
    return vms


def command_vms(args):
    found, rest = parse(args, FARM_OPTIONS | {"--json": "flag"})
    if "--help" in found:
        sys.stdout.write(HELP_VMS)
        return 0
    if rest:
        raise UsageError(f"trickle vms takes no arguments, but got {rest[0]!r}")
    apply_farm_options(found)
    farm = open_farm("trickle vms")
    try:
        vms = list_vms(farm)
    finally:
        farm.close()
    vms.sort(key=lambda vm: (vm["host"], vm["supervisor"], vm["index"]))
    if "--json" in found:
        import json
        plain = [{k: v.hex() if isinstance(v, bytes) else v for k, v in vm.items()} for vm in vms]
        print(json.dumps(plain, indent=2))
    elif vms:
        print_vms(vms)
    else:
        sys.stderr.write("trickle: no VM answered; start some here with: trickle vm\n")
    return 0 if vms else EXIT_FAILED


def command_drain(args):
    found, rest = parse(args, FARM_OPTIONS)
    if "--help" in found:
        sys.stdout.write(HELP_DRAIN)
        return 0
    if not rest:
        raise UsageError("trickle drain needs VMs: their pids, as trickle vms shows them")
    wanted = [vm_named(text) for text in rest]
    apply_farm_options(found)
    from trickle import _trickle
    farm = open_farm("trickle drain")
    status = 0
    try:
        list_vms(farm)
        for text, (host, pid) in zip(rest, wanted):
            try:
                print(farm.order("drain", pid, host))
            except _trickle.TrickleError as error:
                sys.stderr.write(f"trickle: {text}: {error}\n")
                status = EXIT_FAILED
    finally:
        farm.close()
    return status


def vm_named(text):
    """PID or HOST:PID."""
    host, _, pid = text.rpartition(":")
    if not pid.isascii() or not pid.isdigit() or not 0 < int(pid) < 1 << 32:
        raise UsageError(f"a VM is named by its pid or by HOST:PID, not {text!r}")
    return host or None, int(pid)


def print_vms(vms):
    rows = [("HOST", "PID", "MODULE", "STATE", "WHOSE")]
    for vm in vms:
        about = vm["owner"] if vm["state"] in ("leased", "finishing") else vm["note"]
        rows.append((vm["host"], str(vm["pid"]), f"{vm['module']} {vm['version']}".strip(),
                     vm["state"], about))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths)]
        print("  ".join([*cells, row[4]]).rstrip())


def command_jobs(args):
    """One of JOB_COMMANDS, with its arguments."""
    from trickle import jobs
    sys.stdout.reconfigure(errors="surrogateescape")  # for names that are not UTF-8
    try:
        status = getattr(jobs, f"command_{args[0]}")(args[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0  # who reads has seen enough
    return status


def command_resume(args):
    from trickle._resume import command_resume
    return command_resume(args)


def version():
    from trickle import _trickle
    return _trickle.VERSION


def main(args=None):
    """The command line; ends the process by SystemExit or by what the program raises."""
    args = sys.argv[1:] if args is None else args
    commands = {"run": command_run, "vm": command_vm, "vms": command_vms, "drain": command_drain,
                "resume": command_resume, "key": command_key, "chaos": command_chaos,
                "map": command_map}
    commands |= dict.fromkeys(JOB_COMMANDS, command_jobs)
    status = 0
    try:
        if not args:
            sys.stderr.write(HELP)
            status = EXIT_USAGE
        elif args[0] in commands:
            words = args if args[0] in JOB_COMMANDS else args[1:]
            status = commands[args[0]](words)
        elif args[0] in ("--help", "-h", "help"):
            sys.stdout.write(HELP)
        elif args[0] == "--version":
            print("trickle", version())
        elif args[0].startswith("-"):
            raise UsageError(f"there is no option {args[0]} here; options of a run go behind "
                             "run: trickle run [OPTIONS] PROGRAM")
        else:
            status = run({}, args)
    except UsageError as error:
        sys.stderr.write(f"trickle: {error}\n")
        status = EXIT_USAGE
    except KeyboardInterrupt:
        if args[0] not in commands or args[0] == "run":
            raise  # in the user's program, which has a traceback
        status = EXIT_INTERRUPTED
    sys.exit(status)
