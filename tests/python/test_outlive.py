# SPDX-License-Identifier: MIT
"""VMs outlive their initiator: what they finish without it is there for the job's next run."""
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runlog import Log, beside

PROGRAM = """
import sys
import trickle
from runlog import hold, note
trickle.job(sys.argv[1], on_change=sys.argv[4] if len(sys.argv) > 4 else "refuse")
def work(job):
    x = note(job)
    hold(job, f"gate{x}")
    return x * 10
vms = trickle.connect()
print(trickle.forkwork(vms, work, [(sys.argv[2], x) for x in range(int(sys.argv[3]))]))
"""


class Job:
    """A durable program that notes its elements, and its VMs."""

    def __init__(self, supervisor, folder, text=PROGRAM, name="job"):
        self.log = Log(folder)
        self.name = name
        self.program = folder / "program.py"
        self.program.write_text(text)
        self.env = {**supervisor.env, **beside(supervisor)}
        self.process = None

    def start(self, count, *options):
        self.process = subprocess.Popen(
            [sys.executable, self.program, self.name, self.log.folder, str(count), *options],
            env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def finish(self):
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out.splitlines()[-1]

    def wait_runs(self, count):
        self.log.wait(lambda: len(self.log.runs()) >= count)

    def leave_running(self, count):
        """A run that is killed when its elements have begun."""
        self.start(count)
        self.wait_runs(count)
        self.kill()

    def leave_result(self):
        """A run of one element that is killed while it runs; its VM holds the result."""
        self.leave_running(1)
        self.log.open("gate0")
        self.log.wait(lambda: len(held()) == 1)


def held():
    """The files of what is held for any job."""
    return [path for path in Path(os.environ["TRICKLE_HOME"], "held").glob("*/*")
            if path.suffix == ".held"]


@pytest.fixture(autouse=True)
def home(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="trk-home-") as path:
        monkeypatch.setenv("TRICKLE_HOME", path)
        yield path


def expected(count):
    return str([x * 10 for x in range(count)])


def test_a_killed_programs_elements_are_finished_and_never_run_again(supervise, tmp_path):
    job = Job(supervise(count=2), tmp_path)
    job.start(6)
    job.wait_runs(2)
    job.kill()
    job.log.open("gate0")
    job.log.open("gate1")
    job.log.wait(lambda: len(held()) == 2)
    assert sorted(x for x, _ in job.log.runs()) == [0, 1]  # what had not begun was dropped
    for x in range(2, 6):
        job.log.open(f"gate{x}")
    job.start(6)
    assert job.finish() == expected(6)
    assert job.log.counts() == {x: 1 for x in range(6)}
    job.log.wait(lambda: not held())


def test_a_vm_is_busy_until_its_element_has_ended_and_free_then(supervise, tmp_path, run_program):
    supervisor = supervise(count=1)
    job = Job(supervisor, tmp_path)
    job.leave_running(1)
    other = "import trickle\nprint(trickle.forkwork(trickle.connect(1), abs, [-3]))\n"
    program = subprocess.Popen([sys.executable, "-c", other], env=supervisor.env, text=True,
                               stdout=subprocess.PIPE)
    job.log.open("gate0")
    assert program.communicate(timeout=60)[0] == "[3]\n"
    assert len(held()) == 1


def test_a_result_that_comes_while_the_next_run_waits_counts(supervise, tmp_path):
    job = Job(supervise(count=2), tmp_path)
    job.leave_running(2)
    job.log.open("gate0")
    job.log.wait(lambda: len(held()) == 1)  # one VM is free again, the other runs element 1
    job.start(2)
    job.wait_runs(3)  # which has begun once more on the free one
    job.log.open("gate1")
    assert job.finish() == expected(2)
    assert job.log.counts()[0] == 1


def test_what_is_held_does_not_begin_again_when_its_list_comes_slowly(supervise, tmp_path):
    """Supervisors are asked when the first element is there; what they hold is the second one's."""
    text = PROGRAM.replace("[(sys.argv[2], x) for x in range(int(sys.argv[3]))]", "slowly()")
    text = text.replace("vms =", """def slowly():
    yield sys.argv[2], 0
    time.sleep(0.3 * (len(sys.argv) > 4))  # in the second run
    yield sys.argv[2], 1
vms =""").replace("import sys", "import sys, time")
    job = Job(supervise(count=1), tmp_path, text)
    job.log.open("gate0")
    job.leave_running(2)
    job.log.open("gate1")
    job.log.wait(lambda: len(held()) == 1)
    job.start(2, "refuse")
    assert job.finish() == "[0, 10]"
    assert len(job.log.runs()) == 2, job.log.runs()


def test_many_small_results_are_held(supervise, tmp_path):
    """What VMs had sent, and the program did not live to record, is held."""
    text = PROGRAM.replace('hold(job, f"gate{x}")', 'hold(job, "gate") if x > 500 else None')
    job = Job(supervise(count=2), tmp_path, text)
    job.start(600)
    job.wait_runs(300)
    job.kill()
    job.log.open("gate")
    job.start(600)
    assert job.finish() == expected(600)
    assert max(job.log.counts().values()) <= 2  # of those that were on their way, some run again


def test_a_result_of_a_list_that_had_just_been_changed_counts(supervise, tmp_path):
    job = Job(supervise(count=1), tmp_path, PROGRAM.replace("range(int(sys.argv[3]))",
                                                            "eval(sys.argv[3])"))
    job.log.open("gate0")
    job.log.open("gate1")
    job.start([0, 1])
    assert job.finish() == "[0, 10]"
    job.start([0, 2], "keep")
    job.wait_runs(3)
    job.kill()
    job.log.open("gate2")
    job.log.wait(lambda: len(held()) == 1)
    job.start([0, 2])
    assert job.finish() == "[0, 20]"
    assert job.log.counts() == {0: 1, 1: 1, 2: 1}
    job.log.wait(lambda: not held())


def test_a_failure_that_was_held_is_tried_again_where_failures_are(supervise, tmp_path):
    job = Job(supervise(count=1), tmp_path, PROGRAM.replace(
        '"refuse")', '"refuse", retry_failed=len(sys.argv) > 4)', 1).replace(
        "return x * 10", "return x * 10 + len(open(job[0] + '/fixed').read())"))
    job.leave_result()
    Path(job.log.folder, "fixed").write_text("fixed")
    job.start(1, "refuse")
    assert job.finish() == "[5]"
    assert job.log.counts() == {0: 2}


def test_of_another_code_nothing_is_taken(supervise, tmp_path):
    job = Job(supervise(count=1), tmp_path)
    job.leave_result()
    job.program.write_text(PROGRAM.replace("x * 10", "x + 7"))
    job.start(1, "redo")
    assert job.finish() == "[7]"
    assert job.log.counts() == {0: 2}


def test_of_another_element_nothing_is_taken(supervise, tmp_path):
    job = Job(supervise(count=1), tmp_path)
    job.leave_result()
    job.program.write_text(PROGRAM.replace("x) for x in", "x + 5) for x in"))
    job.log.open("gate5")
    job.start(1, "keep")
    assert job.finish() == "[50]"


def test_of_another_job_of_that_name_nothing_is_taken(supervise, tmp_path, home):
    job = Job(supervise(count=1), tmp_path)
    job.leave_result()
    os.rename(f"{home}/jobs/{job.name}", f"{home}/elsewhere")
    job.start(1)
    assert job.finish() == expected(1)
    assert job.log.counts() == {0: 2}
    assert len(held()) == 1


def test_another_supervisor_of_the_machine_hands_it_over(supervise, tmp_path):
    first = supervise(count=1)
    job = Job(first, tmp_path)
    job.leave_running(1)
    first.process.send_signal(signal.SIGTERM)  # it finishes, too
    job.log.open("gate0")
    assert first.process.wait(30) == 0
    assert len(held()) == 1
    job.env.update(beside(supervise(count=1)))
    job.start(1)
    assert job.finish() == expected(1)
    assert job.log.counts() == {0: 1}


def test_a_damaged_file_costs_a_run_and_nothing_else(supervise, tmp_path):
    job = Job(supervise(count=1), tmp_path)
    job.leave_result()
    path, = held()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    job.start(1)
    assert job.finish() == expected(1)
    assert job.log.counts() == {0: 2}
    job.log.wait(lambda: not held())


def test_a_program_that_ends_in_order_leaves_nothing(supervise, tmp_path):
    job = Job(supervise(count=2), tmp_path)
    for x in range(20):
        job.log.open(f"gate{x}")
    job.start(20)
    assert job.finish() == expected(20)
    assert not held()


LATE = """
import sys
import trickle
from runlog import hold, note
trickle.job(sys.argv[1])
def work(job):
    x = note(job)
    hold(job, f"gate{x}")
    return x * 10
def elements():
    for x in range(int(sys.argv[3])):
        hold((sys.argv[2], x), f"made{x}")
        yield (sys.argv[2], x)
vms = trickle.connect()
print(sorted(trickle.forkgen(vms, work, elements())))
"""


def is_gone(pid):
    try:
        os.kill(pid, 0)
        return False
    except ProcessLookupError:
        return True


def test_a_result_waits_until_its_element_is_made(supervise, tmp_path):
    job = Job(supervise(count=1), tmp_path, LATE)
    for name in ("made0", "made1", "gate0"):
        job.log.open(name)
    job.leave_running(2)
    job.log.open("gate1")
    job.log.wait(lambda: is_gone(job.log.runs()[1][1]))  # it has finished, and kept what it has
    assert held()
    os.unlink(tmp_path / "made1")
    os.unlink(tmp_path / "gate1")  # to run again would never end
    job.start(2)
    job.log.open("made1")
    assert job.finish() == expected(2)


def test_what_cannot_be_kept_runs_again(supervise, tmp_path, home):
    job = Job(supervise(count=1), tmp_path)
    job.start(1)
    job.wait_runs(1)
    Path(home, "held").write_text("no folder")
    job.kill()
    job.log.open("gate0")
    job.start(1)
    assert job.finish() == expected(1)
    assert job.log.counts() == {0: 2}


def test_an_interrupted_program_ends_what_runs(supervise, tmp_path):
    job = Job(supervise(count=2), tmp_path)
    job.start(2)
    job.wait_runs(2)
    job.process.send_signal(signal.SIGINT)
    job.process.communicate(timeout=60)
    job.log.wait(lambda: all(is_gone(pid) for _, pid in job.log.runs()))
    assert not held()
    job.log.open("gate0")
    job.log.open("gate1")
    job.start(2)
    assert job.finish() == expected(2)
    assert job.log.counts() == {0: 2, 1: 2}


# An element of three parts notes 10 * (parts done) when it begins, and the part when that is safe.
CHECKPOINTS = """
import sys
import trickle
from runlog import hold, note
trickle.job(sys.argv[1])
def work(job):
    done = trickle.restore(0)
    note((job[0], 10 * done))
    for part in range(done + 1, 4):
        hold(job, f"gate{part}")
        trickle.checkpoint(part)
        note((job[0], part))
    return done
vms = trickle.connect()
print(trickle.forkwork(vms, work, [(sys.argv[2], x) for x in range(int(sys.argv[3]))]))
"""


def notes(job):
    return [x for x, _ in job.log.runs()]


def test_an_element_goes_on_from_its_checkpoint_when_its_vm_was_killed(supervise, tmp_path):
    job = Job(supervise(count=1), tmp_path, CHECKPOINTS)
    job.start(1)
    job.log.open("gate1")
    job.wait_runs(2)
    os.kill(job.log.runs()[0][1], signal.SIGKILL)
    job.wait_runs(3)
    job.log.open("gate2")
    job.log.open("gate3")
    assert job.finish() == "[1]"
    assert notes(job) == [0, 1, 10, 2, 3]


def test_an_element_goes_on_from_its_checkpoint_in_the_next_run(supervise, tmp_path):
    supervisor = supervise(count=1)
    job = Job(supervisor, tmp_path, CHECKPOINTS)
    job.start(1)
    job.log.open("gate1")
    job.wait_runs(2)
    job.kill()
    os.kill(job.log.runs()[0][1], signal.SIGKILL)  # before it can finish the element
    job.log.open("gate2")
    job.log.open("gate3")
    job.start(1)
    assert job.finish() == "[1]"
    assert notes(job) == [0, 1, 10, 2, 3]


# The same, but it makes checkpoints also while it waits.
BUSY = CHECKPOINTS.replace('hold(job, f"gate{part}")', """while not exists(f"{job[0]}/gate{part}"):
            trickle.checkpoint(part - 1)""").replace("import sys", """import sys
from os.path import exists""")


def test_a_leaving_vm_moves_its_element_at_a_checkpoint(supervise, tmp_path):
    first = supervise(count=1)
    job = Job(first, tmp_path, BUSY)
    job.start(1)
    job.log.open("gate1")
    job.wait_runs(2)
    supervise(count=1, beside=first)
    first.process.send_signal(signal.SIGTERM)
    job.wait_runs(3)
    job.log.open("gate2")
    job.log.open("gate3")
    assert job.finish() == "[1]"
    assert notes(job) == [0, 1, 10, 2, 3]
    assert len({pid for _, pid in job.log.runs()}) == 2


def test_without_the_program_checkpoints_are_held(supervise, tmp_path):
    first = supervise(count=1)
    job = Job(first, tmp_path, BUSY)
    job.leave_running(1)
    job.log.open("gate1")
    job.wait_runs(2)
    assert held()
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(30) == 0
    assert len(held()) == 1
    job.env.update(beside(supervise(count=1)))
    job.log.open("gate2")
    job.log.open("gate3")
    job.start(1)
    assert job.finish() == "[1]"
    assert notes(job) == [0, 1, 10, 2, 3]
    job.log.wait(lambda: not held())
