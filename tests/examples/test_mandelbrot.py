# SPDX-License-Identifier: MIT
"""examples/mandelbrot.c, a durable job in C of 100,000 tiles: killed, its VMs and itself, it gives
the picture that it computes without VMs."""
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from jobs_rig import wait_for  # noqa: E402
from supervisors import Supervisor  # noqa: E402

TILES = 100_000
SIZE = ["-w", "1600", "-h", "1000", "-t", "4", "-i", "800"]  # some seconds


@pytest.fixture
def supervisor(tmp_path):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    own = Supervisor("--rai", "native", count=2)
    yield own
    own.stop()
    del os.environ["XDG_CACHE_HOME"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def vm_pids(command):
    return [vm["pid"] for vm in json.loads(command("vms", "--json").stdout)]


def test_killed_again_and_again_it_gives_the_picture(supervisor, trickle_command, build, tmp_path):
    program = build / "examples/mandelbrot"
    env = trickle_command.env
    env |= {"TRICKLE_RUNTIME": supervisor.runtime, "TRICKLE_HOME": str(tmp_path / "home")}
    subprocess.run([program, "-s", *SIZE, "-o", tmp_path / "serial.ppm"], check=True, timeout=60)

    def status():
        result = trickle_command("status", "--json", "mandelbrot")
        return json.loads(result.stdout) if result.returncode == 0 else {"recorded": 0}

    def start():
        return subprocess.Popen([program, *SIZE, "-o", "farm.ppm"], cwd=tmp_path, env=env,
                                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def kill(process, at):
        """VMs and the program, when so much is recorded."""
        wait_for(lambda: process.poll() is not None or status()["recorded"] >= at,
                 f"{at} tiles are recorded")
        for vm in vm_pids(trickle_command):
            os.kill(vm, signal.SIGKILL)
        process.kill()
        process.communicate(timeout=60)

    kill(start(), 1)
    first = status()
    assert first["state"] == "stopped" and 0 < first["recorded"] < TILES, first
    kill(start(), min(first["recorded"] + 1, TILES))
    second = status()
    assert second["recorded"] >= first["recorded"], (first, second)
    result = trickle_command("resume", "mandelbrot", cwd="/")
    if second["state"] != "done":
        assert result.returncode == 0, result.stderr
    assert digest(tmp_path / "farm.ppm") == digest(tmp_path / "serial.ppm")
    after = status()
    assert (after["state"], after["recorded"], after["failed"]) == ("done", TILES, 0)
    assert (tmp_path / "farm.ppm").read_bytes().startswith(b"P6\n1600 1000\n255\n")
