# SPDX-License-Identifier: MIT
"""Programs that end while their farm is open and works over TLS, and the VMs that they leave: all
by TCP on loopback with a key."""
import os
import subprocess
import sys

import pytest

from supervisors import BUILD, PACKAGES

PATIENCE = 60

BEGINNING = """
import hashlib, os, sys, threading
import trickle

def double(data):
    return data + data

vms = trickle.connect(2)
assert all(vm["address"].startswith("tcp:") for vm in trickle._farm.farm().vms())
trickle.inject(vms, double)
results = trickle.forkgen(vms, double, (bytes(30000) for _ in range(10**6)), progress=False)
for _ in range(30):
    next(results)
"""

ENDINGS = {
    "sys.exit": "sys.exit(7)",
    "exit of C": "import ctypes; ctypes.CDLL(None).exit(7)",
    "exit of C from a thread": """
import ctypes
threading.Thread(target=ctypes.CDLL(None).exit, args=(7,), daemon=True).start()
for _ in results:
    pass
""",
    "os._exit": "os._exit(7)",
    "os._exit from a thread": """
threading.Thread(target=os._exit, args=(7,)).start()
for _ in results:
    pass
""",
    "children": """
for way in (sys.exit, os._exit, __import__("ctypes").CDLL(None).exit):
    for _ in range(3):
        next(results)
        child = os.fork()
        if child == 0:
            way(3)
        _, status = os.waitpid(child, 0)
        assert status == 3 << 8, (way, status)
next(results)
sys.exit(7)
"""}


class Farm:
    """Two VMs, their log, and the environment of a program that finds them."""

    def __init__(self, folder):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TRICKLE_")}
        self.env = {**kept, "TRICKLE_HOME": os.environ["TRICKLE_HOME"],
                    "XDG_CONFIG_HOME": str(folder / "config"), "PYTHONPATH": PACKAGES}
        self.log = folder / "log"
        (folder / "vms").mkdir(mode=0o700)
        (folder / "program").mkdir(mode=0o700)
        subprocess.run([BUILD / "trickle", "key", "new"], env=self.env, check=True,
                       stdout=subprocess.DEVNULL)
        ready, write = os.pipe()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [BUILD / "trickle-vm", "-n", "2", "--listen", "127.0.0.1", "--log", "info",
                 "--ready-fd", str(write)], pass_fds=[write], stderr=log, stdin=subprocess.DEVNULL,
                env=self.env | {"TRICKLE_RUNTIME": str(folder / "vms")})
        os.close(write)
        assert os.read(ready, 1) != b"", self.log.read_text()
        os.close(ready)
        self.env["TRICKLE_RUNTIME"] = str(folder / "program")
        self.env["TRICKLE_HOSTS"] = self.log.read_text().split("listening on ", 1)[1].split()[0]

    def stop(self):
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    made = Farm(tmp_path_factory.mktemp("f"))
    yield made
    made.stop()


@pytest.mark.parametrize("ending", ENDINGS)
def test_program_ends_while_its_farm_works(ending, farm, is_full):
    for _ in range(20 if is_full else 3):
        done = subprocess.run([sys.executable, "-c", BEGINNING + ENDINGS[ending]], env=farm.env,
                              text=True, capture_output=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stdout) == (7, ""), done.stderr
    log = farm.log.read_text()
    assert "SIG" not in log, log
