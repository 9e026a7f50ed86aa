# SPDX-License-Identifier: MIT
"""One file for every CPython from 3.11 on: exercise.py in each that is installed."""
import pathlib
import pickle
import subprocess

import pytest

from ext_build import pythons

EXERCISE = pathlib.Path(__file__).with_name("exercise.py")
EACH = pytest.mark.parametrize("python", pythons().values(), ids=pythons().keys())


def run(python, folder, *args, flags=(), lines=""):
    done = subprocess.run([python, "-W", "error", *flags, *args], input=lines, text=True,
                          capture_output=True, timeout=120, env={"PYTHONPATH": str(folder)})
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    return done.stdout


@EACH
@pytest.mark.parametrize("flags", [(), ("-X", "dev")], ids=["plain", "dev"])
def test_everything_works_and_nothing_leaks(ext_folder, python, flags):
    assert run(python, ext_folder, str(EXERCISE), flags=flags) == "steady\n"


@EACH
def test_serving_leaks_nothing(ext_folder, python):
    def both(value):
        return [f"run {n} {pickle.dumps(value).hex()}" for n in (1, 2, 3)]
    ask = [f"request 2 blocks {b'x'.hex()}"]
    lines = [f"stage 1 {b'lambda x: x'.hex()}", f"stage 2 {b'lambda x: 1 / 0'.hex()}",
             f"stage 3 {b'lambda x: (lambda: x)'.hex()}"]
    round_ = [*both(5), *both({"a": [1]}), f"stage 4 {b'len'.hex()}", "close 4",
              f"stage 5 {b'1 +'.hex()}", f"request 2 echo {b'y'.hex()}"]
    lines += 50 * round_ + ask + 400 * round_ + ask + 400 * round_ + ask
    out = run(python, ext_folder, str(EXERCISE), "serve",
              lines="".join(line + "\n" for line in lines)).splitlines()
    assert len(out) == len(lines)
    statuses = {line.split()[0] for line in out[3:]}
    assert statuses == {"0", "1"}
    blocks = [int(bytes.fromhex(out[i].split()[1]))
              for i in (3 + 50 * len(round_), 4 + 450 * len(round_), -1)]
    # Caches fill up for a while; a leak of one block per round would show both times.
    assert min(blocks[1] - blocks[0], blocks[2] - blocks[1]) < 400, blocks


@EACH
def test_subinterpreters_are_refused_where_python_can_say_so(ext_folder, python):
    code = ("import sys\n"
            "try: import _xxsubinterpreters as i, _interpreters as i\n"
            "except ImportError: pass\n"
            "try: import _interpreters as i\n"
            "except ImportError: pass\n"
            "id = i.create()\n"
            "try: failed = i.run_string(id, 'import _trickle')\n"
            "except Exception as error: failed = error\n"
            "print(sys.version_info < (3, 12) or 'subinterpreters' in str(failed))\n")
    assert run(python, ext_folder, "-W", "ignore", "-c", code) == "True\n"


@EACH
def test_the_interpreter_ends_with_everything_still_alive(ext_folder, python):
    code = ("import _trickle as t, threading\n"
            "farm = t.Farm(); vms = farm.connect(); vm = vms.get(0)\n"
            "call = vm.request(2, 0, 'never', b''); work = farm.work('w', b'stuck', list=vms)\n"
            "work.feed(iter([b'1']), None, None)\n"
            "class Last:\n"
            "    def __del__(self): call.wait(0), vms.get(1), work.next(0, None)\n"
            "work.feed(iter([Last()]), None, lambda _: b'x', 0); last = Last(); last.me = last\n"
            "threading.Thread(target=farm.notice, args=(None,), daemon=True).start()\n")
    assert run(python, ext_folder, "-c", code, flags=("-X", "dev")) == ""
