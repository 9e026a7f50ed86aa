# SPDX-License-Identifier: MIT
"""Modules of others: the examples, built outside of the tree against an installed copy, at work;
and what is said of those that cannot be used."""
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("build")
COUNT = "print(len(connect()))\n"


@pytest.fixture(scope="session")
def examples(run, root, prefix, tmp_path_factory):
    """Where the examples are built: each is a project of its own."""
    place = tmp_path_factory.mktemp("modules")
    packages = next(prefix.glob("lib/**/pkgconfig"))
    environment = os.environ | {"PKG_CONFIG_PATH": str(packages), "CFLAGS": "-Werror"}
    for name in ("poly", "rendezvous"):
        shutil.copytree(root / "examples/modules" / name, place / name)
        run("meson", "setup", place / name / "build", place / name, env=environment)
        run("ninja", "-C", place / name / "build", env=environment)
    return place


@pytest.fixture
def broken(run, prefix, tmp_path):
    """Builds broken.c in one of its ways."""
    def make(*defines):
        path = tmp_path / "broken.so"
        run("gcc", "-shared", "-fPIC", "-I", prefix / "include", *[f"-D{d}" for d in defines],
            "-o", path, Path(__file__).parent / "broken.c")
        return path
    return make


@pytest.fixture
def vm(installed, prefix):
    """trickle-vm with these options; it does not start."""
    def refuse(*options):
        done = subprocess.run([prefix / "bin/trickle-vm", *map(str, options)], timeout=60,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env=installed.env)
        assert done.returncode == 2, done.stderr
        return done.stderr
    return refuse


