# SPDX-License-Identifier: MIT
"""trickle vm --sandbox: what code on a VM can do, and what it cannot."""
import os
import shutil
import signal
import subprocess
import tempfile
import textwrap
from pathlib import Path

import pytest

WAIT = 30


def why_not():
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    done = subprocess.run(["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc",
                           "true"], capture_output=True, text=True)
    return done.stderr


REASON = why_not()
needs_bwrap = pytest.mark.skipif(bool(REASON), reason=f"no sandbox here: {REASON}")


@pytest.fixture
def machine(trickle_command, tmp_path):
    trickle_command.env.update(XDG_CONFIG_HOME=str(tmp_path / "config"),
                               TRICKLE_HOME=str(tmp_path / "home"))
    return trickle_command


@pytest.fixture
def sandbox(machine):
    """Starts trickle vm with --sandbox and waits until it is up; ends with the test."""
    started = []

    def start(*words):
        ready, there = os.pipe()
        with os.fdopen(ready, "rb") as up:
            started.append(machine.start("vm", "-n", "1", "--ready-fd", there, *words,
                                         pass_fds=[there]))
            os.close(there)
            assert up.readline() == b"ready\n", started[-1].communicate()
        return started[-1]
    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT)
    assert machine.wait_until_nothing_is_left(WAIT), machine.processes()


