# SPDX-License-Identifier: MIT
"""trickle chaos: programs of the user's own, under faults."""
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "chaos"))
from live import leftovers  # noqa: E402

# Prints the same each time it is run; COST: how long its elements take.
GOOD = """
import time
def cost(x):
    time.sleep({cost})
    return x * x
vms = connect()
for result in forkgen(vms, cost, range({count}), ordered=True):
    if result % 1000 == 0:
        print(result)
print(sum(forkwork(vms, abs, range(-50, 0))))
"""
KILLS = "vm.kill,initiator.kill"


@pytest.fixture
def chaos(trickle_command, tmp_path):
    """Runs trickle chaos in a folder of its own; no process of it is left afterwards."""
    trickle_command.env["TMPDIR"] = str(trickle_command.directory)

    def run(*words, program=GOOD.format(cost=0.01, count=300), timeout=100):
        (tmp_path / "prog.py").write_text(program)
        return trickle_command("chaos", *words, cwd=tmp_path, timeout=timeout)
    yield run
    for folder in [tmp_path / "run", *(tmp_path / "run").glob("[0-9]*")]:
        assert leftovers.wait_processes(folder.resolve()) == {}


def last_line(done):
    return done.stderr.strip().rpartition("\n")[2]


def verdict(folder):
    return json.loads((folder / "verdict.json").read_text())


def test_rounds_that_give_the_same(chaos, tmp_path):
    done = chaos("--seed", "11", "--rounds", "2", "--only", KILLS, "--dir", "run", "prog.py")
    assert done.returncode == 0, done.stderr
    assert last_line(done).startswith("trickle chaos: ok: 2 rounds with "), done.stderr
    one, two = (tmp_path / "run" / name for name in "12")
    for folder in one, two:
        assert verdict(folder)["ok"] and (folder / "report.html").exists()
        text = (folder / "report.txt").read_text()
        assert "program prog.py" in text and "again: trickle chaos --seed 1" in text
        assert verdict(folder)["totals"]["elements"] == 350  # as the VMs noted them
    assert (one / "output/undisturbed.out").read_text() == (
        two / "output/undisturbed.out").read_text()
    assert (one / "logs/undisturbed.log").exists() and not (two / "logs/undisturbed.log").exists()
    kinds = [json.loads(line)["kind"] for line in (one / "plan.jsonl").read_text().splitlines()]
    assert kinds and set(kinds) <= set(KILLS.split(","))


def test_a_program_that_prints_something_else_each_time(chaos, tmp_path):
    done = chaos("--seed", "1", "--only", "vm.kill", "--dir", "run", "prog.py",
                 program="import os\nconnect()\nprint('I am', os.getpid())\n")
    assert done.returncode == 1
    assert "the output is the same: expected what the program prints undisturbed, saw line 1" in \
        done.stderr
    assert last_line(done).startswith("trickle chaos: FAILED: round 1, ")
    assert last_line(done).endswith("again: trickle chaos --seed 1 --only vm.kill prog.py")
    assert "FAILED" in (tmp_path / "run/report.txt").read_text()


@pytest.mark.parametrize("is_right", [True, False])
def test_what_is_expected_is_not_run_undisturbed(chaos, tmp_path, is_right):
    (tmp_path / "wanted").write_text("2450\n" if is_right else "2451\n")
    program = "def work(x): return 2 * x\nprint(sum(forkwork(connect(), work, range(50))))\n"
    done = chaos("--seed", "4", "--minutes", "0.1", "--rounds", "1", "--expect", "wanted", "--dir",
                 "run", "prog.py", program=program)
    assert done.returncode == (0 if is_right else 1), done.stderr
    assert ("ok: 1 round" in last_line(done)) == is_right
    assert not (tmp_path / "run/logs/undisturbed.log").exists()


def test_lines_in_any_order(chaos):
    program = """
import random
def work(x): return x
for x in forkgen(connect(), work, random.sample(range(30), 30)):
    print(x)
"""
    done = chaos("--seed", "2", "--unordered", "--only", "vm.stop", "--dir", "run", "prog.py",
                 program=program)
    assert "the output is the same" not in done.stderr, done.stderr


def test_a_program_that_fails_by_itself(chaos, tmp_path):
    done = chaos("--dir", "run", "prog.py", program="print('no')\nraise SystemExit(3)\n")
    assert done.returncode == 1
    assert "prog.py ends with status 3 even when all is well" in done.stderr
    assert "FAILED: round 1 could not be judged" in last_line(done)


@pytest.mark.parametrize("words, sentence", [
    ([], "needs a program"),
    (["nothing.py"], "there is no program nothing.py"),
    (["--rounds", "none", "prog.py"], "--rounds takes a whole number from 1 on"),
    (["--vms", "0", "prog.py"], "--vms takes a whole number from 1 on"),
    (["--only", "vm.kill,vm.sing", "prog.py"], "there is no fault vm.sing here"),
    (["--only", "vm.kill", "--without", "vm.kill", "prog.py"], "no kind of fault is left"),
    (["--expect", "nothing", "prog.py"], "there is no file nothing to be expected"),
    (["--dir", ".", "prog.py"], ". is there already"),
    (["--report", "nothing"], "there is no directory nothing"),
    (["--sing", "prog.py"], "there is no option --sing here")])
def test_wrong_usage(chaos, words, sentence):
    done = chaos(*words)
    assert done.returncode == 2 and sentence in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_help(chaos):
    done = chaos("--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: trickle chaos")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_nothing_is_left(chaos, trickle_command, tmp_path, number):
    (tmp_path / "prog.py").write_text(GOOD.format(cost=0.05, count=2000))
    process = trickle_command.start("chaos", "--dir", "run", "prog.py", cwd=tmp_path)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("run/logs/undisturbed.log")):
        assert time.monotonic() < until and process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    if number != signal.SIGKILL:
        assert process.returncode == 130 and "interrupted" in err, err


def test_what_vms_note(trickle_command, tmp_path):
    (tmp_path / "prog.py").write_text("""
def work(x):
    if x == 2:
        raise ValueError("two")
    return x
forkwork(connect(), work, range(4), on_error="return", name="a work")
""")
    trickle_command.env["TRICKLE_NOTES"] = str(tmp_path / "m")
    done = trickle_command("run", "--local=1", "--no-checkpoint", tmp_path / "prog.py")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("m-*.log")
    pid = path.stem.partition("-")[2]
    rows = [line.split() for line in path.read_text().splitlines()]
    assert [(row[0], row[1], row[2], row[3]) for row in rows] == [
        (what, "a_work", str(x), pid) for x in range(4) for what in ("B", "X" if x == 2 else "E")]
    times = [int(row[4]) for row in rows]
    assert times == sorted(times) and times[0] > 0
    assert os.stat(path).st_mode & 0o077 == 0
