# SPDX-License-Identifier: MIT
"""trickle resume and cancel, by real programs that are stopped and killed."""
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jobs_rig import Job, wait_for
from supervisors import PACKAGES


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(prefix="trk-home-") as path:
        yield Path(path)


@pytest.fixture
def command(home, trickle_command):
    trickle_command.env["TRICKLE_HOME"] = str(home)
    return trickle_command


@pytest.fixture
def job(command, tmp_path):
    job = Job(command, tmp_path)
    yield job
    job.open_gate()
    if job.process is not None and job.process.poll() is None:
        job.process.kill()
        job.process.communicate()


def state(job):
    return job.status()["state"]


def stop_by(job, how):
    """Stops the job with ten results; (status, err)."""
    job.start()
    job.wait_recorded(10)
    if how == "cancel":
        result = job.command("cancel", job.name)
        assert result.returncode == 0, result
    else:
        job.process.send_signal(how)
    if how == signal.SIGKILL:
        job.process.wait(30)
        job.open_gate()  # its VMs finish what they run before they end
        assert job.command.wait_until_nothing_is_left(30), job.command.processes()
    status, out, err = job.finish()
    assert out == ""
    return status, err


def go_on(job, *options):
    result = job.command("resume", *options, job.name)
    assert (result.returncode, result.stdout) == (0, f"{job.sum}\n"), result
    return result


# --- stopping and going on ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", signal.SIGINT, signal.SIGTERM])
def test_a_stopped_job_says_how_to_go_on_and_does(how, job):
    status, err = stop_by(job, how)
    assert status == 75 and err.endswith("[trickle: stopped; go on with: trickle resume prog-1]\n")
    assert "Traceback" not in err
    assert state(job) == "stopped"
    result = job.command("cancel", job.name)
    assert result.returncode == 1 and "nobody runs" in result.stderr
    job.open_gate()
    result = go_on(job)
    assert "prog-1 goes on: 10 results are recorded" in result.stderr
    runs = job.runs()
    assert {x: runs[x] for x in range(10)} == dict.fromkeys(range(10), 1)
    assert set(runs) == set(range(20)) and state(job) == "done"


def test_after_kill_9(job):
    stop_by(job, signal.SIGKILL)
    assert state(job) == "stopped"
    assert "11 of" not in job.command("jobs").stdout
    assert "no result yet" in job.command("why", job.name, "12").stdout
    assert len(job.command("results", job.name).stdout.splitlines()) == 10
    assert job.command("fsck", job.name).returncode == 0
    job.open_gate()
    go_on(job)
    assert all(count == 1 for x, count in job.runs().items() if x < 10)
    assert job.status()["runs"] == 2


def test_resumed_at_once_it_waits_for_vms_that_finish_what_they_run(job, supervise):
    """They are the last run's, and the only ones there are."""
    vms = supervise(count=2)
    job.command.env["TRICKLE_RUNTIME"] = vms.runtime
    job.process = job.command.start("run", job.program)
    ran = {vm["element"] for vm in job.wait_recorded(10)["vms"]}
    job.process.kill()
    job.process.communicate()
    job.process = job.command.start("resume", job.name)
    said = job.process.stderr.readline() + job.process.stderr.readline()
    assert "waiting for 2 VMs that finish what they run for" in said and "gone" in said, said
    finishing = [vm["state"] for vm in job.json("vms")]
    job.open_gate()
    status, out, err = job.finish()
    assert (status, out, finishing) == (0, f"{job.sum}\n", ["finishing"] * 2), err
    again = {x for x, n in job.runs().items() if n != 1}
    assert again <= ran and len(again) < 2, err  # what the one that is free later holds comes late


def test_a_job_that_is_done_runs_nothing(job):
    job.open_gate()
    job.start()
    assert job.finish()[0] == 0
    result = job.command("resume", job.name)
    assert (result.returncode, result.stdout) == (0, "")
    assert "prog-1 is done: 20 results, 1 elements failed: --retry-failed" in result.stderr
    assert max(job.runs().values()) == 1


def test_a_job_that_is_done_has_written_its_output(command, tmp_path):
    """It is not run again, so what still was in a buffer when it was killed would be lost."""
    command.env.pop("PYTHONUNBUFFERED", None)
    (tmp_path / "prog.py").write_text(
        "import atexit, os, signal\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGKILL))\n"  # after the job's end
        "found = forkwork(connect(), lambda x: x * x, range(5))\n"
        "atexit.register(lambda: print(sum(found)))\n")  # before it
    result = command("run", "--local=1", tmp_path / "prog.py")
    assert result.returncode == -signal.SIGKILL, result
    assert command("resume", "prog-1").stderr.startswith("[trickle: prog-1 is done: 5 results")
    assert result.stdout == "30\n"


