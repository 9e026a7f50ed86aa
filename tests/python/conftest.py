# SPDX-License-Identifier: MIT
"""Farms for the tests of the Python package.

One supervisor with four VMs per test process, in a runtime directory of its own, so that test
processes that run at the same time do not meet. `vms` are two of its VMs, fresh for each test.
"""
import os
import signal
import subprocess
import sys

import pytest

from runlog import Log
from supervisors import Supervisor, wait_given_back

# A shell that puts the tests into the background has them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    wait_given_back()


@pytest.fixture
def is_full(request):
    return request.config.getoption("--full")


@pytest.fixture
def vm(vms):
    return vms[0]


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


@pytest.fixture
def network():
    """Makes machines and what joins them (machines.py). All TCP of theirs has to be TLS."""
    made = []

    def make(kind, count, **keywords):
        made.append(kind(count, **keywords))
        return made[-1]
    yield make
    try:
        for net in made:
            if not net.is_plain:
                net.tap.expect_tls()
    finally:
        for net in made:
            net.close()


@pytest.fixture
def supervise():
    """Starts further supervisors; they end with the test."""
    started = []

    def start(*options, **keywords):
        started.append(Supervisor(*options, **keywords))
        return started[-1]
    yield start
    for own in reversed(started):
        own.stop()


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
