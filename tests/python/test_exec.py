# SPDX-License-Identifier: MIT
"""Commands as elements on real VMs, those of Python and those that need none (tests/rai has what a
command is and gets): their results, and the end of all they started whatever ends the VM."""
import os
import signal
from time import monotonic, sleep

import pytest

from supervisors import Supervisor
from trickle import _trickle


class Fields(list):
    """Not an exact list, which would become a pickle without asking."""


class Commands:
    """A farm on VMs of its own, for works of the module exec."""

    def __init__(self, supervisor, module):
        self.supervisor = supervisor
        self.farm = _trickle.Farm(runtime_dir=supervisor.runtime, module=module)
        self.list = self.farm.connect(2, timeout=10)

    def start(self, spec, fields, **options):
        work = self.farm.work("commands", _trickle.exec_spec(spec), list=self.list, module="exec",
                              **options)
        work.feed(map(Fields, fields), None, _trickle.exec_element)
        return work

    def take(self, work):
        """(status, result as a dict, or a sentence) by index."""
        found = {}
        while True:
            try:
                taken = work.next(30, _trickle.exec_result)
            except StopIteration:
                return [found[i] for i in sorted(found)]
            assert taken is not None, "no result within 30 s"
            index, status, value, _ = taken
            if status == _trickle.STATUS_EXCEPTION:
                value = _trickle.exec_result(value)
            found[index] = status, value

    def run(self, spec, fields, **options):
        return self.take(self.start(spec, fields, **options))


@pytest.fixture(params=["python", "exec"])
def commands(request):
    supervisor = Supervisor("--rai", request.param, count=2)
    own = None
    try:
        own = Commands(supervisor, "" if request.param == "python" else "exec")
        yield own
    finally:
        if own is not None:
            own.farm.close()
        supervisor.stop()


def wait_for(what, text):
    until = monotonic() + 20
    while not what():
        assert monotonic() < until, f"after 20 s: {text}"
        sleep(0.005)


def is_gone(pid):
    """No such process, or one that has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def number_in(path):
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"), f"no {path}")
    return int(path.read_text())


# Starts a daemon of its own session and stays; each writes its number.
LEAVES = ["echo $$ > ", ("field", 0, "", True), "/main; "
          "(setsid sh -c 'echo $$ > ", ("field", 0), "/daemon; exec sleep 1000' "
          "</dev/null >/dev/null 2>&1 &); exec sleep 1000"]


def test_commands_run_and_their_results_come_back(commands):
    spec = {"argv": [["echo ", ("field", 0, "", True), "; exit $TRICKLE_ELEMENT"]], "shell": True}
    got = commands.run(spec, [["a b"], [b"\xff"], ["c"]])
    assert [status for status, _ in got] == [_trickle.STATUS_OK] + [_trickle.STATUS_EXCEPTION] * 2
    assert [result["stdout"] for _, result in got] == [b"a b\n", b"\xff\n", b"c\n"]
    assert [result["exit_status"] for _, result in got] == [0, 1, 2]
    assert got[2][1]["why"] == "/bin/sh exited with status 2"
    assert (got[0][1]["outcome"], got[0][1]["stdout_total"]) == ("ok", 4)


def test_retries_run_it_again_and_then_it_is_done(commands, tmp_path):
    spec = {"argv": [["test $TRICKLE_ATTEMPT = 3 && echo > ", ("output", 0)]], "shell": True,
            "outputs": [["made/", ("field", 0)]], "cwd": str(tmp_path)}
    (status, result), = commands.run(spec, [["out"]], retries=2, retry_after_ms=1)
    assert (status, result["why"]) == (_trickle.STATUS_OK, "")
    assert os.listdir(tmp_path / "made") == ["out"]


def test_a_timeout_ends_the_command_and_not_its_vm(commands, tmp_path):
    spec = {"argv": [LEAVES], "shell": True, "timeout_ms": 1000}
    before = sorted(vm["pid"] for vm in commands.farm.vms())
    (status, result), = commands.run(spec, [[str(tmp_path)]])
    assert (status, result["outcome"]) == (_trickle.STATUS_EXCEPTION, "timeout")
    assert is_gone(number_in(tmp_path / "main"))
    assert is_gone(number_in(tmp_path / "daemon"))
    assert sorted(vm["pid"] for vm in commands.farm.vms()) == before


def test_a_cancel_ends_the_command(commands, tmp_path):
    work = commands.start({"argv": [LEAVES], "shell": True}, [[str(tmp_path)]])
    main, daemon = number_in(tmp_path / "main"), number_in(tmp_path / "daemon")
    work.cancel(interrupt=True)
    wait_for(lambda: is_gone(main) and is_gone(daemon), "the command lives")


def test_what_a_killed_vm_ran_ends_with_it_and_runs_again(commands, tmp_path):
    spec = {"argv": [["test $TRICKLE_ATTEMPT != 1 || { ", *LEAVES, ";}; echo x > ", ("output", 0)]],
            "shell": True, "outputs": [[("field", 0), "/out"]]}
    work = commands.start(spec, [[str(tmp_path)]])
    main, daemon = number_in(tmp_path / "main"), number_in(tmp_path / "daemon")
    with open(f"/proc/{main}/stat") as file:
        os.kill(int(file.read().rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
    wait_for(lambda: is_gone(main), "the command lives")
    wait_for(lambda: is_gone(daemon), "its daemon lives")
    (status, result), = commands.take(work)
    assert (status, result["why"]) == (_trickle.STATUS_OK, "")
    assert sorted(os.listdir(tmp_path)) == ["daemon", "main", "out"]


def test_what_ran_ends_with_a_killed_supervisor(commands, tmp_path):
    work = commands.start({"argv": [LEAVES], "shell": True}, [[str(tmp_path)]])
    main, daemon = number_in(tmp_path / "main"), number_in(tmp_path / "daemon")
    commands.supervisor.process.kill()
    wait_for(lambda: is_gone(main) and is_gone(daemon), "the command lives")
    work.cancel()


def test_a_spec_that_is_none_is_told_by_each_element(commands):
    work = commands.farm.work("bad", b"nonsense", list=commands.list, module="exec")
    work.feed(iter([Fields(["x"])]), None, _trickle.exec_element)
    (status, sentence), = commands.take(work)
    assert status == _trickle.STATUS_ERROR
    assert b"these bytes are no command of the exec module" in bytes(sentence)
