# SPDX-License-Identifier: MIT
"""A peer that means no good, and a job that ends right beside it: each of its ways, and the faults
of a plan that use them."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "chaos"))

from live import hostile, netfaults, network as net  # noqa: E402

pytestmark = [pytest.mark.skipif(net.why_none() != "", reason=net.why_none() or "none"),
              pytest.mark.xdist_group("network")]

PROGRAM = """
import time
def work(x):
    time.sleep(0.01)
    return x * x
vms = connect(2)
print(sum(forkwork(vms, work, range(COUNT))))
"""


class World:
    """What a fault sees of a run."""

    def __init__(self, network, folder):
        self.network, self.dir = network, folder
        (folder / "logs").mkdir()


class Farm:
    """A program's machine, one with two VMs, and what they say."""

    def __init__(self):
        self.network = net.Network(2, seed=7)
        self.network.share_key()
        self.here, self.there = self.network.machines
        self.log = self.there.path("log")
        ready, write = os.pipe()
        with open(self.log, "wb") as log:
            self.supervisor = self.there.start(net.BUILD / "trickle-vm", "-n", "2", "--lan",
                                               "--log", "info", "--ready-fd", write,
                                               pass_fds=[write], stderr=log)
        os.close(write)
        assert os.read(ready, 1) != b""
        os.close(ready)

    def begin(self, count=50, words=("run",)):
        self.here.path("work/prog.py").write_text(PROGRAM.replace("COUNT", str(count)))
        return self.here.start(net.BUILD / "trickle", *words, "--lan",
                               *(["prog.py"] if words == ("run",) else []), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(self, process, count=50):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, f"{sum(x * x for x in range(count))}\n"), err


@pytest.fixture(scope="module")
def farm():
    own = Farm()
    yield own
    try:  # after all that
        own.finish(own.begin())
        own.supervisor.send_signal(signal.SIGTERM)
        assert own.supervisor.wait(20) == 0
    finally:
        own.network.close()


@pytest.mark.parametrize("mode, options, is_answered", [
    ("garbage", {"rate": 0}, False), ("garbage", {"rate": 200}, False),
    ("half", {"rate": 20, "open": 20, "hold": 500}, False),
    ("half", {"rate": 1000, "open": 300, "hold": 10000}, False),
    ("huge", {"rate": 200, "hold": 500}, True), ("replay", {"rate": 200, "hold": 500}, True)],
    ids=["garbage, fast", "garbage", "half", "half, a crowd", "huge", "replay"])
def test_a_job_ends_right_beside_it(farm, tmp_path, mode, options, is_answered):
    farm.finish(farm.begin())
    if mode == "replay":
        assert hostile.save_stream(farm.network, tmp_path / "heard", 0.9)
        options = {**options, "file": tmp_path / "heard"}
    peer = hostile.start(farm.network, mode, log=subprocess.PIPE, **options)
    farm.finish(farm.begin())
    peer.terminate()
    told = hostile.outcome(peer)
    assert told["connections"] > 0 and told["refused"] == 0, told
    if is_answered:  # an alert, or the answer to a hello, and then the end
        assert told["closed_by_peer"] > 0 and told["received_bytes"] > 0, told
    assert farm.supervisor.poll() is None
    assert farm.network.tls_connections() > 0
    assert "signal" not in farm.log.read_text()  # of a VM that died


def kill_amid(farm, words=("run",)):
    """Begins a job or goes on with it, and kills it when there are more results than before."""
    def recorded():
        if not farm.here.path("state/jobs/prog-1/data.mdb").exists():
            return 0
        return json.loads(farm.here.output(net.BUILD / "trickle", "status", "--json",
                                           "prog-1"))["recorded"]
    before = recorded()
    process = farm.begin(300, words)
    net.wait_for(lambda: recorded() > before, "more results")
    process.kill()
    process.communicate()


@pytest.fixture
def stale(farm, tmp_path):
    """Begins to ask in the name of the run before, once there has been one."""
    shutil.rmtree(farm.here.path("state/jobs"), ignore_errors=True)
    kill_amid(farm)
    world, fault = World(farm.network, tmp_path), hostile.OldEpoch({"id": 1, "whom": [0.5, 0.5]})

    def count():
        found = farm.network.counters().get(("hostile", farm.there.name))
        return found["tls"] if found else 0

    def begin():
        before = count()
        assert fault.start(world)["detail"] == "the run before of prog-1"
        net.wait_for(lambda: count() > before + 5, "questions")

    def end():
        fault.stop(world)
        return json.loads((tmp_path / "logs/hostile-1.log").read_text())
    return begin, end


def test_a_run_that_is_over_gets_no_lease(farm, stale):
    """Somebody who has the key goes on asking in its name."""
    begin, end = stale
    process = farm.begin(300, ("resume", "prog-1"))
    net.wait_for(lambda: "leased" in farm.here.output(net.BUILD / "trickle", "vms", "--lan"),
                 "a lease")
    begin()
    farm.finish(process, 300)
    told = end()
    assert (told["epoch"], told["granted"]) == (1, 0) and told["refused"] > 0, told


def test_a_run_that_is_over_does_not_keep_the_next_from_its_vms(farm, stale):
    """Nobody runs the job: VMs that have not heard of it give the lease, and get it back."""
    begin, end = stale
    kill_amid(farm, ("resume", "prog-1"))
    begin()
    farm.finish(farm.begin(300, ("resume", "prog-1")), 300)
    assert end()["epoch"] == 1


@pytest.mark.parametrize("cls", [*netfaults.FAULTS, *hostile.FAULTS], ids=lambda cls: cls.kind)
def test_faults_of_a_plan_begin_and_end(farm, tmp_path, cls):
    """With many choices; in the end all is as it was."""
    world, draw = World(farm.network, tmp_path), random.Random(3)
    for number in range(3):
        fault = cls({"id": number, "whom": [draw.random(), draw.random()]})
        event = fault.start(world)
        assert event is None or set(event) == {"machine", "vm", "pid", "detail"}
        assert event is not None or cls in (hostile.OldEpoch, hostile.Replay)
        assert event is None or farm.network.machine(event["machine"])
        fault.stop(world)
    assert farm.network.conditions == []
    assert cls.kind in KINDS


KINDS = ("net.delay net.loss net.duplicate net.reorder net.rate net.partition "
         "net.partition_one_way net.reset net.move net.multicast_lost hostile.garbage hostile.half "
         "hostile.huge hostile.old_epoch hostile.replay").split()


def test_no_kind_is_missing_or_there_twice():
    assert sorted(cls.kind for cls in (*netfaults.FAULTS, *hostile.FAULTS)) == sorted(KINDS)
    assert net.FAULTS == netfaults.FAULTS