def run(machine, tmp_path, text, **options):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(text))
    done = machine("run", "--no-checkpoint", program, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@needs_bwrap
def test_files_are_read_only_but_for_what_is_named(machine, sandbox, tmp_path):
    open_place, closed = tmp_path / "open", tmp_path / "closed"
    open_place.mkdir()
    closed.mkdir()
    (closed / "text").write_text("to be read")
    assert machine("key", "new").returncode == 0
    sandbox("--sandbox", open_place)
    found = run(machine, tmp_path, f"""
        import os
        def attempt(path):
            try:
                with open(path, "a") as file:
                    file.write("x")
                return "written"
            except OSError as error:
                return error.strerror
        def listing(path):
            return sorted(os.listdir(path))
        vms = connect(1)
        inject(vms, attempt, listing)
        for path in ["{open_place}/x", "{closed}/x", "{closed}/text", "{os.path.expanduser("~")}/x",
                     "/etc/passwd", "/usr/bin/x", "/tmp/trk-private"]:
            print(forkwork(vms, attempt, [path])[0])
        print(forkwork(vms, listing, ["/run"]))
        print(forkwork(vms, listing, ["{machine.directory}"]))
        print(forkwork(vms, listing, ["{tmp_path}/config/trickle"]))
        """)
    closed_to_it = ["Read-only file system"] * 5
    if str(tmp_path).startswith("/tmp/"):  # not there at all
        closed_to_it[:2] = ["No such file or directory"] * 2
    assert found[:7] == ["written", *closed_to_it, "written"]
    assert found[7] in ("[[]]", "[['systemd']]") and found[8:] == ["[[]]", "[[]]"]
    assert (open_place / "x").read_text() == "x" and not os.path.exists("/tmp/trk-private")
    assert (closed / "text").read_text() == "to be read"


@pytest.fixture
def place():
    """A directory that is not in /tmp, which a sandbox does not see anyway."""
    with tempfile.TemporaryDirectory(prefix="trk-", dir="/var/tmp") as name:
        yield Path(name)


READ = """
    def attempt(path):
        try:
            with open(path) as file:
                return file.read(11)
        except OSError as error:
            return error.strerror
    vms = connect(1)
    inject(vms, attempt)
    print(forkwork(vms, attempt, {paths}))
    """
NONE = "No such file or directory"


@needs_bwrap
def test_a_key_that_is_made_later_is_hidden(machine, sandbox, place):
    machine.env["XDG_CONFIG_HOME"] = str(place / "config")
    sandbox("--sandbox")
    assert machine("key", "new").returncode == 0
    paths = [f"{place}/config/trickle/key"]
    assert run(machine, place, READ.format(paths=paths)) == [f"['{NONE}']"]


@needs_bwrap
@pytest.mark.parametrize("option", ["--key-file", "--key"])
def test_the_file_of_another_key_is_hidden(option, machine, sandbox, place):
    machine.env["XDG_CONFIG_HOME"] = str(place / "config")
    assert machine("key", "new").returncode == 0
    (place / "own").mkdir(mode=0o700)
    (place / "config/trickle/key").rename(place / "own/farm.key")
    (place / "own/text").write_text("beside it")
    sandbox("--sandbox", "--listen", "127.0.0.1", option, place / "own/farm.key")
    paths = [f"{place}/own/farm.key", f"{place}/own/text"]
    assert run(machine, place, READ.format(paths=paths)) == [f"['{NONE}', '{NONE}']"]


@needs_bwrap
@pytest.mark.parametrize("named", ["real", "config", "config/trickle"])
def test_no_link_makes_the_key_writable(named, machine, place):
    (place / "real/trickle").mkdir(parents=True, mode=0o700)
    (place / "config").symlink_to("real")
    machine.env["XDG_CONFIG_HOME"] = str(place / "config")
    done = machine("vm", "-n", "1", "--sandbox", place / named, "--ready-fd", "none")
    assert done.returncode == 2 and "Trickle's own key" in done.stderr, done.stderr


@needs_bwrap
@pytest.mark.parametrize("key, python", [("farm.key", "bin/python3"), ("/farm.key", None)])
def test_what_cannot_be_hidden_is_refused(key, python, machine, place):
    (place / "bin").mkdir()
    (place / "bin/python3").symlink_to(shutil.which("python3"))
    words = ["--key-file", place / key] + (["--python", place / python] if python else [])
    done = machine("vm", "-n", "1", "--sandbox", *words, "--ready-fd", "none")
    assert done.returncode == 2 and "cannot hide" in done.stderr, done.stderr


@needs_bwrap
def test_no_other_process_is_in_sight_or_gets_descriptors(machine, sandbox, tmp_path):
    outside = os.getpid()
    sandbox("--sandbox")
    found = run(machine, tmp_path, f"""
        import os
        def look():
            pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
            links = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd")
                     if os.path.lexists(f"/proc/self/fd/{{fd}}")]
            files = [link for link in links if link.startswith("/") and
                     not link.startswith(("/proc", "/dev", "/memfd"))]
            caps = [line.split()[1] for line in open("/proc/self/status") if line[:6] == "CapEff"]
            try:
                os.kill({outside}, 0)
                may_kill = {outside} in pids
            except OSError:
                may_kill = False
            return len(pids) <= 3, {outside} in pids and {outside} > 3, may_kill, files, caps
        vms = connect(1)
        inject(vms, look)
        print(*vms[0].look())
        """)
    assert found == ["True False False [] ['0000000000000000']"]


@needs_bwrap
def test_vms_in_a_sandbox_restart_and_end(machine, sandbox, tmp_path):
    process = sandbox("--sandbox")
    text = """
        import os
        def end(x):
            if x == 3:
                os._exit(9)
            if x == 5:
                os.kill(os.getpid(), 9)
            return x
        vms = connect(1)
        inject(vms, end)
        found = forkwork(vms, end, range(6), on_error="return", retries=0)
        print([x if isinstance(x, int) else x.attempts[0].exit_status for x in found])
        """
    assert run(machine, tmp_path, text) == ["[0, 1, 2, 9, 4, 137]"]  # 128 and the signal
    assert run(machine, tmp_path, text) == ["[0, 1, 2, 9, 4, 137]"]
    process.kill()  # its guard ends the VMs
    process.communicate()
    assert machine.wait_until_nothing_is_left(WAIT), machine.processes()


@needs_bwrap
@pytest.mark.parametrize("words", [("--sandbox", "/nowhere"), ("--sandbox", "/"),
                                   ("--sandbox", "--memory-limit", "1G")])
def test_wrong_words(words, machine):
    done = machine("vm", *words)
    assert done.returncode == 2 and "sandbox" in done.stderr


def test_without_bubblewrap_nothing_starts(machine, tmp_path):
    machine.env["PATH"] = str(tmp_path)
    done = machine("vm", "--sandbox")
    assert done.returncode == 2 and "apt install bubblewrap" in done.stderr
    assert not machine.processes()
