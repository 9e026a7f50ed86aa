# SPDX-License-Identifier: MIT
"""Another user of the machine at the sockets of VMs: the fault, and that the checker bites."""
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "chaos"))

from live import checker, evidence, faults, machine, stranger  # noqa: E402

needs_root = pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None,
                                reason="becoming another user needs root and setpriv")


@pytest.fixture
def world(tmp_path, build):
    (tmp_path / "logs").mkdir()
    made = machine.World(tmp_path, build, 1)
    runtime = tempfile.mkdtemp(prefix="trk-")
    made.machines.append(machine.Machine(made, "m0", tmp_path / "home", runtime))
    yield made
    made.stop_processes()
    made.close()
    shutil.rmtree(runtime, ignore_errors=True)


def judged(folder, detail):
    """The check that fails of a folder with this fault; "": none does."""
    (folder / "run.json").write_text(json.dumps({"start_monotonic": 0.0}))
    (folder / "events.jsonl").write_text(json.dumps(
        {"t": 1.0, "event": "fault", "kind": "hostile.other_user", "id": 7, "detail": detail}))
    (folder / "attempts").mkdir(exist_ok=True)
    checks = checker.Checks()
    checker.check_strangers(evidence.Evidence(folder), checks)
    return "".join(it["name"] for it in checks.done if not it["ok"])


@needs_root
@pytest.mark.parametrize("whom, connects", [([0.0, 0.9], False), ([0.0, 0.1], True)],
                         ids=["refused by modes", "refused by its user"])
def test_another_user_gets_nothing(world, whom, connects):
    own = world.machines[0].start_supervisor(1)
    own.wait_ready()
    fault = stranger.OtherUser({"id": 7, "whom": whom})
    fault.count = 20
    event = fault.start(world)
    assert (checker.PAST_MODES in event["detail"]) == connects
    assert fault.process.wait(30) == 0
    fault.stop(world)
    told = json.loads((world.dir / "logs/hostile-7.log").read_text())
    assert told["received_bytes"] == 0 and (told["connections"] > 0) == connects, told
    assert (told["refused"] > 0) != connects, told
    assert own.is_alive and judged(world.dir, event["detail"]) == ""


@pytest.mark.parametrize("detail, told, fails", [
    ("garbage", {"connections": 0, "received_bytes": 0}, False),
    ("garbage", {"connections": 1, "received_bytes": 0}, True),
    (f"half, {checker.PAST_MODES}", {"connections": 9, "received_bytes": 0}, False),
    (f"half, {checker.PAST_MODES}", {"connections": 9, "received_bytes": 1}, True),
    ("half", None, True)])
def test_the_checker_looks_what_became_of_it(tmp_path, detail, told, fails):
    (tmp_path / "logs").mkdir()
    if told is not None:
        (tmp_path / "logs/hostile-7.log").write_text(json.dumps(told))
    assert judged(tmp_path, detail) == ("another user is kept out" if fails else "")


def test_it_is_a_kind_of_fault():
    assert stranger.FAULTS == () or "hostile.other_user" in faults.all_kinds()[0]
