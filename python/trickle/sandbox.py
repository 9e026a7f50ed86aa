# SPDX-License-Identifier: MIT
"""trickle vm --sandbox [DIR...]: VMs under bubblewrap.

Each VM process sees the file system read-only, with an empty /tmp and /run of its own, and no
other process. It can write to the directories that were named, and to the one where results are
held for programs that have gone. Out of its sight are the key and the sockets of this user's
VMs; its own listening sockets and its line to the supervisor it has inherited, and nothing else.

It is about files and processes. The network is the machine's; and what the user can read, a VM
can read.
"""
import os
import shutil
import subprocess
import sys

from trickle import _trickle
from trickle.cli import PACKAGE, UsageError, words_after

EMPTY = ("/tmp", "/run")


def replace(args):
    """The options of trickle-vm with bubblewrap's command in the place of --sandbox DIR..."""
    writable, args = words_after(args, "--sandbox")
    options = [word.partition("=")[0] for word in args]
    if "--memory-limit" in options:
        raise UsageError("--memory-limit cannot look into a sandbox; use one of the two, or "
                         "systemd's MemoryMax=")
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise UsageError("--sandbox needs bubblewrap: apt install bubblewrap")
    command = [bwrap, *words(args, writable)]
    try:
        probe = subprocess.run([*command, "--", "/bin/true"], stdin=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        raise UsageError(f"{bwrap}: {error.strerror}") from None
    if probe.returncode != 0:
        raise UsageError(f"no sandbox can be made here: {probe.stderr.strip()}")
    return [*args, "--", *command, "--"]


def value_of(args, option):
    """The last value that an option has in args; None."""
    value = None
    for at, word in enumerate(args):
        if word == option and at + 1 < len(args):
            value = args[at + 1]
        elif word.startswith(option + "="):
            value = word[len(option) + 1:]
    return value


def is_in(path, places):
    return any(path == place or path.startswith(place + "/") for place in places)


def words(args, writable):
    """The options of bwrap: the later ones are made in what the earlier ones left."""
    runtime = value_of(args, "--runtime") or os.environ.get("TRICKLE_RUNTIME") or \
        f"/tmp/trickle-{os.getuid()}"
    try:
        home, key = _trickle.job_home()[0], _trickle.key_path()
    except _trickle.TrickleError as error:
        raise UsageError(str(error)) from None
    held = home + "/held"
    os.makedirs(runtime, 0o700, exist_ok=True)
    os.makedirs(held, 0o700, exist_ok=True)
    empty = [*EMPTY, os.path.realpath(runtime)]
    if os.path.isdir(os.path.dirname(key)):
        empty.append(os.path.realpath(os.path.dirname(key)))
    needed = [PACKAGE, *prefixes(value_of(args, "--python") or sys.executable)]
    found = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for place in empty:
        found += ["--tmpfs", place]
    found += ["--ro-bind-try", "/run/systemd/resolve", "/run/systemd/resolve"]
    for place in needed:
        if is_in(place, empty):
            found += ["--ro-bind", place, place]
    for name in [*writable, held]:
        place = os.path.realpath(name)
        if not os.path.isdir(place):
            raise UsageError(f"--sandbox {name}: there is no such directory")
        if is_in(runtime, [place]) or is_in(key, [place]) or place == "/":
            raise UsageError(f"--sandbox {name}: Trickle's own key or sockets are in there, and "
                             "nothing in a sandbox may change those")
        found += ["--bind", place, place]
    return [*found, "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL", "--die-with-parent"]


def prefixes(python):
    """The directories of a Python: as it was named, and where links lead."""
    path = shutil.which(python) or python
    both = [os.path.abspath(path), os.path.realpath(path)]
    return sorted({os.path.dirname(os.path.dirname(place)) for place in both})
