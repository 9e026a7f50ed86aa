# SPDX-License-Identifier: MIT
"""trickle vm --ssh HOST...: VMs on other machines, for as long as this command runs; and trickle
run --ssh: for as long as that program runs.

One ssh per machine, the user's own, with all that is in their configuration. It runs `trickle vm
--ssh-remote` there, which is serve() below, and the two talk over its stdin and stdout:

  to the machine     the text of the key, "end"; "drain": let VMs finish, then end;
                     end of file: end now, within seconds
  from the machine   "at ADDR:PORT": where it listens; "ready": all VMs are up

The key goes by stdin, and is kept there in memory only: it is no argument, in no environment and
in no file of that machine. The VMs listen at the one address by which ssh reached the machine, by
TLS with that key. When the connection breaks, or this command is killed, stdin ends there, and so
do they.
"""
import atexit
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys

from trickle import _trickle
from trickle.cli import EXIT_FAILED, UsageError, trickle_vm, vm_environment, words_after

STOP_SECONDS = 5  # what VMs may take to finish what they run when nobody can be asked any more
KEY_END = b"end\n"
KEY_MAX = 4096
LISTENING = b"trickle-vm: listening on "
EXIT_NOT_FOUND, EXIT_SSH = 127, 255
OURS = ("--listen", "--join", "--lan", "--key-file", "--insecure", "--runtime", "--ready-fd",
        "--listening-fd", "--die-with-parent")


def command_vm_ssh(args):
    if args[0] == "--ssh-remote":
        return serve(args[1:])
    hosts, rest = words_after(args, "--ssh")
    remote = "trickle"
    for at, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if name in OURS:
            raise UsageError(f"trickle vm --ssh chooses {name} itself")
        if name == "--remote-trickle":
            if not equals and at + 1 == len(rest):
                raise UsageError("the option --remote-trickle needs a value")
            remote = value if equals else rest[at + 1]
            rest = rest[:at] + rest[at + 1 + (not equals):]
            break
    check_hosts(hosts)
    return Machines(hosts, [remote, "vm", "--ssh-remote", *rest], own_key()).run()


def check_hosts(hosts):
    if not hosts or len(set(hosts)) < len(hosts) or any(h[:1] in ("", "-") for h in hosts):
        raise UsageError("--ssh needs the names of machines, each once")


def say(text):
    sys.stderr.write(f"trickle: {text}\n")


def own_key():
    try:
        keys = _trickle.key_do("load", True)
        if keys is None:
            keys = _trickle.key_do("new", True)
            say(f"there was no key yet: made {keys[0][0]} in {_trickle.key_path()}")
    except _trickle.TrickleError as error:
        say(error)
        sys.exit(EXIT_FAILED)
    return keys[1].encode()


# --- here -----------------------------------------------------------------------------------


def as_seen_here(address, name):
    """A link-local address comes with the interface there; the one here is in the name that was
    typed, [USER@]ADDRESS%INTERFACE. Where that is another name the two had better be equal."""
    interface = name.rpartition("%")[2] if "%" in name else ""
    return re.sub(r"%[^]]*", lambda _: "%" + interface, address) if interface else address


