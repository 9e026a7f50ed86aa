# SPDX-License-Identifier: MIT
"""Farms for the tests of the Python package.

One supervisor with four VMs per test process, in a runtime directory of its own, so that test
processes that run at the same time do not meet. `vms` are two of its VMs, fresh for each test.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("TRICKLE_BUILD", Path(__file__).parents[2] / "build")).resolve()
PACKAGES = str(BUILD / "python")
if PACKAGES not in sys.path:
    sys.path.insert(0, PACKAGES)


class Supervisor:
    """A trickle-vm with its own runtime directory."""

    def __init__(self, *options, count=4):
        self.runtime = tempfile.mkdtemp(prefix="trk-")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("TRICKLE_")}
        self.env.update(TRICKLE_RUNTIME=self.runtime, PYTHONPATH=PACKAGES)
        ready, write = os.pipe()
        env = {k: v for k, v in self.env.items() if k != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [BUILD / "trickle-vm", "-n", str(count), "--ready-fd", str(write), *options],
            env=env, pass_fds=[write], stdin=subprocess.DEVNULL)
        os.close(write)
        is_ready = os.read(ready, 1) != b""
        os.close(ready)
        if not is_ready:
            self.stop()
            raise RuntimeError("trickle-vm did not start")

    def stop(self):
        for _ in range(2):  # a second one does not wait for what runs
            self.process.terminate()
            try:
                self.process.wait(10)
                break
            except subprocess.TimeoutExpired:
                continue
        shutil.rmtree(self.runtime, ignore_errors=True)


@pytest.fixture(scope="session")
def supervisor():
    own = Supervisor()
    before = os.environ.get("TRICKLE_RUNTIME")
    os.environ["TRICKLE_RUNTIME"] = own.runtime
    yield own
    from trickle import _farm
    _farm.close()
    own.stop()
    if before is None:
        del os.environ["TRICKLE_RUNTIME"]
    else:
        os.environ["TRICKLE_RUNTIME"] = before


@pytest.fixture
def vms(supervisor):
    import trickle
    with trickle.connect(2) as own:
        yield own


@pytest.fixture
def vm(vms):
    return vms[0]


class Result:
    def __init__(self, done):
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr


@pytest.fixture
def run_program(supervisor, tmp_path):
    """Runs the text of a program in a process of its own; gives status, out and err."""
    def run(text, *args, stdin=None, python=sys.executable, files=(), env=None, timeout=60):
        path = tmp_path / "program.py"
        path.write_text(text)
        for name, content in dict(files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        command = [python, "-i", "-q"] if stdin is not None else [python, str(path), *args]
        return Result(subprocess.run(command, cwd=tmp_path, env={**supervisor.env, **(env or {})},
                                     text=True, capture_output=True, input=stdin or "",
                                     timeout=timeout))
    return run
