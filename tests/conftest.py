# SPDX-License-Identifier: MIT
"""What all Python tests share: where the build is, and farms that do not meet each other."""
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("TRICKLE_BUILD", ROOT / "build")).resolve()
TRICKLE_VARIABLES = ("RUNTIME", "LAN", "HOSTS", "INSECURE", "MULTICAST", "LOG", "JOB", "RESUME",
                     "LISTEN", "DISCOVERY")

# Jobs of tests, and what VMs hold for them, are nobody else's.
os.environ["TRICKLE_HOME"] = tempfile.mkdtemp(prefix="trk-home-")
atexit.register(shutil.rmtree, os.environ["TRICKLE_HOME"], ignore_errors=True)

# The package of the build, also for the subprocesses of tests.
sys.path.insert(0, str(BUILD / "python"))


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the tests that take long")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        skip = pytest.mark.skip(reason="takes long: scripts/test --full")
        for item in items:
            if "full" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def build():
    return BUILD


class Command:
    """Runs the trickle command in a runtime directory of its own."""

    def __init__(self, directory):
        self.directory = directory  # short: socket names have to fit
        self.env = {name: value for name, value in os.environ.items()
                    if name not in [f"TRICKLE_{v}" for v in TRICKLE_VARIABLES]}
        self.env["TRICKLE_RUNTIME"] = str(directory)
        self.program = [str(BUILD / "trickle")]

    def start(self, *args, **options):
        usual = {"env": self.env, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                 "stderr": subprocess.PIPE}
        return subprocess.Popen([*self.program, *map(str, args)], text=True, **usual | options)

    def __call__(self, *args, timeout=60, **options):
        process = self.start(*args, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def processes(self):
        """Command lines by pid of the live processes that belong to this runtime directory."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and entry.name != str(os.getpid()) and any(
                        v.startswith(b"TRICKLE_RUNTIME=" + os.fsencode(self.directory))
                        for v in (entry / "environ").read_bytes().split(b"\0")):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if words != [b""]:  # a zombie has none
                        found[int(entry.name)] = b" ".join(words).decode(errors="replace")
            except OSError:
                pass
        return found

    def wait_until_nothing_is_left(self, seconds=10):
        """True when all its processes are gone within that time."""
        end = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


@pytest.fixture(scope="session")
def command_class():
    return Command


@pytest.fixture
def trickle_command():
    directory = tempfile.mkdtemp(prefix="trk-")
    yield Command(directory)
    shutil.rmtree(directory, ignore_errors=True)