@contextmanager
def supervisor(installed, prefix, *options):
    """trickle-vm when its VMs are up, or have failed; gives where its socket is."""
    read, write = os.pipe()
    process = subprocess.Popen([prefix / "bin/trickle-vm", "--ready-fd", str(write),
                                *map(str, options)], pass_fds=[write], env=installed.env,
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    os.close(write)
    try:
        assert os.read(read, 1) != b"", process.stderr.read()
        yield process
    finally:
        os.close(read)
        process.terminate()
        process.communicate(timeout=20)


# --- a RAI module ---

def evaluate(installed, examples, prefix, *words):
    environment = installed.env | {"LD_LIBRARY_PATH": str(next(prefix.glob(
        "lib/**/libtrickle.so")).parent)}
    return subprocess.run([examples / "poly/build/evaluate", *words], env=environment, timeout=60,
                          capture_output=True, text=True)


def test_a_module_of_others_runs_its_work(installed, prefix, examples):
    with supervisor(installed, prefix, "-n", "2", "--rai", examples / "poly/build/poly.so"):
        done = evaluate(installed, examples, prefix, "1 0 -2", "0", "1", "2", "3")
        assert (done.stdout, done.stderr, done.returncode) == ("-2\n-1\n2\n7\n", "", 0)
        done = evaluate(installed, examples, prefix, "1 nought", "0")
        assert (done.returncode, done.stdout) == (
            1, "a polynomial is 1 to 64 numbers, as in: 1 0 -2\n"), done.stderr
        listed = installed("vms")
        assert listed.stdout.count("poly 1.0") == 2, listed.stdout


def test_it_needs_no_python(installed, prefix, examples, tmp_path):
    """trickle-vm alone, without the package, on a machine whose PATH has no Python."""
    shutil.copy(prefix / "bin/trickle-vm", tmp_path / "trickle-vm")
    (tmp_path / "bin").symlink_to(tmp_path)
    installed.env["PATH"] = "/nowhere"
    installed.env["TRICKLE_PKGDIR"] = "/nowhere"
    with supervisor(installed, tmp_path, "-n", "1", "--rai", examples / "poly/build/poly.so"):
        done = evaluate(installed, examples, prefix, "2 1", "20")
        assert (done.stdout, done.stderr) == ("41\n", "")


def test_a_python_program_connects_to_python_vms_alone(installed, prefix, examples, tmp_path):
    (tmp_path / "prog.py").write_text(COUNT)
    with supervisor(installed, prefix, "-n", "2", "--rai", examples / "poly/build/poly.so"):
        result = installed("run", "--no-checkpoint", tmp_path / "prog.py")
        assert result.returncode == 1
        assert "no Trickle VM is free; 2 run another module (poly); start more with" in (
            result.stderr)
        with supervisor(installed, prefix, "-n", "1"):
            result = installed("run", "--no-checkpoint", tmp_path / "prog.py")
            assert result.stdout == "1\n", result.stderr


def test_what_is_asked_of_a_vm_that_only_runs_work_is_answered(installed, prefix, examples,
                                                                tmp_path):
    (tmp_path / "ask.py").write_text(
        "from trickle import _trickle\nfarm = _trickle.Farm()\nvms = farm.connect()\n"
        "call = vms.get(0).request(_trickle.OP_CALL, 0, 'f', b'')\n"
        "print(call.wait() == _trickle.STATUS_ERROR, bytes(call))\nfarm.close()\n")
    with supervisor(installed, prefix, "-n", "1", "--rai", examples / "poly/build/poly.so"):
        result = installed("run", "--no-checkpoint", tmp_path / "ask.py")
        assert result.stdout == (
            "True b'a VM of the module poly only runs work: it has no functions to call and no "
            "objects; start VMs that do with: trickle vm'\n"), result.stderr


@pytest.mark.parametrize("defines, said", [
    (["ABI=2"], "is a RAI module for another version of Trickle (interface 2 with "),
    (["SIZE=24"], "is a RAI module for another version of Trickle (interface 1 with 24 bytes"),
    (["RUN=NULL"], "is a RAI module without version, stage_open or run: it needs all of these"),
    (["NAME=NULL"], "is a RAI module whose name is empty, or longer than 31 bytes"),
    (["NAME=\"python\""], "is a RAI module with the name python, which one of Trickle's own has"),
    (["NONE"], "is no RAI module: it has no function trickle_rai_module"),
    (["GIVES=NULL"], "is no RAI module: its function trickle_rai_module gives nothing"),
    (["LOADING=raise(SIGSEGV)"], "broken.so crashes while it is loaded (SIGSEGV)"),
    (["LOADING=exit(3)"], "broken.so ends the process that loads it (status 3)"),
    (["LOADING=trk_vm_nonsense()"], "undefined symbol: trk_vm_nonsense"),
], ids=lambda value: value[0] if isinstance(value, list) else "")
def test_broken_modules_are_refused_before_any_vm_starts(vm, broken, defines, said):
    assert said in vm("--rai", broken(*defines))


@pytest.mark.full
def test_a_module_that_hangs_while_it_is_loaded(vm, broken):
    assert "hangs: it is not loaded after 10 s" in vm("--rai", broken("LOADING=for(;;)"))


def test_what_is_no_module_is_refused(vm, tmp_path):
    (tmp_path / "text.so").write_text("This is not a shared object, but it is long enough to be "
                                      "taken for one by its size alone.")
    assert "invalid ELF header" in vm("--rai", tmp_path / "text.so")
    assert f"cannot load {tmp_path}/gone.so: No such file or directory" in (
        vm("--rai", tmp_path / "gone.so"))
    assert "--rai sonnet: there is no such module; give python, exec, native, or the path" in (
        vm("--rai", "sonnet"))
    assert "need no Python: trickle-vm --rai exec" in vm("--python", "/nowhere/python3")


@pytest.mark.parametrize("defines, said", [
    ([], "exited with status 1: the RAI module broken cannot start: the licence server is away"),
    (["OPENING=raise(SIGSEGV)"], "killed by SIGSEGV"),
], ids=["says why", "crashes"])
def test_what_fails_in_a_vm_is_its_note(installed, prefix, broken, defines, said):
    with supervisor(installed, prefix, "-n", "1", "--rai", broken(*defines)) as process:
        vm, = json.loads(installed("vms", "--json").stdout)
        assert (vm["state"], vm["note"]) == ("failing", said)
        process.terminate()
        assert f"1 of them cannot start and will be tried again: {said}" in (
            process.communicate(timeout=20)[1])


# --- a discovery module ---

def test_vms_are_found_by_a_module_of_others(installed, prefix, examples, tmp_path):
    (tmp_path / "prog.py").write_text(COUNT)
    (tmp_path / "late.py").write_text("print('looking', flush=True)\n"
                                      "print(len(connect(1, timeout=30)))\n")
    (tmp_path / "folder").mkdir()
    module = examples / "rendezvous/build/rendezvous.so"
    other = installed.env | {"TRICKLE_RUNTIME": installed.env["TRICKLE_RUNTIME"] + "/other",
                             "RENDEZVOUS": str(tmp_path / "folder")}
    os.mkdir(other["TRICKLE_RUNTIME"], 0o700)
    with supervisor(installed, prefix, "-n", "1"):
        socket, = Path(installed.env["TRICKLE_RUNTIME"]).glob("s-*.sock")
        assert installed("vms", "--discovery", module, env=other).returncode == 1
        late = installed.start("run", "--no-checkpoint", "--discovery", module,
                               tmp_path / "late.py", env=other)
        assert late.stdout.readline() == "looking\n"
        (tmp_path / "folder/a").write_text(f"unix:{socket}\n")
        assert late.communicate(timeout=60)[0] == "1\n"
        listed = installed("vms", "--discovery", module, env=other)
        assert listed.returncode == 0 and "python" in listed.stdout, listed.stderr
        result = installed("run", "--no-checkpoint", "--discovery", module, tmp_path / "prog.py",
                           env=other)
        assert result.stdout == "1\n", result.stderr
        result = installed("run", "--no-checkpoint", tmp_path / "prog.py",
                           env=other | {"TRICKLE_DISCOVERY": str(module)})
        assert result.stdout == "1\n", result.stderr


@pytest.mark.parametrize("defines, said", [
    (["ABI=7"], "is a discovery module for another version of Trickle (interface 7 with "),
    (["SIZE=24"], "is a discovery module for another version of Trickle (interface 1 with 24 "),
    (["ASK=NULL"], "is a discovery module without name, open, ask, fd, process or close: it needs"),
    (["NONE"], "is no discovery module: it has no function trickle_discovery_module"),
    (["GIVES=NULL"], "is no discovery module: its function trickle_discovery_module gives nothing"),
], ids=lambda value: value[0] if isinstance(value, list) else "")
def test_broken_discovery_modules_are_refused(installed, broken, defines, said):
    result = installed("vms", "--discovery", broken("DISCOVERY", *defines))
    assert result.returncode == 1 and said in result.stderr, result.stderr


def test_a_discovery_module_that_does_not_start_is_told(installed, prefix, broken):
    with supervisor(installed, prefix, "-n", "1"):
        result = installed("vms", "--discovery", broken("DISCOVERY"))
        assert result.returncode == 0, result.stderr  # the others go on
        assert "discovery broken cannot start: an operating system call failed" in result.stderr
