# SPDX-License-Identifier: MIT
"""trickle run --local: VMs that come and go with the run, however it ends."""
import json
import os
import signal
import subprocess
import time

import pytest

ALL_VMS = "vms = connect()\n"


@pytest.fixture
def program(tmp_path):
    def write(text):
        path = tmp_path / "prog.py"
        path.write_text(text)
        return path
    return write


def read_line(process):
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return line


def test_a_run_with_its_own_vms_leaves_nothing(program, trickle_command):
    result = trickle_command("run", "--local=3", program(ALL_VMS + "print(len(vms))\n"))
    assert (result.returncode, result.stdout) == (0, "3\n"), result.stderr
    assert trickle_command.processes() == {}
    assert os.listdir(trickle_command.directory) == []


def test_default_is_one_vm_per_core(program, trickle_command):
    result = trickle_command("run", "--local", program(ALL_VMS + "print(len(vms))\n"))
    assert result.stdout == f"{len(os.sched_getaffinity(0))}\n", result.stderr


def test_a_program_that_fails_leaves_nothing(program, trickle_command):
    result = trickle_command("run", "--local=1", program(ALL_VMS + "vms[0].eval('1/0')\n"))
    assert result.returncode == 1 and "ZeroDivisionError" in result.stderr
    assert trickle_command.processes() == {}


def test_two_runs_see_their_own_vms_only(program, trickle_command):
    path = program(ALL_VMS + "print(len(vms), flush=True)\ninput()\n")
    runs = [trickle_command.start("run", f"--local={n}", path) for n in (1, 2)]
    assert sorted(read_line(run) for run in runs) == ["1\n", "2\n"]
    for run in runs:
        run.communicate(timeout=30)
    assert trickle_command.processes() == {}


def test_ctrl_c_ends_a_busy_run_at_once(program, trickle_command):
    path = program("import time\ndef busy(x):\n    while True: pass\n" + ALL_VMS +
                   "inject(vms, busy)\nh = fork(vms, busy, 1)\nprint('on', flush=True)\njoin(h)\n")
    run = trickle_command.start("run", "--local=2", path, start_new_session=True)
    read_line(run)
    start = time.monotonic()
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, err = run.communicate(timeout=30)
    assert run.returncode == 75 and "go on with: trickle resume prog-" in err, err
    assert time.monotonic() - start < 3
    assert trickle_command.wait_until_nothing_is_left(1)


def test_ctrl_c_in_forkwork_ends_at_once(program, trickle_command):
    path = program("import time\n" + ALL_VMS + "print('on', flush=True)\n"
                   "forkwork(vms, time.sleep, [60] * 100)\n")
    run = trickle_command.start("run", "--local=2", path)
    read_line(run)
    time.sleep(0.2)
    start = time.monotonic()
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    assert run.returncode == 75 and time.monotonic() - start < 3
    assert trickle_command.wait_until_nothing_is_left(1)


def test_vms_of_a_killed_run_end(program, trickle_command):
    path = program("import time\n" + ALL_VMS + "h = fork(vms, time.sleep, 60)\n"
                   "print('on', flush=True)\njoin(h)\n")
    run = trickle_command.start("run", "--local=2", path)
    read_line(run)
    assert len(trickle_command.processes()) >= 3
    run.kill()
    run.communicate(timeout=30)
    assert trickle_command.wait_until_nothing_is_left(), trickle_command.processes()
    result = trickle_command("run", "--local=1", program(ALL_VMS + "print(len(vms))\n"))
    assert result.stdout == "1\n", result.stderr
    assert os.listdir(trickle_command.directory) == []  # of the killed run neither


def test_a_child_of_the_program_does_not_end_the_vms(program, trickle_command):
    path = program("import os, sys\n" + ALL_VMS + "pid = os.fork()\nif pid == 0: sys.exit(0)\n"
                   "os.waitpid(pid, 0)\nprint(vms[0].len('abc'))\n")
    result = trickle_command("run", "--local=1", path)
    assert result.stdout == "3\n", result.stderr


def test_vms_lists_what_runs(program, trickle_command, build):
    ready, ready_w = os.pipe()
    vms = subprocess.Popen([build / "trickle", "vm", "-n", "2", "--ready-fd", str(ready_w)],
                           env=trickle_command.env, pass_fds=[ready_w], stdin=subprocess.DEVNULL)
    os.close(ready_w)
    try:
        assert os.read(ready, 1) != b""
        result = trickle_command("vms", "--json")
        listed = json.loads(result.stdout)
        assert [vm["index"] for vm in listed] == [0, 1] and result.returncode == 0, result.stderr
        table = trickle_command("vms").stdout.splitlines()
        assert table[0].split() == ["HOST", "PID", "MODULE", "STATE", "WHOSE"] and len(table) == 3
        result = trickle_command(program(ALL_VMS + "print(len(vms))\n"))
        assert result.stdout == "2\n", result.stderr
    finally:
        os.close(ready)
        vms.terminate()
        vms.wait(timeout=10)
    assert trickle_command.wait_until_nothing_is_left(), trickle_command.processes()
