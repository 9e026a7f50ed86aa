# SPDX-License-Identifier: MIT
"""trickle vm --ssh with an `ssh` that runs the command here, in other directories: what an other
machine is for it."""
import os
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from supervisors import BUILD

SSH = '''#!/usr/bin/python3 -I
# ssh [-o OPTION | -T]... -- HOST COMMAND: between the two are pipes, which end with this process
import os, subprocess, sys, threading
words = sys.argv[sys.argv.index("--"):]
place = os.environ["FAKE_SSH"] + "/" + words[1]
os.makedirs(place, 0o700, exist_ok=True)
with open(place + "/words", "w") as file:
    file.write("\\n".join(words))
if words[1] == "nowhere":
    sys.exit(255)
if words[1].startswith("me@fe80:"):  # a link-local address, which we do not have
    print("at [fe80::9%there0]:4711", "ready", sep="\\n", flush=True)
    sys.exit(sys.stdin.read().endswith("end\\n"))
env = {"PATH": "/usr/bin:/bin", "SSH_CONNECTION": "127.0.0.1 4711 127.0.0.1 22"}
env |= dict.fromkeys(["HOME", "TRICKLE_RUNTIME", "TRICKLE_HOME"], place)
sanitizer = {"LD_PRELOAD", "ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS"} & os.environ.keys()
env |= {name: os.environ[name] for name in sanitizer}
there = subprocess.Popen(["sh", "-c", words[2]], env=env, stdin=subprocess.PIPE, cwd="/",
                         stdout=subprocess.PIPE, start_new_session=True, bufsize=0)
def carry(here, there):
    while part := os.read(here, 4096):
        there.write(part)
    there.close()
threading.Thread(target=carry, args=[0, there.stdin], daemon=True).start()
while part := os.read(there.stdout.fileno(), 4096):
    os.write(1, part)
os._exit(there.wait())
'''
WAIT = 30


@pytest.fixture
def machines(trickle_command):
    """A trickle command with a key directory and that ssh."""
    place = Path(trickle_command.directory)
    (place / "bin").mkdir()
    (place / "bin/ssh").write_text(SSH)
    (place / "bin/ssh").chmod(stat.S_IRWXU)
    trickle_command.env.update(PATH=f"{place}/bin:/usr/bin:/bin", FAKE_SSH=str(place),
                               XDG_CONFIG_HOME=f"{place}/config")
    trickle_command.place = place
    started = []

    def start(*args):
        started.append(trickle_command.start("vm", "--ssh", *args, "--remote-trickle",
                                             BUILD / "trickle"))
        return started[-1]
    trickle_command.ssh = start
    yield trickle_command
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    assert trickle_command.wait_until_nothing_is_left(WAIT), trickle_command.processes()


def secret(machines):
    return (machines.place / "config/trickle/key").read_text().split()[2]


def hosts(process):
    """The --hosts that it says when all is up."""
    line = process.stdout.readline()
    found = re.fullmatch(r"trickle run --hosts (\S+) PROGRAM\n", line)
    assert found, (line, process.poll() is not None and process.stderr.read())
    return found[1]


def test_vms_of_two_machines_compute_and_end(machines):
    process = machines.ssh("one", "two", "-n", "1")
    found = hosts(process)
    assert len(found.split(",")) == 2
    program = machines.place / "program.py"
    program.write_text("def square(x):\n    return x * x\nvms = connect(2)\ninject(vms, square)\n"
                       "print(len(vms), sorted(forkwork(vms, square, range(5))))\n")
    done = machines("run", "--no-checkpoint", "--hosts", found, program)
    assert (done.stdout, done.returncode) == ("2 [0, 1, 4, 9, 16]\n", 0), done.stderr
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err
    assert "there was no key yet" in err and "finish what they run" in err


def test_a_link_local_address_is_told_with_the_interface_here(machines):
    process = machines.ssh("me@fe80::9%here0")
    assert hosts(process) == "[fe80::9%here0]:4711"


PROGRAM = """
def square(x):
    return x * x
vms = connect(2)
inject(vms, square)
print(len(vms), forkwork(vms, square, range(5)))
"""


def test_vms_of_one_run(machines):
    program = machines.place / "program.py"
    program.write_text(PROGRAM)
    remote = f"--remote-trickle={BUILD / 'trickle'}"
    done = machines("run", "--ssh", "one,two", remote, "--job=a", program)
    assert (done.returncode, done.stdout) == (0, "2 [0, 1, 4, 9, 16]\n"), done.stderr
    assert machines.wait_until_nothing_is_left(WAIT), machines.processes()
    program.write_text(PROGRAM + "raise SystemExit(3)\n")
    again = machines("run", "--ssh=one,two", remote, "--job=b", program)
    assert again.returncode == 3, again.stderr
    program.write_text(PROGRAM)
    resumed = machines("resume", "b")
    assert (resumed.returncode, resumed.stdout) == (0, done.stdout), resumed.stderr
    nobody = machines("run", "--ssh", "nowhere", "--no-checkpoint", program)
    assert nobody.returncode == 2 and "ssh does not get there" in nobody.stderr


