# SPDX-License-Identifier: MIT
"""Jobs from outside: jobs, status, why, results, rm, fsck, on running, dead and damaged ones."""
import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from jobs_rig import Job

EIGHT_DAYS = 8 * 24 * 3600


@pytest.fixture
def home(monkeypatch, trickle_command):
    """A home of its own for each test."""
    with tempfile.TemporaryDirectory(prefix="trk-home-") as path:
        trickle_command.env["TRICKLE_HOME"] = path
        yield Path(path)


@pytest.fixture
def command(home, trickle_command):
    return trickle_command


@pytest.fixture
def run(command, tmp_path):
    """Runs a program to its end, with VMs of its own."""
    def run(text, *options, name="prog.py", status=0):
        path = tmp_path / name
        path.write_text(text)
        result = command("run", "--local=1", *options, path)
        assert result.returncode == status, result
        return result
    return run


SMALL = "vms = connect()\nprint(sum(forkwork(vms, abs, range(10))))\n"


def names(command):
    return {job["name"]: job["state"] for job in json.loads(command("jobs", "--json").stdout)}


# --- what there is --------------------------------------------------------------------------------


def test_without_jobs_there_is_a_sentence(command):
    result = command("jobs")
    assert (result.returncode, result.stdout) == (0, "") and "no jobs" in result.stderr
    assert command("jobs", "--json").stdout == "[]\n"


def test_each_run_is_a_job_with_the_next_number(run, command, home):
    assert run(SMALL).stdout == "45\n"
    run(SMALL)
    run(SMALL, name="1 odd näme.py")
    assert names(command) == {"prog-1": "done", "prog-2": "done", "1_odd_n_me-1": "done"}
    assert command("rm", "prog-1").returncode == 0
    run(SMALL)
    assert names(command) == {"prog-2": "done", "prog-3": "done", "1_odd_n_me-1": "done"}


