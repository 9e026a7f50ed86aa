# SPDX-License-Identifier: MIT
"""Initiator and VMs with different versions of Python, each that is installed here."""
import glob
import os
import subprocess
import sys

import pytest

from supervisors import Supervisor


def installed():
    """One interpreter per minor version from 3.11 on, also those of pyenv and of --python."""
    named = os.environ.get("TRICKLE_PYTHONS", "").split(":")
    places = [*named, "/usr/bin/python3.*[0-9]", "/usr/local/bin/python3.*[0-9]",
              os.path.expanduser("~/.pyenv/versions/3.*/bin/python3")]
    code = ("import sys, importlib.util as u; print(sys.version_info[1], sys.version_info >= "
            "(3, 11), u.find_spec('cloudpickle') is not None)")
    found = {}
    paths = [path for place in places if place for path in sorted(glob.glob(place))]
    for path in [sys.executable, *paths]:
        done = subprocess.run([path, "-c", code], capture_output=True, text=True)
        minor, is_usable, _ = (done.stdout.split() + ["", "", ""])[:3]
        if is_usable == "True":
            found.setdefault(int(minor), path)
    return found


PYTHONS = installed()
OWN = sys.version_info[1]
OTHERS = [minor for minor in sorted(PYTHONS) if minor != OWN]

PROGRAM = """
import math
from dataclasses import dataclass
from trickle import *
import trickle
LIMIT = 3
@dataclass
class Point:
    x: int
    y: int = LIMIT
    def total(self):
        return self.x + self.y
class Own(ValueError):
    pass
def helper(x):
    return math.floor(x) + LIMIT
def work(x):
    return {"x": helper(x), "p": Point(x).total(), "l": [y * 2 for y in range(x)]}
def fails():
    raise Own("own", 1)
def main():
    local = [1, (2.5, "a"), {"k": b"v"}]
    def inner(x, k=LIMIT):
        return x + k
    vms = connect(2)
    inject(vms, work, fails, Point, local, inner, OPS={"twice": lambda x: 2 * x})
    print(vms[0].work(2), vms[0].Point(1).total(), vms[1].local == local, vms[0].inner(1))
    print(vms[0].OPS["twice"](4), trickle.fetch(vms[0].Point(5)))
    print(forkwork(vms, lambda x: x * 2, range(3)), forkwork(vms, work, [1])[0]["p"])
    print(join(fork(vms, inner, [1, 2])), sorted(forkgen(vms, abs, [-1, -2])))
    try:
        vms[0].fails()
    except Own as error:
        print(error.args, "in fails" in str(error.__cause__))
    n = [1]
    def closure(x):
        return x + n[0]
    for call in (lambda: inject(vms, closure), lambda: forkwork(vms, closure, [1])):
        try:
            call()
        except TrickleError as error:
            print(error)
main()
"""
EXPECTED = """\
{'x': 5, 'p': 5, 'l': [0, 2]} 4 True 4
8 Point(x=5, y=3)
[0, 2, 4] 4
[4, 5] [1, 2]
('own', 1) True
"""


def check(out, err, own, other):
    assert out.startswith(EXPECTED), err + out
    rest = out[len(EXPECTED):].splitlines()
    assert len(rest) == 2, err + out
    for line in rest:
        assert line.startswith(("closure ", "'closure' "))
        assert (f"Python 3.{own}" in line and f"Python 3.{other}" in line) or (
            "cloudpickle" in line)


@pytest.fixture(scope="module", params=OTHERS, ids=lambda minor: f"3.{minor}")
def other(request):
    supervisor = Supervisor("--python", PYTHONS[request.param], count=2)
    yield request.param, supervisor
    supervisor.stop()


def run(python, supervisor, path, text):
    path.write_text(text)
    return subprocess.run([python, str(path)], env=supervisor.env, text=True, timeout=60,
                          capture_output=True)


def test_vms_of_another_version(other, tmp_path):
    minor, supervisor = other
    done = run(PYTHONS[OWN], supervisor, tmp_path / "p.py", PROGRAM)
    check(done.stdout, done.stderr, OWN, minor)


def test_program_of_another_version(supervisor, tmp_path):
    if not OTHERS:
        pytest.skip("only one version of Python is installed")
    for minor in OTHERS:
        done = run(PYTHONS[minor], supervisor, tmp_path / "p.py", PROGRAM)
        check(done.stdout, done.stderr, minor, OWN)


def test_same_version_needs_no_source_and_no_cloudpickle_on_the_vm(other, tmp_path):
    """A closure needs cloudpickle here only: its source is sent along."""
    minor, supervisor = other
    extra = tmp_path / "site-packages"  # cloudpickle alone: the rest there is for one version
    extra.mkdir()
    (extra / "cloudpickle").symlink_to(os.path.dirname(__import__("cloudpickle").__file__))
    supervisor.env["EXTRA"] = str(extra)
    done = run(PYTHONS[minor], supervisor, tmp_path / "p.py", """
import os, sys
sys.path.append(os.environ["EXTRA"])
from trickle import *
def make(n):
    class Local:
        def get(self):
            return n
    def closure(x):
        return x + n, Local().get()
    return closure
vms = connect(1)
closure = make(5)
inject(vms, closure)
print(vms[0].closure(1), forkwork(vms, make(1), [1]))
""")
    assert done.stdout == "(6, 5) [(2, 1)]\n", done.stderr


def test_too_old_python_says_so():
    old = [p for p in glob.glob(os.path.expanduser("~/.pyenv/versions/3.10*/bin/python3")) +
           glob.glob("/usr/bin/python3.10")]
    if not old:
        pytest.skip("no old Python is installed")
    import trickle
    boot = os.path.join(os.path.dirname(trickle.__file__), "_boot.py")
    done = subprocess.run([old[0], boot], capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs Python 3.11 or later" in done.stderr
