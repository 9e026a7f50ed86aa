# SPDX-License-Identifier: MIT
"""Jobs of programs in C: killed, cancelled, resumed, and looked at with the trickle command."""
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from supervisors import Supervisor  # noqa: E402

COUNT = 3000
SUM = sum(range(COUNT)) - 3 - 5  # element 3 fails, element 5 is two bytes that are no number


@pytest.fixture(scope="module")
def supervisor(build):
    own = Supervisor("--exec", str(build / "tests/vm/echo_vm"), count=2)
    yield own
    own.stop()


class Echoes:
    """The program, in a directory of its own, with a home of jobs of its own."""

    def __init__(self, supervisor, command, build, directory):
        self.command, self.directory = command, directory
        self.program = str(build / "tests/capi/echoes")
        self.gate = directory / "gate"
        command.env["TRICKLE_RUNTIME"] = supervisor.runtime
        command.env["TRICKLE_HOME"] = str(directory / "home")
        self.process = None

    def start(self, *words, stop=1000, raw=False, env=None):
        """Runs until stop results have come."""
        self.process = subprocess.Popen(
            [self.program, *["-r"] * raw, str(COUNT), str(stop), self.gate, *words],
            env=self.command.env | (env or {}), cwd=self.directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = self.process.stdout.readline()
        assert line == b"at %d\n" % stop, (line, self.process.stderr.read())

    def end(self, with_signal=None):
        """(status, out, err)"""
        if with_signal is not None:
            self.process.send_signal(with_signal)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.decode(), err.decode()

    def resume(self, *options, **keywords):
        self.gate.touch()
        return self.command("resume", *options, "echoes", cwd="/", **keywords)

    def status(self, name="echoes"):
        result = self.command("status", "--json", name)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def report(self, word="", wanted="-"):
        return f"sum {SUM} word {word} in {self.directory} wanted {wanted} job -\n"


@pytest.fixture
def echoes(supervisor, trickle_command, build, tmp_path):
    own = Echoes(supervisor, trickle_command, build, tmp_path.resolve())
    yield own
    if own.process is not None and own.process.poll() is None:
        own.process.kill()
    if own.process is not None:
        own.process.communicate()


def test_killed_it_goes_on_with_its_words_in_its_directory(echoes):
    echoes.start("word")
    assert echoes.end(signal.SIGKILL)[0] == -signal.SIGKILL
    before = echoes.status()
    assert (before["state"], before["recorded"] >= 1000) == ("stopped", True)
    assert before["program"] == os.path.realpath(echoes.program)
    result = echoes.resume()
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(echoes.report(b"word".hex())), result.stdout
    assert "results are recorded" in result.stderr
    after = echoes.status()
    assert (after["state"], after["recorded"], after["failed"]) == ("done", COUNT, 1)
    assert (after["runs"], after["started"]) == (2, before["started"])
    assert after["stages"][0]["name"] == "echo"


def test_run_again_by_hand_it_goes_on_too(echoes):
    echoes.start()
    echoes.end(signal.SIGKILL)
    echoes.gate.touch()
    echoes.start()
    assert echoes.end() == (0, echoes.report(), "")


def test_what_is_done_is_not_run_again(echoes):
    echoes.gate.touch()
    echoes.start()
    assert echoes.end()[0] == 0
    result = echoes.resume()
    assert (result.returncode, result.stdout) == (0, "")
    assert "echoes is done: 3000 results, 1 elements failed" in result.stderr
    assert echoes.resume("--retry-failed").returncode == 0
    assert echoes.status()["runs"] == 2


def test_cancelled_it_ends_in_order(echoes):
    echoes.start()
    assert echoes.status()["state"] == "running"
    assert echoes.command("cancel", "echoes").returncode == 0
    status, _, err = echoes.end()
    assert (status, err) == (75, "echoes: stopped by SIGTERM\n")
    assert echoes.status()["state"] == "stopped"
    assert echoes.resume().stdout.endswith(echoes.report())


def test_without_a_handler_it_dies_and_goes_on_all_the_same(echoes):
    echoes.start(raw=True)
    assert echoes.command("cancel", "echoes").returncode == 0
    assert echoes.end()[0] == -signal.SIGTERM
    assert echoes.status()["state"] == "stopped"
    assert echoes.resume().stdout.endswith(echoes.report())


def test_ctrl_c_is_a_clean_end(echoes):
    echoes.start()
    assert echoes.end(signal.SIGINT)[0] == 75


def test_two_cannot_run_it(echoes):
    echoes.start()
    result = echoes.command("resume", "echoes")
    assert (result.returncode, "is run by process" in result.stderr) == (1, True)
    second = subprocess.run([echoes.program, "1", "1", echoes.gate], env=echoes.command.env,
                            capture_output=True, text=True, timeout=60)
    assert second.returncode == 1 and "echoes: " in second.stderr, second


def test_results_are_bytes(echoes):
    echoes.gate.touch()
    echoes.start()
    assert echoes.end()[0] == 0
    lines = echoes.command("results", "echoes").stdout.splitlines()
    assert lines[:6] == ["0: 0", "1: 1", "2: 2", "3: failed: three", "4: 4", r"5: b'\xff\xfe'"]
    assert len(lines) == COUNT
    rows = [json.loads(line) for line in
            echoes.command("results", "--json", "echoes").stdout.splitlines()]
    assert rows[4] | {"attempt": 1} == {"index": 4, "status": "ok", "attempt": 1, "value": "4"}
    assert rows[5]["base64"] == "//4="
    assert (rows[3]["status"], rows[3]["error"]) == ("exception", "three")
    why = echoes.command("why", "echoes", "3")
    assert "it failed, in attempt 1: three" in why.stdout, why


def test_the_environment_is_kept_and_the_rest_told(echoes):
    echoes.start(env={"PATH": "/usr/bin:/bin", "WANTED": "before", "OTHER": "1"})
    echoes.end(signal.SIGKILL)
    echoes.command.env |= {"WANTED": "after", "OTHER": "1"}
    result = echoes.resume("--keep-env", "WANTED")
    assert result.stdout.endswith(echoes.report(wanted="after")), result
    assert "differ" not in result.stderr
    echoes.command.env |= {"WANTED": "later", "OTHER": "2"}
    result = echoes.resume("--retry-failed")
    assert result.stdout.endswith(echoes.report(wanted="after")), result
    assert "differ from those of the job's start: OTHER]" in result.stderr


def test_words_that_are_no_utf8_survive(echoes):
    echoes.start(b"\xff\xc3\xa4\"\\\n")
    echoes.end(signal.SIGKILL)
    assert echoes.resume().stdout.endswith(echoes.report("ffc3a4225c0a"))


def test_a_name_from_outside_goes_before_its_own(echoes):
    echoes.gate.touch()
    echoes.start(env={"TRICKLE_JOB": "other"})
    assert echoes.end() == (0, echoes.report(), "")
    assert echoes.status("other")["recorded"] == COUNT


@pytest.mark.parametrize("text", ["x", "keep", "keep retry " + "x" * 5000])
def test_a_resume_that_makes_no_sense_is_refused(echoes, text):
    done = subprocess.run([echoes.program, "1", "1", echoes.gate], capture_output=True, text=True,
                          env=echoes.command.env | {"TRICKLE_JOB": "x", "TRICKLE_RESUME": text})
    assert (done.returncode, done.stderr) == (
        1, "echoes: TRICKLE_RESUME is not what trickle resume makes it\n")


def test_a_program_that_has_moved_is_missed(echoes, tmp_path):
    echoes.program = shutil.copy(echoes.program, tmp_path / "moved")
    echoes.start()
    echoes.end(signal.SIGKILL)
    os.unlink(echoes.program)
    result = echoes.resume()
    assert result.returncode == 2 and "No such file" in result.stderr, result


def test_it_brings_no_vms(echoes):
    echoes.start()
    echoes.end(signal.SIGKILL)
    result = echoes.resume("--local=2")
    assert result.returncode == 2 and "start some with: trickle vm" in result.stderr, result
