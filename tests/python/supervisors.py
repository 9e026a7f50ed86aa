# SPDX-License-Identifier: MIT
"""Where the build is, and supervisors of VMs for tests. A module of its own: several folders have
a conftest, so its name does not say which one is meant."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

BUILD = Path(os.environ.get("TRICKLE_BUILD", Path(__file__).parents[2] / "build")).resolve()
PACKAGES = str(BUILD / "python")
if PACKAGES not in sys.path:
    sys.path.insert(0, PACKAGES)


class Supervisor:
    """A trickle-vm with its own runtime directory, or with that of another one."""

    def __init__(self, *options, count=4, beside=None):
        self.is_guest = beside is not None
        self.runtime = beside.runtime if beside is not None else tempfile.mkdtemp(prefix="trk-")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("TRICKLE_")}
        self.env.update(TRICKLE_RUNTIME=self.runtime, PYTHONPATH=PACKAGES,
                        TRICKLE_HOME=os.environ["TRICKLE_HOME"])  # private: see tests/conftest.py
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
        if not self.is_guest:
            shutil.rmtree(self.runtime, ignore_errors=True)


def wait_given_back():
    """A closed list's leases end a moment later; the next test may start a program that needs all
    of the VMs."""
    from trickle import _farm
    until = monotonic() + 20
    while leased := [vm for vm in _farm.farm().vms() if vm["state"] in ("leased", "finishing")]:
        assert monotonic() < until, f"20 s after all lists were closed still leased: {leased}"