def test_a_job_whose_output_cannot_be_written_is_not_done(job):
    job.command.env.pop("PYTHONUNBUFFERED", None)
    job.open_gate()
    with open("/dev/full", "w") as full:
        job.process = job.command.start("run", "--local=2", job.program, stdout=full)
        assert job.finish()[0] == 120
    assert (state(job), job.status()["exit_status"]) == ("failed", 120)
    go_on(job)
    assert state(job) == "done" and max(job.runs().values()) == 1


def test_retry_failed_runs_what_failed_again(job):
    job.open_gate()
    job.start()
    assert job.finish()[0] == 0
    job.program.write_text(job.program.read_text().replace("if x == 3:", "if x == 300:"))
    result = job.command("resume", "--retry-failed", "--on-change=keep", job.name)
    assert (result.returncode, result.stdout) == (0, f"{job.sum + 9}\n"), result
    assert {x for x, count in job.runs().items() if count > 1} == {3}
    assert job.status()["failed"] == 0


def test_only_one_goes_on(job):
    stop_by(job, "cancel")
    first = job.command.start("resume", job.name)
    wait_for(lambda: state(job) == "running", "resume")
    second = job.command("resume", job.name)
    assert second.returncode == 1 and str(first.pid) in second.stderr, second
    job.open_gate()
    out, err = first.communicate(timeout=60)
    assert (first.returncode, out) == (0, f"{job.sum}\n"), err


def test_changed_code_is_refused_until_it_is_said_what_to_do(job):
    stop_by(job, "cancel")
    job.open_gate()
    job.program.write_text(job.program.read_text().replace("x * x", "-x * x"))
    result = job.command("resume", job.name)
    assert result.returncode == 1 and "ResumeMismatch" in result.stderr, result
    assert max(job.runs()[x] for x in range(10)) == 1
    result = job.command("resume", "--on-change=redo", job.name)
    assert (result.returncode, result.stdout) == (0, f"{-job.sum}\n"), result
    assert min(job.runs()[x] for x in range(10)) == 2


def test_a_damaged_store_is_saved_by_resume(job, home):
    stop_by(job, signal.SIGKILL)
    store = home / "jobs" / job.name / "data.mdb"
    data = bytearray(store.read_bytes())
    data[40:60] = bytes(20)  # of the first two pages, which everything else depends on
    data[4096 + 40:4096 + 60] = bytes(20)
    store.write_bytes(data)
    assert state(job) == "damaged"
    job.open_gate()
    result = go_on(job)
    assert "damaged" in result.stderr and max(job.runs()[x] for x in range(10)) <= 2
    assert state(job) == "done"


# --- the same as before ---------------------------------------------------------------------------


SAME = """\
import os, sys
vms = connect()
print(sys.argv[1:], os.getcwd(), hash("seed"), sys.flags.hash_randomization,
      *(os.environ.get(n) for n in ("LANG", "TZ", "PYTHONWHAT", "KEPT", "OTHER", "SHLVL")), sep="|")
print(sum(forkwork(vms, abs, range(5))))
if not os.path.exists("ready"):
    sys.exit(4)
"""


def test_it_is_run_as_it_was_run(command, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "same.py").write_text(SAME)
    start = {**command.env, "LANG": "C.UTF-8", "PYTHONWHAT": "1", "KEPT": "k", "OTHER": "secret1"}
    start.pop("TZ", None)
    first = command("run", "--local=1", "--keep-env=KEPT", "same.py", "-x", "two words",
                    env=start, cwd=tmp_path / "deep")
    assert first.returncode == 4, first
    later = {**command.env, "LANG": "C", "TZ": "UTC", "KEPT": "no", "OTHER": "secret2", "NEW": "n",
             "PYTHONMORE": "1", "PYTHONHASHSEED": "7"}
    again = command("resume", "same-1", env=later, cwd="/")
    assert again.returncode == 4, again
    assert again.stdout == first.stdout.replace("secret1", "secret2")
    told = [line for line in again.stderr.splitlines() if "differ" in line]
    assert told == ["[trickle: environment variables that differ from those of the job's start: "
                    "NEW OTHER]"]
    (tmp_path / "deep" / "ready").touch()
    last = command("resume", "--keep-env", "TZ", "same-1", env={**later, "KEPT": "x"}, cwd="/")
    assert last.returncode == 0, last
    assert last.stdout.split("|")[3:8] == ["1", "C.UTF-8", "UTC", "1", "k", "secret2"][:5], last