class Machine:
    """One of them, and the ssh that leads to it."""

    def __init__(self, name, words, key):
        self.name = name
        self.address = ""
        self.is_ready = False
        self.text = b""
        batch = [] if sys.stdin is not None and sys.stdin.isatty() else ["-o", "BatchMode=yes"]
        self.process = subprocess.Popen(
            ["ssh", *batch, "-o", "ServerAliveInterval=15", "-T", "--", name, shlex.join(words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.tell(key + KEY_END)

    def tell(self, words):
        try:
            self.process.stdin.write(words)
        except (OSError, ValueError):
            pass  # it has ended, which its stdout says too

    def hear(self):
        """False: that was all."""
        part = os.read(self.process.stdout.fileno(), 4096)
        *lines, self.text = (self.text + part).split(b"\n")
        for line in lines:
            if line.startswith(b"at "):
                self.address = as_seen_here(line[3:].decode(errors="replace"), self.name)
            elif line == b"ready":
                self.is_ready = True
        return part != b"" and len(self.text) < 4096

    def end(self):
        """Why it ended, as a sentence."""
        self.process.stdin.close()
        self.process.stdout.close()
        status = self.process.wait()
        if status == EXIT_NOT_FOUND and not self.address:
            return (f"{self.name}: there is no trickle on its PATH; install it there, or say where "
                    "it is: --remote-trickle PATH")
        if status == EXIT_SSH:
            why = "the connection has ended" if self.address else "ssh does not get there"
            return f"{self.name}: {why}; try: ssh {self.name} true"
        return f"{self.name}: its VMs have ended (exit status {status})"


def start(names, words, key):
    # Ctrl-C is for us: an ssh that ignores it from its start goes on.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return [Machine(name, words, key) for name in names]
    except FileNotFoundError:
        raise UsageError("there is no ssh on PATH; install openssh-client") from None
    finally:
        signal.signal(signal.SIGINT, before)


class Machines:
    """Those of trickle vm --ssh, until they have ended."""

    def __init__(self, names, words, key):
        self.signals, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.signals, selectors.EVENT_READ)
        self.asked = 0  # how often we were asked to end
        self.is_announced = False
        self.live = start(names, words, key)
        for machine in self.live:
            self.selector.register(machine.process.stdout, selectors.EVENT_READ, machine)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self):
        while self.live:
            for event, _ in self.selector.select():
                if event.data is None:
                    self.stop(len(os.read(self.signals, 64)))
                elif not event.data.hear():
                    self.drop(event.data)
            self.announce()
        return 0 if self.asked and self.is_announced else EXIT_FAILED

    def stop(self, times):
        for _ in range(times):
            self.asked += 1
            if self.asked == 1:
                say("the VMs finish what they run; once more (Ctrl-C) ends them now")
            for machine in self.live:
                if self.asked == 1:
                    machine.tell(b"drain\n")
                elif self.asked == 2:
                    machine.process.stdin.close()
                else:
                    machine.process.kill()

    def drop(self, machine):
        self.selector.unregister(machine.process.stdout)
        self.live.remove(machine)
        why = machine.end()
        if not self.asked:
            say(why)

    def announce(self):
        if self.is_announced or self.asked or not self.live or \
                not all(machine.is_ready for machine in self.live):
            return
        self.is_announced = True
        found = ",".join(machine.address for machine in self.live)
        names = ", ".join(machine.name for machine in self.live)
        say(f"VMs are up on {names}; a program uses them with")
        print(f"trickle run --hosts {found} PROGRAM", flush=True)


class RunVMs:
    """Those of trickle run --ssh: they end with this process, however it ends, because the other
    end of their stdin is here."""

    def __init__(self, names, remote):
        check_hosts(names)
        self.machines = start(names, [remote, "vm", "--ssh-remote"], own_key())
        os.register_at_fork(after_in_child=self.forget)
        atexit.register(self.stop)

    def wait_listening(self):
        """Waits until all of them can be found, and has them found. False: Ctrl-C."""
        try:
            for machine in self.machines:
                while not machine.address:
                    if not machine.hear():
                        raise UsageError(machine.end())
        except KeyboardInterrupt:
            return False
        found = [machine.address for machine in self.machines]
        if os.environ.get("TRICKLE_HOSTS"):
            found.append(os.environ["TRICKLE_HOSTS"])
        os.environ["TRICKLE_HOSTS"] = ",".join(found)
        return True

    def forget(self):
        """In a child that the program forked: it may outlive the run, but does not prolong it."""
        for machine in self.machines:
            machine.process.stdin.close()
        self.machines = []

    def stop(self):
        for machine in self.machines:
            machine.process.stdin.close()
        for machine in self.machines:
            machine.process.wait()


# --- there ----------------------------------------------------------------------------------


def read_key():
    """The text of the key from stdin; what follows it stays there."""
    text = b""
    while not text.endswith(b"\n" + KEY_END):
        byte = os.read(0, 1)
        if not byte or len(text) > KEY_MAX:
            raise UsageError("--ssh-remote is for trickle vm --ssh, and there was no key")
        text += byte
    return text[:-len(KEY_END)]


def own_address():
    """The address of this machine by which ssh reached it."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4:
        raise UsageError("--ssh-remote is for trickle vm --ssh: SSH_CONNECTION is not set")
    return words[2]


def serve(args):
    address = own_address()
    key = read_key()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ready, ready_there = os.pipe()
    if not any(a == "--python" or a.startswith("--python=") for a in args):
        args = ["--python", sys.executable, *args]
    if "--sandbox" in args:
        from trickle import sandbox
        args = sandbox.replace(args)
    supervisor = subprocess.Popen(
        [trickle_vm(), "--listen", address, "--key-file", "-", "--die-with-parent",
         "--ready-fd", str(ready_there), *args],
        stdin=subprocess.PIPE, stdout=sys.stderr, stderr=subprocess.PIPE, bufsize=0,
        pass_fds=[ready_there], env=vm_environment(), process_group=0)
    os.close(ready_there)
    try:
        supervisor.stdin.write(key)
        supervisor.stdin.close()
    except BrokenPipeError:
        pass  # it has ended, and said why
    Serving(supervisor, ready).run()
    return supervisor.returncode & 0x7F


class Serving:
    """Until the supervisor has ended, or nobody wants it any more."""

    def __init__(self, supervisor, ready):
        self.supervisor, self.ready = supervisor, ready
        self.is_draining = False
        self.selector = selectors.DefaultSelector()
        self.sources = {0: self.on_words, ready: self.on_ready,
                        supervisor.stderr.fileno(): self.on_text,
                        os.pidfd_open(supervisor.pid): self.on_end}
        self.text = b""
        for fd in self.sources:
            self.selector.register(fd, selectors.EVENT_READ)

    def run(self):
        try:
            while self.selector.get_map():
                for event, _ in self.selector.select():
                    if event.fd in self.selector.get_map():
                        self.sources[event.fd](event.fd)
        finally:
            self.stop()

    def say(self, text):
        os.write(1, text + b"\n")

    def on_words(self, fd):
        words = os.read(fd, 4096)
        if words == b"":
            self.on_end(fd)
        elif not self.is_draining:
            self.is_draining = True
            self.supervisor.terminate()

    def on_ready(self, fd):
        if os.read(fd, 64):
            self.say(b"ready")
        self.selector.unregister(fd)

    def on_text(self, fd):
        part = os.read(fd, 4096)
        *lines, self.text = (self.text + part).split(b"\n")
        for line in lines:
            if line.startswith(LISTENING):
                self.say(b"at " + line.removeprefix(LISTENING))
            else:
                os.write(2, line + b"\n")
        if part == b"":
            self.selector.unregister(fd)

    def on_end(self, _fd):
        for fd in list(self.selector.get_map()):
            self.selector.unregister(fd)

    def stop(self):
        """Ends the supervisor when it has not ended yet."""
        told = [] if self.is_draining else [signal.SIGTERM]
        for number in [None, *told, signal.SIGTERM, signal.SIGKILL]:
            if number is not None:
                self.supervisor.send_signal(number)
            try:
                self.supervisor.wait(0.01 if number is None else STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue
