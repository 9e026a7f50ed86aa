# SPDX-License-Identifier: MIT
"""VMs of one run: --local of trickle run and trickle map.

A supervisor in a runtime directory of its own, so that no other program sees these VMs and this
run sees no others. It ends in every case: atexit asks it to (the normal way), it watches for the
death of this process (kill -9), and its own guard ends the VMs if it is killed itself. What a
killed run leaves behind is an empty directory; the next run removes it.
"""
import atexit
import os
import select
import stat
import sys

STOP_SECONDS = 5  # what a VM may take to finish what it runs, before it is ended
POLL_SECONDS = 0.002  # between looks for the supervisor's socket; importing trickle takes longer


class LocalVMs:
    def __init__(self, program, count, environment, options=()):
        self.owner = os.getpid()
        self.directory = make_directory()
        os.environ["TRICKLE_RUNTIME"] = self.directory
        arguments = [program, "-n", str(count), "--die-with-parent",
                     *(options or ("--python", sys.executable))]
        # Its own process group: Ctrl-C is for the program, which then ends the VMs.
        environment["TRICKLE_RUNTIME"] = self.directory
        self.pid = os.posix_spawn(program, arguments, environment, setpgroup=0, file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, 2, 1)])
        self.handle = os.pidfd_open(self.pid)
        atexit.register(self.stop)

    def wait_listening(self):
        """Waits until the supervisor has its socket: from then on its VMs are seen, and connect
        waits for those that are still starting. False: it has ended, after it said why."""
        while not any(name.startswith("s-") for name in os.listdir(self.directory)):
            if select.select([self.handle], [], [], POLL_SECONDS)[0]:
                return False
        return True

    def stop(self):
        """Ends the supervisor and waits for it: when the run is over nothing of it is left."""
        if os.getpid() != self.owner:
            return  # a child that the program forked
        import signal
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            try:
                signal.pidfd_send_signal(self.handle, number)
            except ProcessLookupError:
                break
            except OSError:
                return  # the program closed all descriptors; the supervisor sees us end
            if select.select([self.handle], [], [], STOP_SECONDS)[0]:
                break
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass  # the program waited for all children
        remove_directory(self.directory)


def make_directory():
    """A new private directory for sockets; also removes those of runs that were killed."""
    parent = os.environ.get("TRICKLE_RUNTIME") or f"/tmp/trickle-{os.getuid()}"
    try:
        os.mkdir(parent, 0o700)
    except FileExistsError:
        pass
    info = os.lstat(parent)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise SystemExit(f"trickle: {parent} must be a directory of yours that nobody else can "
                         "open (mode 0700); remove it or set TRICKLE_RUNTIME")
    for name in os.listdir(parent):
        prefix, _, rest = name.partition("-")
        pid = rest.partition("-")[0]
        if prefix == "run" and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            remove_directory(f"{parent}/{name}")
    path = f"{parent}/run-{os.getpid()}-{os.urandom(2).hex()}"
    os.mkdir(path, 0o700)
    return path


def remove_directory(path):
    """Removes a directory with the sockets in it. Anything else in it stays, and so does it."""
    try:
        for name in os.listdir(path):
            if name.endswith(".sock"):
                os.unlink(f"{path}/{name}")
        os.rmdir(path)
    except OSError:
        pass
