# SPDX-License-Identifier: MIT
"""chaos/live as a program: plans, what it leaves, and runs of a user's own program. Runs of its
own workloads are tests of meson's (suite chaos)."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TRICKLE_BUILD", ROOT / "build")).resolve()
sys.path.insert(0, str(ROOT / "chaos"))

from live import faults, leftovers, own, plan, workloads  # noqa: E402

PROGRAM = """
import sys, time
def square(x):
    time.sleep(0.01)
    return x * x
vms = connect(timeout=60)
print(sum(forkwork(vms, square, range(int(sys.argv[1])))))
{more}
"""


def kinds():
    classes, weights, lasting = faults.all_kinds()
    return weights, {**lasting, **faults.durations(2.0)}


def test_a_plan_depends_on_the_seed_only(tmp_path):
    one, same, other = (plan.make(seed, 600, *kinds()) for seed in (1, 1, 2))
    assert one == same != other
    plan.write(tmp_path / "plan.jsonl", one)
    assert plan.read(tmp_path / "plan.jsonl") == one
    assert [it["at"] for it in one] == sorted(it["at"] for it in one)
    assert 200 < len(one) < 600 and one[-1]["at"] < 600


def test_each_kind_of_fault_comes_with_some_seed():
    seen = {it["kind"] for seed in range(20) for it in plan.make(seed, 60, *kinds())}
    assert seen == set(faults.all_kinds()[0])


def test_kinds_that_are_chosen_by_hand_all_come():
    chosen = {"vm.kill": 1, "vm.term": 1, "vm.stop": 1}
    for seed in range(20):
        items = plan.make(seed, 120, chosen, kinds()[1], is_chosen=True)
        assert {it["kind"] for it in items} == set(chosen)


def test_a_counted_plan_has_just_so_many():
    items = plan.make_counted(1, {"vm.kill": 200, "initiator.kill": 50}, {})
    assert [sum(it["kind"] == kind for it in items) for kind in ("vm.kill", "initiator.kill")] == \
        [200, 50]
    assert all(0 < it["after"] < 1 for it in items)


def test_the_mixed_workload_has_all_kinds_each_round_and_what_belongs_together_in_turn():
    orders = set()
    for turn in range(20):
        stages = {stage.kind: stage.count for stage in workloads.stages(5, "mix", turn)}
        found = list(stages)
        assert stages["trivial"] == (1000 if turn else 20_000)
        assert sorted(found) == sorted(set(workloads.KINDS) - ({"sizes"} if turn else set()))
        assert found.index("second") == found.index("first") + 1
        orders.add(tuple(found))
    assert len(orders) > 10


def test_a_program_that_has_just_ended_is_not_taken_for_killed():
    """Else it would be started again, and find its job done."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    program = SimpleNamespace(process=process, pid=process.pid, is_counted=False)
    world = SimpleNamespace(program=program, machines=[SimpleNamespace(name="m0")])
    assert faults.InitiatorKill({"whom": [0.5, 0.1]}).kill(world) is None
    assert not program.is_counted


@pytest.mark.parametrize("said, judged", [("[trickle: chaos is done: 400 results]\n", 0),
                                          ("[trickle: chaos goes on]\n", 1)])
def test_a_run_that_is_told_that_the_job_is_done_is_not_judged(tmp_path, said, judged):
    (tmp_path / "logs").mkdir()
    for number, out, log in ((0, "7\n", ""), (1, "", said)):
        (tmp_path / f"program-{number}.out").write_text(out)
        (tmp_path / f"logs/program-{number}.log").write_text(log)
    paths = [tmp_path / f"program-{number}.out" for number in (0, 1)]
    seen = SimpleNamespace(dir=tmp_path, outputs=lambda: list(enumerate(paths)))
    assert own.last_output(seen) == paths[judged]


def start(tmp_path, *words):
    env = {name: value for name, value in os.environ.items() if not name.startswith("TRICKLE_")}
    return subprocess.Popen(
        [BUILD / "chaos/live", "--dir", tmp_path / "run", "--build", BUILD, *map(str, words)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_program(tmp_path, more="", count=400):
    (tmp_path / "own.py").write_text(PROGRAM.format(more=more))
    process = start(tmp_path, "--seed", 3, "--harshness", 10, "--without", "vm.stop,initiator.stop",
                    "--program", tmp_path / "own.py", count)
    _, err = process.communicate(timeout=110)
    return process.returncode, err


needs_plain_build = pytest.mark.skipif("asan" in BUILD.name, reason="runs without preloading")


@needs_plain_build
def test_an_own_program_gives_what_it_gives_undisturbed(tmp_path):
    status, err = run_program(tmp_path)
    assert status == 0, err
    verdict = json.loads((tmp_path / "run/verdict.json").read_text())
    assert verdict["ok"] and verdict["totals"]["faults"]
    assert (tmp_path / "run/output/undisturbed.out").read_text() == \
        f"{sum(x * x for x in range(400))}\n"
    assert leftovers.processes(tmp_path / "run") == {}


@needs_plain_build
def test_a_run_that_fails_keeps_its_folder_and_says_how_to_repeat_it(tmp_path):
    status, err = run_program(tmp_path, "print(time.time())")
    assert status == 1
    assert "FAILED  the output is the same: expected what the program prints undisturbed" in err
    again, = re.findall(r"again: (.*)", err)
    assert again.startswith("build/chaos/live --seed 3 --harshness 10.0 ") and str(
        tmp_path / "run") in err
    assert again.endswith(f"--program {tmp_path}/own.py 400")
    assert not json.loads((tmp_path / "run/verdict.json").read_text())["ok"]


def wait_running(folder):
    """Until elements run."""
    until = time.monotonic() + 60
    while not any((folder / "attempts").glob("*.log")):
        assert time.monotonic() < until
        time.sleep(0.02)


@needs_plain_build
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 130),
                                            (signal.SIGKILL, -9)])
def test_however_it_ends_nothing_is_left(tmp_path, number, status):
    process = start(tmp_path, "--seed", 4, "--workload", "steady")
    wait_running(tmp_path / "run")
    since = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert time.monotonic() - since < 5
    assert leftovers.wait_processes(tmp_path / "run") == {}
    assert number == signal.SIGKILL or str(tmp_path / "run") in err


def test_a_folder_is_never_written_over(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine").touch()
    process = start(tmp_path, "--seed", 4)
    assert "is there already" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
