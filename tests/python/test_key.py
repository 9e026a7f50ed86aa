# SPDX-License-Identifier: MIT
"""trickle key: the file, what is printed, and who may read it."""
import os
import re
import shutil
import subprocess
import sys

import pytest

ID = r"[0-9a-f]{8}"


@pytest.fixture
def machine(trickle_command, tmp_path):
    """A trickle command with a configuration directory of its own."""
    trickle_command.env["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    trickle_command.key = tmp_path / "config" / "trickle" / "key"
    return trickle_command


def give(command, text, *args):
    return subprocess.run([*command.program, "key", *args], env=command.env, input=text, text=True,
                          capture_output=True, timeout=60)


def test_a_key_is_made_once_and_for_its_owner_only(machine):
    assert machine("key", "show").returncode == 1 and not machine.key.exists()
    done = machine("key", "new")
    assert done.returncode == 0 and re.fullmatch(f"key {ID} in {machine.key}\n", done.stdout)
    assert machine.key.stat().st_mode & 0o777 == 0o600
    assert machine.key.parent.stat().st_mode & 0o777 == 0o700
    text = machine.key.read_text()
    assert re.fullmatch(f"trickle-key-1 {ID} [0-9a-f]{{64}}\n", text)
    assert text.split()[1] in done.stdout and text.split()[2] not in done.stdout
    again = machine("key", "new")
    assert again.returncode == 1 and "trickle key rotate" in again.stderr
    assert machine.key.read_text() == text
    shown = machine("key", "show")
    assert shown.stdout == done.stdout
    assert machine("key", "show", "--secret").stdout == text


def test_nothing_else_makes_a_key(machine):
    for words in [("key",), ("key", "show"), ("key", "rotate"), ("key", "finish"), ("vms",),
                  ("key", "import", "/nowhere")]:
        assert machine(*words).returncode != 0
    assert not machine.key.exists()


@pytest.mark.parametrize("words, status", [(("vms", "--lan"), 1), (("drain", "--lan", "1"), 1),
                                           (("vm", "--lan"), 2)])
def test_without_a_key_the_network_is_refused_with_what_to_type(words, status, machine):
    done = machine(*words)
    assert done.returncode == status and "Traceback" not in done.stderr
    assert "trickle key new" in done.stderr and not machine.key.exists()


def test_a_key_goes_from_machine_to_machine_and_is_rotated(machine, tmp_path):
    machine("key", "new")
    first = machine.key.read_text()
    other = shutil.copy(machine.key, tmp_path / "carried")
    home, machine.env["XDG_CONFIG_HOME"] = machine.key, str(tmp_path / "other")
    assert machine("key", "import", other).returncode == 0
    machine.env["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    done = machine("key", "rotate")
    both = home.read_text()
    assert done.returncode == 0 and both.endswith(first) and both.count("\n") == 2
    assert "trickle key finish" in done.stdout
    assert machine("key", "rotate").returncode == 1
    machine.env["XDG_CONFIG_HOME"] = str(tmp_path / "other")
    assert give(machine, both, "import").returncode == 0
    assert (tmp_path / "other/trickle/key").read_text() == both
    machine.env["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    assert machine("key", "finish").returncode == 0
    assert home.read_text() == both.split("\n")[0] + "\n"
    machine.env["XDG_CONFIG_HOME"] = str(tmp_path / "other")
    assert give(machine, home.read_text(), "import", "-").returncode == 0
    assert (tmp_path / "other/trickle/key").read_text() == home.read_text()


def test_the_key_of_another_farm_is_not_lost_by_mistake(machine, tmp_path):
    machine("key", "new")
    own = machine.key.read_text()
    machine.env["XDG_CONFIG_HOME"] = str(tmp_path / "other")
    machine("key", "new")
    foreign = (tmp_path / "other/trickle/key").read_text()
    machine.env["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    refused = give(machine, foreign, "import")
    assert refused.returncode == 1 and "--replace" in refused.stderr
    assert machine.key.read_text() == own
    assert give(machine, foreign, "import", "--replace").returncode == 0
    assert machine.key.read_text() == foreign


@pytest.mark.parametrize("text", ["", "hello\n", "trickle-key-1 00000000 " + 64 * "0" + "\n",
                                  "trickle-key-2 00000000 " + 64 * "0" + "\n", 9000 * "x"])
def test_what_is_no_key_is_refused_and_not_repeated(text, machine):
    done = give(machine, text, "import")
    assert done.returncode == 1 and "standard input" in done.stderr
    assert 64 * "0" not in done.stderr and not machine.key.exists()


def test_a_key_is_never_an_argument(machine):
    machine("key", "new")
    text = machine.key.read_text().strip()
    done = machine("key", "import", text)
    assert done.returncode == 2 and text.split()[2] not in done.stderr


def test_a_key_that_others_can_read_is_refused(machine):
    machine("key", "new")
    machine.key.chmod(0o640)
    done = machine("key", "show", "--secret")
    assert done.returncode == 1 and done.stdout == "" and f"chmod 600 {machine.key}" in done.stderr


@pytest.mark.parametrize("words", [("key",), ("key", "make"), ("key", "new", "x"),
                                   ("key", "import", "a", "b"), ("key", "show", "--all")])
def test_wrong_words(words, machine):
    assert machine(*words).returncode == 2


def test_the_tests_that_security_md_names_are_there(root):
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", (root / "SECURITY.md").read_text())
    assert len(named) > 30
    assert not [(file, name) for file, name in named if not re.search(
        rf"^(START_TEST\({name}\)|def {name}\()", (root / file).read_text(), re.M)]


# --- a second user ---

OTHER = 65534


def as_other(code, *args):
    """Runs Python code as a user who is somebody else; what it prints."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("becoming another user needs root and setpriv")
    python = sys.executable  # or one that is not in somebody's home
    if not python.startswith("/usr/") and os.access("/usr/bin/python3", os.X_OK):
        python = "/usr/bin/python3"
    done = subprocess.run(["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups",
                           "/usr/bin/env", "-i", python, "-I", "-c", code,
                           *map(str, args)], capture_output=True, text=True, cwd="/", timeout=60)
    if "Permission denied" in done.stderr and not done.stdout:
        pytest.skip(f"another user cannot run {python}")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


TRY = """
import socket, sys
for path in sys.argv[1:]:
    try:
        if path.endswith(".sock"):
            socket.socket(socket.AF_UNIX).connect(path)
        else:
            import os
            os.listdir(path) if os.path.isdir(path) else open(path).close()
        print("open")
    except OSError as error:
        print(error.strerror.replace(" ", "-"))
"""


def test_another_user_reads_neither_key_nor_store_nor_held_results(machine):
    place = machine.directory  # its parent is open to all, so that only Trickle's modes protect
    home, config = f"{place}/home", f"{place}/config"
    machine.env.update(TRICKLE_HOME=home, XDG_CONFIG_HOME=config)
    os.chmod(place, 0o755)
    os.mkdir(config, 0o755)
    assert machine("key", "new").returncode == 0
    program = f"{place}/program.py"
    with open(program, "w") as file:
        file.write("print(forkwork(connect(), len, ['a', 'bc']))")
    machine.env["TRICKLE_RUNTIME"] = f"{place}/run"
    assert machine("run", "--local=1", program).stdout == "[1, 2]\n"
    (job,) = os.listdir(f"{home}/jobs")
    os.makedirs(f"{home}/held", 0o700, exist_ok=True)
    wanted = [f"{config}/trickle/key", f"{config}/trickle", home, f"{home}/jobs/{job}",
              f"{home}/jobs/{job}/data.mdb", f"{home}/held"]
    assert as_other(TRY, place, *wanted) == ["open"] + ["Permission-denied"] * len(wanted)


PEER = """
import socket, sys
for path in sys.argv[1:]:
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.settimeout(20)
    try:
        s.sendall(64 * b"x")
        print("closed" if s.recv(1) == b"" else "answered")
    except ConnectionError:
        print("closed")
"""


@pytest.mark.parametrize("words", [["vms"], ["drain", "1"]])
def test_commands_say_why_vms_of_others_are_not_used(words, machine):
    refused = machine(words[0], "--hosts", "127.0.0.1:1", *words[1:])
    assert refused.returncode == 1 and "trickle key import" in refused.stderr, refused.stderr
    plain = machine(words[0], "--hosts", "127.0.0.1:1", "--insecure", *words[1:])
    assert plain.returncode == 1 and "warning: --insecure" in plain.stderr, plain.stderr


def test_another_user_is_refused_on_unix_sockets(supervise):
    own = supervise(count=1)
    sockets = [os.path.join(own.runtime, name) for name in os.listdir(own.runtime)]
    assert len(sockets) == 2
    assert as_other(TRY, *sockets) == ["Permission-denied"] * 2
    # And were the directory open by mistake, whose process it is still decides.
    os.chmod(own.runtime, 0o755)
    for path in sockets:
        os.chmod(path, 0o777)
    assert as_other(PEER, *sockets) == ["closed"] * 2
    os.chmod(own.runtime, 0o700)
