# SPDX-License-Identifier: MIT
"""Machines, the supervisors and VMs on them, and the program: processes and nothing else.

Without a network all machines are this one: they share a directory of sockets, and have each a
state directory of its own. With one each is a set of namespaces that a process holds open (ns),
which commands enter by nsenter. Every process of a run carries CHAOS_RUN=FOLDER in its environment,
which is how those that are left over are told.
"""
import ctypes
import json
import os
import pathlib
import random
import select
import signal
import subprocess
import time

READY_SECONDS = 60
STOP_SECONDS = 15
MEMORY_LIMIT = "1G"
JOB = "chaos"


def read_file(path):
    """Its bytes; nothing when it, or the process it tells of, has gone."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def children(pid):
    return [int(child) for child in read_file(f"/proc/{pid}/task/{pid}/children").split()]


def state_of(pid):
    """As in /proc/PID/stat: R, S, T, Z, ...; "" when it has gone."""
    text = read_file(f"/proc/{pid}/stat")
    return text[text.rindex(b")") + 2:].split()[0].decode() if text else ""


def send(pid, number):
    """A signal; False: there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def end_with_parent():
    """In a new process: when the harness is killed, nothing stays behind."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Supervisor:
    """A trickle-vm on a machine; its VMs count from `first` on."""

    def __init__(self, machine, count, first, env=()):
        self.machine, self.count, self.first = machine, count, first
        self.known = {}  # pid: index among this supervisor's VMs, None: not a VM
        self.ready, write = os.pipe()
        log = machine.world.log(f"vm-{machine.name}-{first}")
        self.process = machine.popen(
            [machine.world.build / "trickle-vm", "-n", str(count), "--ready-fd", str(write),
             "--log", "info", *machine.vm_options], env,
            pass_fds=[write], stdout=subprocess.DEVNULL, stderr=log)
        log.close()
        os.close(write)

    @property
    def pid(self):
        return self.process.pid

    @property
    def is_alive(self):
        return self.process.poll() is None

    def wait_ready(self):
        if not select.select([self.ready], [], [], READY_SECONDS)[0] or not os.read(self.ready, 1):
            raise RuntimeError(f"VMs of {self.machine.name} do not start; see "
                               f"{self.machine.world.dir}/logs")

    def close(self):
        if self.ready >= 0:
            os.close(self.ready)
            self.ready = -1

    def vms(self):
        found = []
        for pid in children(self.pid):
            if self.known.get(pid) is None:
                self.known[pid] = vm_index(pid)
            state = state_of(pid)
            if self.known[pid] is not None and state not in ("", "Z"):
                found.append((self.first + self.known[pid], pid, state))
        return sorted(found)


def vm_index(pid):
    """From what its supervisor has told the VM; None: it is none, or not yet."""
    for entry in read_file(f"/proc/{pid}/environ").split(b"\0"):
        if entry.startswith(b"TRICKLE_VM_FDS="):
            fields = dict(field.split(b"=") for field in entry.partition(b"=")[2].split(b","))
            return int(fields[b"index"])
    return None


class Machine:
    """home and runtime: its state and its sockets, as this process sees them. env: what names them
    there, and what else makes the machine. ns: pid of the process that holds its namespaces; None:
    it is this machine."""

    def __init__(self, world, name, home, runtime, env=(), ns=None, vm_options=()):
        self.world, self.name, self.ns, self.vm_options = world, name, ns, list(vm_options)
        self.home, self.runtime = pathlib.Path(home), pathlib.Path(runtime)
        self.supervisors = []
        self.next_index = 0
        self.env = {key: value for key, value in os.environ.items()
                    if not key.startswith(("TRICKLE_", "XDG_", "CHAOS_"))}
        self.env.update({"TRICKLE_HOME": str(home), "TRICKLE_RUNTIME": str(runtime),
                         "XDG_CONFIG_HOME": f"{home}/config", **dict(env)})
        self.env.update(CHAOS_RUN=str(world.dir), CHAOS_MACHINE=name, TRICKLE_LOG="info",
                        TRICKLE_DEAD_AFTER=str(world.dead_after),
                        TRICKLE_SUSPECT_AFTER=str(world.dead_after / 2))

    def command(self, words):
        enter = [] if self.ns is None else [
            "nsenter", "--target", str(self.ns), "--net", "--mount", "--uts", "--"]
        return [*enter, *map(str, words)]

    def popen(self, words, env=(), **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(self.command(words), env={**self.env, **dict(env)},
                                start_new_session=True, preexec_fn=end_with_parent, **options)

    def start_supervisor(self, count, env=()):
        own = Supervisor(self, count, self.next_index, env)
        self.next_index += count
        self.supervisors.append(own)
        return own

    def crashing(self, instant):
        """The environment of a process that is to kill itself then (tests/crash/shim.c); nothing
        where that was not built."""
        shim = self.world.build / "tests/crash/crash.so"
        if instant is None or not shim.exists():
            return {}
        preload = f"{self.env.get('LD_PRELOAD', '')} {shim}".strip()
        return {"LD_PRELOAD": preload, "TRICKLE_CRASH": instant}

    def vms(self):
        """[(index, pid, state)] of the processes of VMs that there are now."""
        return [vm for own in list(self.supervisors) for vm in own.vms()]

    def forget(self, own):
        own.close()
        if own in self.supervisors:
            self.supervisors.remove(own)


class Initiator:
    """The program, in one of its runs."""

    def __init__(self, world, number, words, what, env):
        self.number, self.what = number, what
        self.is_counted = False  # a fault has ended it
        self.is_noted = False    # its end is in the events
        self.crash = env.get("TRICKLE_CRASH")  # the instant at which it is to die
        self.started = world.now()
        with open(world.dir / f"output/program-{number}.out", "wb") as out, \
                world.log(f"program-{number}") as log:
            self.process = world.machines[0].popen(words, env, stdout=out, stderr=log)

    @property
    def pid(self):
        return self.process.pid

    @property
    def is_alive(self):
        return self.process.poll() is None

    def has_begun(self, world):
        """It has printed something."""
        return (world.dir / f"output/program-{self.number}.out").stat().st_size > 0


class World:
    """All that a fault may touch."""

    def __init__(self, folder, build, seed, dead_after=2.0):
        self.dir, self.build = folder, build
        self.dead_after = dead_after
        self.random = random.Random(f"world {seed}")
        self.machines = []
        self.program = None   # the Initiator that runs or ran last
        self.network = None   # of the rooms that have one
        self.disk = None
        self.is_damaged = False  # the store has been
        self.runtimes = []    # directories of sockets that are to be removed
        self.controls = {}    # of disks and clocks, by the machine's name
        self.words = []       # the command that starts the program
        self.words_new = []   # and one for a job that is there already, but empty
        self.runs = 0         # how often it was started
        self.rivals = []      # (id of the fault, Initiator, the other process that wants its job)
        self.beside = []      # other processes that are waited for at the end
        self.start = time.monotonic()
        self.events = open(folder / "events.jsonl", "ab", buffering=0)

    def now(self):
        return time.monotonic() - self.start

    def log(self, name):
        return open(self.dir / f"logs/{name}.log", "ab")

    def emit(self, event):
        """Writes an event; t is now where the event does not say."""
        event = {"t": round(self.now(), 6), **event}
        self.events.write(json.dumps(event).encode() + b"\n")

    def resume_words(self):
        """Where results were lost to damage others take their place, and what was made of those
        is not what it was: the program says that this is fine."""
        change = ["--on-change=keep"] if self.is_damaged else []
        return [self.build / "trickle", "resume", *change, JOB]

    def start_program(self, is_new=False, crash=None):
        """Runs the program for the first time, or goes on with its job by `trickle resume`. A
        program that was killed so early that nothing tells how to resume it is new once more.
        crash: it kills itself at that instant."""
        is_first = self.runs == 0 or not self.has_job()
        words, env = self.resume_words(), self.machines[0].crashing(crash)
        if is_new:
            packages = f"{self.build}/python"
            words = self.words_new
            env.update(TRICKLE_JOB=JOB, PYTHONPATH=packages)
        elif is_first:
            words = self.words
        what = "start" if is_first or is_new else "resume"
        self.program = Initiator(self, self.runs, words, what, env)
        self.runs += 1
        self.emit({"event": "program", "what": what, "pid": self.program.pid, "status": None,
                   "number": self.program.number})

    def has_job(self):
        """Is there something to resume? A program that was killed early has made none."""
        return (self.machines[0].home / "jobs" / JOB / "data.mdb").exists()

    def all_vms(self):
        return [(machine, *vm) for machine in self.machines for vm in machine.vms()]

    def stop_processes(self, signals=(signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)):
        """Ends all that was started, and waits for it. signals: to the supervisors, one after the
        other, where one alone does not do."""
        if self.program is not None and self.program.is_alive:
            send(self.program.pid, signal.SIGCONT)
            send(self.program.pid, signal.SIGKILL)
            self.program.process.wait()
        for process in [*self.beside, *(rival[2] for rival in self.rivals)]:
            if process.poll() is None:
                process.kill()
            process.wait()
        owns = [own for machine in self.machines for own in machine.supervisors]
        for _, pid, _ in (vm for own in owns for vm in own.vms()):
            send(pid, signal.SIGCONT)
        for number in signals:
            for own in owns:
                if own.is_alive:
                    send(own.pid, number)
            until = time.monotonic() + STOP_SECONDS
            while any(own.is_alive for own in owns) and time.monotonic() < until:
                time.sleep(0.01)
        for machine in self.machines:
            for own in list(machine.supervisors):
                machine.forget(own)

    def close(self):
        self.events.close()