def test_ctrl_c_before_the_program_begins_is_no_failure(machines):
    program = machines.place / "program.py"
    program.write_text("print('begun')")
    there = machines.place / "there"
    os.mkfifo(there)  # its trickle says that it was started, and then nothing
    (machines.place / "silent").write_text(f"#!/bin/sh\necho > {there}\nread key\ncat\n")
    (machines.place / "silent").chmod(stat.S_IRWXU)
    run = machines.start("run", "--ssh=one", f"--remote-trickle={machines.place}/silent",
                         "--no-checkpoint", program)
    there.read_bytes()
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=WAIT)
    assert (run.returncode, out) == (130, "") and "Traceback" not in err, (run.returncode, err)


def test_a_child_that_the_program_leaves_behind_holds_no_vms(machines):
    program = machines.place / "program.py"
    program.write_text(PROGRAM + """
import os, time
child = os.fork()
if child == 0:
    os.closerange(0, 3)
    time.sleep(600)
    os._exit(0)
print(child)
""")
    done = machines("run", "--ssh", "one,two", f"--remote-trickle={BUILD / 'trickle'}",
                    "--no-checkpoint", program)
    child = int(done.stdout.split()[-1])
    assert done.returncode == 0, done.stderr
    os.kill(child, signal.SIGKILL)  # is still there


def test_vms_of_a_killed_run_end(machines):
    program = machines.place / "program.py"
    runs = machines.place / "runs"
    os.mkfifo(runs)
    program.write_text("import time\nvms = connect(1)\n"
                       f"open('{runs}', 'w').close()\ntime.sleep(600)\n")
    run = machines.start("run", "--ssh=one", f"--remote-trickle={BUILD / 'trickle'}", program)
    runs.read_bytes()
    run.kill()
    run.communicate()
    assert machines.wait_until_nothing_is_left(WAIT), machines.processes()


def everything_of(pid):
    """Arguments and environment of a process."""
    try:
        return (Path(f"/proc/{pid}/cmdline").read_bytes() +
                Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return b""


def test_the_key_is_no_argument_in_no_environment_and_in_no_file_there(machines):
    assert machines("key", "new").returncode == 0
    key = secret(machines).encode()
    process = machines.ssh("one", "-n", "1")
    hosts(process)
    pids = [*machines.processes(), process.pid]
    assert len(pids) >= 3
    assert not [pid for pid in pids if key in everything_of(pid)]
    there = [path for path in (machines.place / "one").rglob("*") if path.is_file()]
    assert there and not [path for path in there if key in path.read_bytes()]
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT) == 0


@pytest.mark.parametrize("kill", ["the command", "the connection"])
def test_nothing_stays_there_when_the_connection_breaks(kill, machines):
    process = machines.ssh("one", "-n", "1")
    hosts(process)
    if kill == "the command":
        process.kill()
        process.wait()
    else:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert process.wait(WAIT) == 1
    assert machines.wait_until_nothing_is_left(WAIT), machines.processes()


def test_a_second_interrupt_does_not_wait_for_what_runs(machines):
    process = machines.ssh("one", "-n", "1")
    found = hosts(process)
    program = machines.place / "program.py"
    runs = machines.place / "runs"
    os.mkfifo(runs)
    program.write_text("import time\nvms = connect(1)\ndef slow(path):\n"
                       "    open(path, 'w').close()\n    time.sleep(600)\n"
                       f"inject(vms, slow)\nforkwork(vms, slow, ['{runs}'])\n")
    user = machines.start("run", "--no-checkpoint", "--hosts", found, program)
    try:
        runs.read_bytes()
        process.send_signal(signal.SIGINT)
        assert any("finish what" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 0
    finally:
        user.kill()
        user.communicate()


def test_a_machine_that_is_not_reached_or_has_no_trickle(machines):
    process = machines.ssh("nowhere", "one", "-n", "1")
    assert len(hosts(process).split(",")) == 1  # the other goes on
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=WAIT)
    assert "nowhere: ssh does not get there" in err
    done = machines("vm", "--ssh", "one", "--remote-trickle=/nowhere/trickle")
    assert done.returncode == 1 and "--remote-trickle PATH" in done.stderr


def test_what_ssh_is_given(machines):
    process = machines.ssh("one", "-n", "1", "--log", "error")
    hosts(process)
    words = (machines.place / "one/words").read_text().split("\n")
    assert words[:2] == ["--", "one"]
    assert words[2] == f"{BUILD}/trickle vm --ssh-remote -n 1 --log error"
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT) == 0


def test_a_sandbox_there(machines):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    process = machines.ssh("one", "-n", "1", "--sandbox")
    found = hosts(process)
    program = machines.place / "program.py"
    program.write_text("import os\nvms = connect(1)\ndef look(path):\n"
                       "    return os.listdir(path)\ninject(vms, look)\n"
                       "print(forkwork(vms, look, ['/tmp']) != [os.listdir('/tmp')])\n")
    done = machines("run", "--no-checkpoint", "--hosts", found, program)
    assert done.stdout == "True\n", done.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT) == 0


@pytest.mark.parametrize("words", [("--ssh",), ("--ssh", "a", "a"), ("--ssh", "a", "--lan"),
                                   ("--ssh", "a", "--listen=::1"), ("--ssh-remote",),
                                   ("--ssh", "a", "--remote-trickle")])
def test_wrong_words(words, machines):
    assert machines("vm", *words).returncode == 2
    assert not (machines.place / "config").exists()


def test_without_ssh(machines):
    (machines.place / "bin/ssh").unlink()
    machines.env["PATH"] = str(machines.place / "bin")
    done = subprocess.run(["/usr/bin/env", str(BUILD / "trickle"), "vm", "--ssh", "a"],
                          env=machines.env, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 2 and "openssh-client" in done.stderr
