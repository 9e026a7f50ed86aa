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
from trickle.cli import PACKAGE, UsageError, trickle_vm, words_after

EMPTY = ("/tmp", "/run")


def replace(args):
    """The options of trickle-vm with bubblewrap's command in the place of --sandbox DIR..."""
    writable, args = words_after(args, "--sandbox")
    options = [word.partition("=")[0] for word in args]
    if any(is_option(name, "--memory-limit") for name in options):
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


def is_option(name, option):
    """Does trickle-vm take name for option? It takes the first letters, too, where they tell."""
    return len(name) > 2 and option.startswith(name)


def value_of(args, option):
    """The last value that an option has in args; None."""
    value = None
    for at, word in enumerate(args):
        name, equals, text = word.partition("=")
        if is_option(name, option):
            value = text if equals else "".join(args[at + 1:at + 2])
    return value


def hidden(args):
    """The directories of the sockets and of the keys, where links lead. They are made here: what
    is not there cannot be hidden, and would be in sight when it comes."""
    runtime = value_of(args, "--runtime") or os.environ.get("TRICKLE_RUNTIME") or \
        f"/tmp/trickle-{os.getuid()}"
    places = [runtime, os.path.dirname(_trickle.key_path())]
    for place in places:
        os.makedirs(place, 0o700, exist_ok=True)
    key = value_of(args, "--key-file")
    if key and key != "-":
        # The directory, and not the file: that is replaced when keys are rotated.
        places += [os.path.dirname(os.path.abspath(key)), os.path.dirname(os.path.realpath(key))]
    places = sorted({os.path.realpath(place) for place in places})
    if "/" in places:
        raise UsageError(f"--sandbox cannot hide {key}: put it into a directory of its own")
    return places


def is_in(path, places):
    return any(path == place or path.startswith(place + "/") for place in places)


def contains(place, others):
    return place == "/" or any(is_in(other, [place]) for other in others)


def words(args, writable):
    """The options of bwrap: the later ones are made in what the earlier ones left."""
    try:
        held = _trickle.job_home()[0] + "/held"
        ours = hidden(args)
        os.makedirs(held, 0o700, exist_ok=True)
    except (_trickle.TrickleError, OSError) as error:
        raise UsageError(str(error)) from None
    empty = [*EMPTY, *ours]
    needed = [PACKAGE, *prefixes(value_of(args, "--python") or sys.executable),
              *module_files(value_of(args, "--rai"))]
    found = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for place in empty:
        found += ["--tmpfs", place]
    found += ["--ro-bind-try", "/run/systemd/resolve", "/run/systemd/resolve"]
    for place in needed:
        if is_in(place, empty) and contains(place, ours):
            raise UsageError(f"--sandbox cannot hide what is in {place}: Python is in there, and "
                             "so are Trickle's own key or sockets")
        if is_in(place, empty):
            found += ["--ro-bind", place, place]
    for name in [*writable, held]:
        place = os.path.realpath(name)
        if not os.path.isdir(place):
            raise UsageError(f"--sandbox {name}: there is no such directory")
        if contains(place, ours):
            raise UsageError(f"--sandbox {name}: Trickle's own key or sockets are in there, and "
                             "nothing in a sandbox may change those")
        found += ["--bind", place, place]
    return [*found, "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL", "--die-with-parent"]


def module_files(module):
    """What a VM without Python is made of: trickle-vm itself, and a module of others."""
    if module in (None, "python"):
        return []
    return [os.path.realpath(path) for path in (trickle_vm(), module) if os.path.isfile(path)]


def prefixes(python):
    """The directories of a Python: as it was named, and where links lead."""
    path = shutil.which(python) or python
    both = [os.path.abspath(path), os.path.realpath(path)]
    return sorted({os.path.dirname(os.path.dirname(place)) for place in both})
