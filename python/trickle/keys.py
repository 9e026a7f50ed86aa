# SPDX-License-Identifier: MIT
"""trickle key: the secret that makes machines one farm.

Whoever has the key runs code as the user whose VMs have it. So nothing here makes one unasked, a
secret never is an argument (ps shows those) or in the environment, and it is only printed when
that is asked for by name.
"""
import os
import sys

from trickle import _trickle
from trickle.cli import EXIT_FAILED, UsageError, parse

HELP = """\
usage: trickle key new
       trickle key show [--secret]
       trickle key import [--replace] [FILE|-]
       trickle key rotate
       trickle key finish

The key of your farm: machines that have the same one use each other's VMs. Whoever has it runs
code as you. It is in $XDG_CONFIG_HOME/trickle/key or ~/.config/trickle/key, for you only.

  new     make the first key
  show    the IDs of the keys; --secret prints the text for trickle key import elsewhere
  import  take the text of a key from a file or from standard input; --replace also where this
          machine has the key of another farm
  rotate  make a new key; the old one is still accepted
  finish  forget the old key; who has no other is refused from now on, in open sessions too

To another machine:  trickle key show --secret | ssh HOST trickle key import
To change the key:   trickle key rotate, the line above for each machine, then trickle key finish
                     and the line again

Exit status: 0, 1 when it was not done, 2 for wrong usage.
"""
TEXT_MAX = 4096


def command_key(args):
    commands = {"new": (make, {}), "show": (show, {"--secret": "flag"}),
                "import": (take, {"--replace": "flag"}), "rotate": (make, {}), "finish": (make, {})}
    if not args or args[0] in ("--help", "-h"):
        (sys.stdout if args else sys.stderr).write(HELP)
        return 0 if args else 2
    what = args[0]
    if what not in commands:
        raise UsageError(f"trickle key does not know {what!r}; it knows: {', '.join(commands)}")
    function, options = commands[what]
    found, rest = parse(args[1:], {"--help": "flag"} | options)
    late = [word for word in rest if word in options]  # trickle key import FILE --replace
    found |= dict.fromkeys(late, True)
    rest = [word for word in rest if word not in options]
    if "--help" in found:
        sys.stdout.write(HELP)
        return 0
    if len(rest) > (what == "import"):
        raise UsageError(f"trickle key {what} takes no argument {rest[-1]!r}")
    try:
        return function(what, found, rest)
    except _trickle.TrickleError as error:
        sys.stderr.write(f"trickle: {error}\n")
        return EXIT_FAILED


def say(ids):
    """The state in words, on standard output."""
    print(f"key {ids[0]} in {_trickle.key_path()}")
    if len(ids) > 1:
        print(f"key {ids[1]} is accepted until: trickle key finish")


def make(what, _found, _rest):
    say(_trickle.key_do(what)[0])
    return 0


def show(_what, found, _rest):
    keys = _trickle.key_do("load", "--secret" in found)
    if keys is None:
        sys.stderr.write("trickle: there is no key yet: to make one type\n  trickle key new\n")
        return EXIT_FAILED
    if "--secret" in found:
        sys.stdout.write(keys[1])
    else:
        say(keys[0])
    return 0


def take(_what, found, rest):
    name = rest[0] if rest and rest[0] != "-" else None
    if name is not None and name.startswith("trickle-key-"):
        raise UsageError("a key on the command line can be seen by all users of this machine: give "
                         "it on standard input, and rotate that one")
    try:
        fd = os.open(name, os.O_RDONLY) if name is not None else os.dup(0)
        with open(fd, "rb", buffering=0) as file:
            text = read(file)
    except OSError as error:
        sys.stderr.write(f"trickle: {name or 'standard input'}: {error.strerror}\n")
        return EXIT_FAILED
    say(_trickle.key_import(text, name or "standard input", "--replace" in found))
    return 0


def read(file):
    """A key's text is short; whatever else this is, it is not read to its end."""
    text = b""
    while len(text) < TEXT_MAX and (part := file.read(TEXT_MAX - len(text))):
        text += part
    return text