def test_what_is_kept_is_private(run, home):
    run(SMALL)
    for path in [home, *home.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, (path, oct(mode))


@pytest.mark.parametrize("text, options", [("print(1)\n", []), (SMALL, ["--no-checkpoint"])])
def test_programs_that_are_no_jobs(text, options, run, command, home):
    run(text, *options)
    assert names(command) == {}


def test_a_job_can_be_named_but_only_once(run, command, tmp_path):
    run(SMALL, "--job", "sums")
    assert names(command) == {"sums": "done"}
    result = run(SMALL, "--job=sums", status=2)
    assert "trickle resume sums" in result.stderr and "trickle rm sums" in result.stderr
    result = run(SMALL, "--job=a/b", status=1)
    assert "cannot be the name of a job" in result.stderr


def test_a_home_that_cannot_be_used_is_said(command, tmp_path):
    (tmp_path / "prog.py").write_text(SMALL)
    (tmp_path / "file").touch()
    command.env["TRICKLE_HOME"] = str(tmp_path / "file" / "home")
    result = command("run", "--local=1", tmp_path / "prog.py")
    assert result.returncode == 1 and "TRICKLE_HOME" in result.stderr, result
    assert "--no-checkpoint" in result.stderr
    result = command("run", "--local=1", "--no-checkpoint", tmp_path / "prog.py")
    assert (result.returncode, result.stdout) == (0, "45\n"), result


@pytest.mark.parametrize("words", [["status", "nope"], ["why", "nope", "1"], ["results", "nope"],
                                   ["cancel", "nope"], ["resume", "nope"], ["fsck", "nope"]])
def test_an_unknown_job_is_answered_with_those_there_are(words, run, command):
    result = command(*words)
    assert result.returncode == 2 and "there are none" in result.stderr
    run(SMALL)
    result = command(*words)
    assert result.returncode == 2 and "there are: prog-1" in result.stderr


@pytest.mark.parametrize("words", [
    ["status"], ["status", "a", "b"], ["why", "a"], ["why", "a", "x"], ["rm"], ["jobs", "a"],
    ["results", "--json", "--pickle=x", "a"], ["resume", "--on-change=maybe", "a"],
    ["resume", "--local=none", "a"], ["cancel", "--json", "a"], ["status", "../up"],
    ["run", "--job=a", "--no-checkpoint", "x.py"]])
def test_wrong_words(words, command):
    result = command(*words)
    assert result.returncode == 2 and result.stderr.startswith("trickle: "), result


@pytest.mark.parametrize("name", ["jobs", "status", "why", "results", "cancel", "rm", "fsck",
                                  "resume"])
def test_help(name, command):
    result = command(name, "--help")
    assert result.returncode == 0 and result.stdout.startswith(f"usage: trickle {name}")
    assert all(len(line) <= 100 for line in result.stdout.splitlines())


# --- a running job --------------------------------------------------------------------------------


LOOKING = pytest.mark.xdist_group("a running job")  # the tests share it


@pytest.fixture(scope="module")
def running(tmp_path_factory, command_class):
    """One job that runs for all tests that only look."""
    directory = tempfile.mkdtemp(prefix="trk-")
    command = command_class(directory)
    command.env["TRICKLE_HOME"] = directory + "/home"
    job = Job(command, tmp_path_factory.mktemp("running"))
    job.start()
    job.wait_recorded(10)
    yield job
    job.open_gate()
    status, out, err = job.finish()
    assert (status, out) == (0, f"{job.sum}\n"), err
    subprocess.run(["rm", "-r", directory], check=True)


@LOOKING
def test_jobs_shows_who_runs_it(running):
    job, = running.json("jobs")
    assert (job["state"], job["pid"], job["runs"]) == ("running", running.process.pid, 1)
    assert (job["recorded"], job["failed"], job["bytes"] > 0) == (10, 1, True)
    line = running.command("jobs").stdout.splitlines()[1]
    assert f"running ({running.process.pid})" in line and "1 failed" in line


@LOOKING
def test_status_shows_what_runs_for_how_long(running):
    before = time.monotonic()
    status = running.status()
    assert time.monotonic() - before < 5
    stage, = status["stages"]
    assert (stage["name"], stage["recorded"], stage["added"], stage["failed"]) == (
        "work", 10, 20, 1)
    assert stage["is_closed"] and stage["is_open"] and stage["vms"] == 2
    assert {vm["element"] for vm in status["vms"]} == {x for x in running.runs() if x >= 10}
    later = running.status()
    for vm in status["vms"]:
        after, = [v for v in later["vms"] if v["index"] == vm["index"]]
        assert 0 <= vm["seconds"] < after["seconds"] and after["work"] == "work"
    assert status["store"]["syncs"] > 0 and not status["store"]["is_paused"]
    text = running.command("status", running.name).stdout
    assert "10 of 20 (50 %), 1 failed" in text and "work 10 for" in text


@LOOKING
def test_why_tells_of_any_element(running):
    tell = running.command
    text = tell("why", running.name, "3").stdout
    assert "ValueError: three" in text and "attempt 1 on VM" in text and "it failed" in text
    assert "gave" in tell("why", running.name, "4").stdout
    assert "it runs on VM" in tell("why", running.name, "10").stdout
    assert "no result yet" in tell("why", running.name, "19").stdout
    result = tell("why", running.name, "20")
    assert result.returncode == 1 and "no such element" in result.stdout
    seen = running.json("why", running.name, "3")
    assert seen["status"] == "exception" and seen["runs"][0]["outcome"] == "exception"


@LOOKING
def test_results_are_there_while_it_runs(running):
    lines = running.command("results", running.name).stdout.splitlines()
    assert lines[:5] == ["0: 0", "1: 1", "2: 4", "3: failed: ValueError: three", "4: 16"]
    assert len(lines) == 10
    one = json.loads(running.command("results", "--json", running.name).stdout.splitlines()[4])
    assert one == {"index": 4, "status": "ok", "attempt": 1, "value": 16}


@LOOKING
@pytest.mark.parametrize("words", [["rm"], ["resume"], ["fsck"]])
def test_a_running_job_is_left_alone(words, running):
    result = running.command(*words, running.name)
    assert result.returncode == 1 and str(running.process.pid) in result.stderr, result


def test_it_answers_while_the_program_holds_the_gil(command, tmp_path):
    path = tmp_path / "hold.py"
    path.write_text("import itertools\nvms = connect()\nforkwork(vms, abs, range(5))\n"
                    "print('on', flush=True)\n"
                    "sum(itertools.repeat(1))\n")  # one call of C code, for ever
    process = command.start("run", "--local=1", path)
    assert process.stdout.readline() == "on\n", process.communicate()
    status = json.loads(command("status", "--json", "hold-1").stdout)
    assert status["store"] is not None and [vm["element"] for vm in status["vms"]] == [None]
    process.kill()
    process.communicate()
    assert names(command) == {"hold-1": "stopped"}


# --- results --------------------------------------------------------------------------------------


def test_several_works_are_told_apart(run, command):
    run("vms = connect()\n"
        "print(sum(forkwork(vms, abs, range(4))), sum(forkwork(vms, abs, range(3))),"
        " forkwork(vms, len, ['ab'], name='lengths'))\n")
    result = command("results", "prog-1")
    assert result.returncode == 2 and "--stage" in result.stderr and "lengths" in result.stderr
    assert command("results", "prog-1", "--stage=lengths").stdout == "0: 2\n"
    assert command("results", "--stage", "2", "prog-1").stdout == "0: 0\n1: 1\n2: 2\n"
    assert command("why", "prog-1", "0", "--stage=lengths").returncode == 0
    result = command("results", "--stage=abs", "prog-1")
    assert result.returncode == 2 and "several" in result.stderr


def test_values_of_any_kind(run, command, tmp_path):
    (tmp_path / "shapes.py").write_text(
        "class Point:\n    def __init__(self, x): self.x = x\n"
        "    def __repr__(self): return f'Point({self.x})'\n")
    run("import shapes\ndef make(x):\n"
        "    return [shapes.Point(7), {'a': [1, None]}, {1: 2}, float('nan')][x]\n"
        "vms = connect()\nprint(len(forkwork(vms, make, range(4))))\n")
    got = [json.loads(line) for line in command("results", "--json", "prog-1").stdout.splitlines()]
    assert [line.get("repr", line.get("value")) for line in got] == [
        "Point(7)", {"a": [1, None]}, "{1: 2}", "nan"]
    target = tmp_path / "out.pickle"
    result = command("results", "--pickle", target, "prog-1")
    assert result.returncode == 0, result
    sys.path.insert(0, str(tmp_path))
    try:
        values = pickle.loads(target.read_bytes())
    finally:
        sys.path.remove(str(tmp_path))
    assert values[0].x == 7 and values[1] == {"a": [1, None]}
    (tmp_path / "shapes.py").unlink()
    result = command("results", "--json", "prog-1")
    line = json.loads(result.stdout.splitlines()[0])
    assert "pickle" in line and "shapes" in line["why"]
    assert "cannot be shown" in command("results", "prog-1").stdout.splitlines()[0]
    result = command("results", "--pickle", target, "prog-1")
    assert result.returncode == 1 and "element 0" in result.stderr


def test_a_reader_that_has_seen_enough_is_no_error(run, command):
    run("vms = connect()\nforkwork(vms, 'x'.__mul__, [10000] * 100)\n")
    process = command.start("results", "prog-1")
    assert process.stdout.read(10) == "0: 'xxxxxx"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(30) == 0
    process.stderr.close()


# --- its end --------------------------------------------------------------------------------------


def test_how_programs_end(run, command):
    run(SMALL + "raise SystemExit(3)\n", status=3)
    run(SMALL + "1 / 0\n", status=1)
    run(SMALL + "import os; os._exit(0)\n")
    run(SMALL + "raise SystemExit\n")
    assert names(command) == {"prog-1": "failed", "prog-2": "failed", "prog-3": "stopped",
                              "prog-4": "done"}
    assert "exit status 3" in command("status", "prog-1").stdout


def test_jobs_that_ended_well_go_after_seven_days(run, command, home):
    run(SMALL)
    run("vms = connect()\nprint(forkwork(vms, len, [1], on_error='return'))\n")
    run(SMALL + "1 / 0\n", status=1)
    run(SMALL)
    for name in ("prog-1", "prog-2", "prog-3"):
        os.utime(home / "jobs" / name / "data.mdb", (time.time() - EIGHT_DAYS,) * 2)
    run(SMALL)
    assert names(command) == {"prog-2": "done", "prog-3": "failed", "prog-4": "done",
                              "prog-5": "done"}


def test_removing_leaves_nothing(run, command, home):
    run(SMALL)
    uuid = json.loads(command("status", "--json", "prog-1").stdout)["uuid"]
    (home / "held" / uuid).mkdir(parents=True)
    (home / "held" / uuid / "x").touch()
    run(SMALL)
    result = command("rm", "prog-1", "nope", "prog-2")
    assert result.returncode == 1 and "nope" in result.stderr
    assert names(command) == {}
    assert os.listdir(home / "jobs") == [] and not (home / "held" / uuid).exists()


def test_a_damaged_store_is_seen_and_read_no_further(run, command, home):
    run(SMALL)
    assert command("fsck", "prog-1").stdout.startswith("prog-1: the store is whole")
    store = home / "jobs" / "prog-1" / "data.mdb"
    data = bytearray(store.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 + 20:page * 4096 + 40] = os.urandom(20)
    store.write_bytes(data)
    result = command("fsck", "prog-1")
    assert result.returncode == 1 and "damaged" in result.stdout
    assert names(command) == {"prog-1": "damaged"}
    assert "damaged" in command("status", "prog-1").stdout
    assert json.loads(command("fsck", "--json", "prog-1").stdout)["is_whole"] is False
    assert command("results", "prog-1").returncode == 2
    assert command("rm", "prog-1").returncode == 0 and names(command) == {}