def test_what_the_job_needs_is_gone(command, tmp_path):
    (tmp_path / "gone").mkdir()
    path = tmp_path / "gone" / "prog.py"
    path.write_text("vms = connect()\nforkwork(vms, abs, [1])\n1 / 0\n")
    assert command("run", "--local=1", "prog.py", cwd=path.parent).returncode == 1
    path.unlink()
    result = command("resume", "prog-1")
    assert result.returncode == 2 and "prog.py" in result.stderr
    path.parent.rmdir()
    result = command("resume", "prog-1")
    assert result.returncode == 2 and "gone" in result.stderr


# --- programs of their own ------------------------------------------------------------------------


OWN = """\
import os, sys, trickle
{first}
from trickle import connect, forkwork
def work(x):
    with open({log!r}, "a") as log:
        log.write("x\\n")
    return x
vms = connect()
forkwork(vms, work, range(6))
if not os.path.exists({log!r} + ".done"):
    raise RuntimeError("not yet")
print("end")
"""


@pytest.mark.parametrize("first, env", [("trickle.job('own')", {}), ("", {"TRICKLE_JOB": "own"}),
                                        ("trickle.job('other')", {"TRICKLE_JOB": "own"})])
def test_a_program_of_its_own_has_a_job(first, env, supervise, command, home, tmp_path):
    vms = supervise(count=2)
    command.env["TRICKLE_RUNTIME"] = vms.runtime
    log = tmp_path / "log"
    path = tmp_path / "own.py"
    path.write_text(OWN.format(first=first, log=str(log)))
    own = {**command.env, **env, "PYTHONPATH": PACKAGES}
    done = subprocess.run([sys.executable, "own.py"], cwd=tmp_path, env=own, text=True,
                          capture_output=True)
    assert done.returncode == 1 and "not yet" in done.stderr, done
    assert json.loads(command("status", "--json", "own").stdout)["state"] == "failed"
    Path(f"{log}.done").touch()
    again = command("resume", "own")
    assert (again.returncode, again.stdout) == (0, "end\n"), again
    assert log.read_text() == "x\n" * 6
    status = json.loads(command("status", "--json", "own").stdout)
    assert (status["state"], status["runs"]) == ("done", 2)
    assert os.listdir(home / "jobs") == ["own"]


def test_job_comes_before_connect(run_program):
    result = run_program("import trickle\ntrickle.connect(1)\ntrickle.job('late')\n")
    assert result.status == 1 and "before connect()" in result.err


def test_once_before_connect_is_recorded(supervise, command, tmp_path):
    path = tmp_path / "prog.py"
    path.write_text("import os, trickle\nvalue = trickle.once('v', lambda: os.urandom(4))\n"
                    "print(value)\nraise SystemExit(9)\n")
    first = command(path)
    assert first.returncode == 9, first
    again = command("resume", "prog-1")
    assert (again.returncode, again.stdout) == (9, first.stdout), again


def test_a_child_of_the_program_leaves_the_job_alone(command, tmp_path):
    path = tmp_path / "prog.py"
    path.write_text("import os, sys\nvms = connect()\nprint(sum(forkwork(vms, abs, range(5))))\n"
                    "sys.stdout.flush()\npid = os.fork()\nif pid == 0:\n    sys.exit(5)\n"
                    "os.waitpid(pid, 0)\nprint(sum(forkwork(vms, abs, range(6))))\n")
    result = command("run", "--local=1", path)
    assert (result.returncode, result.stdout) == (0, "10\n15\n"), result
    assert json.loads(command("status", "--json", "prog-1").stdout)["state"] == "done"


def test_ctrl_c_while_the_job_is_opened_comes_when_it_can_be_resumed(command, tmp_path):
    program = tmp_path / "early.py"
    program.write_text("""
import os, signal
import trickle._job as job
opening = job._open
def interrupted(wanted):
    opened = opening(wanted)
    if opened.opened()["epoch"] == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return opened
job._open = interrupted
print(forkwork(connect(1), len, ["abc"]))
""")
    first = command("run", "--local=1", program)
    assert first.returncode == 75 and "go on with: trickle resume early-1" in first.stderr, first
    again = command("resume", "early-1")
    assert (again.returncode, again.stdout) == (0, "[3]\n"), again
