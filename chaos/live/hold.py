# SPDX-License-Identifier: MIT
"""Holds the namespaces of one machine: unshare starts it in them (see network.py).

    hold.py NAME ROOT [FOLDER]

Gives the machine its host name and ROOT as a place of its own (a file system in memory, or what is
in FOLDER), says "ready", and waits for the end of its input, which comes when the process that
holds the other end dies, however that happens. Then it kills all that still runs in the network
namespace, which nothing leaves that was started there, however often it has forked."""
import os
import signal
import socket
import subprocess
import sys
import time

PLACES = ("run", "config", "state", "work", "tmp")
KILL_SECONDS = 10


def others():
    """The other processes in this network namespace."""
    own = os.readlink("/proc/self/ns/net")
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if os.readlink(f"/proc/{name}/ns/net") == own:
                    yield int(name)
            except OSError:
                pass  # it has ended


def end_all():
    until = time.monotonic() + KILL_SECONDS
    while (left := list(others())) and time.monotonic() < until:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.005)


def main():
    name, root, *folder = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us, and ends the input
    socket.sethostname(name)
    source = ["--bind", *folder, root] if folder else ["-t", "tmpfs", "-o", "mode=0700", "none",
                                                      root]
    subprocess.run(["mount", *source], check=True)
    for place in PLACES:
        os.makedirs(f"{root}/{place}", mode=0o700, exist_ok=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.chdir(f"{root}/work")
    os.write(1, b"ready\n")
    while os.read(0, 4096):
        pass
    end_all()


if __name__ == "__main__":
    main()
