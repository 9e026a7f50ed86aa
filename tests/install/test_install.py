# SPDX-License-Identifier: MIT
"""An installed copy outside the tree, in a place it was not configured for, works: the command,
the VMs, the Python package, and a C program that is built with pkg-config."""
import shutil
import subprocess

import pytest

PROGRAM = "import sys\nvms = connect()\nprint(len(vms), sum(forkwork(vms, abs, [-1, 2])))\n"
pytestmark = pytest.mark.xdist_group("build")


def test_command_runs_a_program_on_its_own_vms(installed, tmp_path):
    (tmp_path / "prog.py").write_text(PROGRAM)
    result = installed("run", "--local=2", "prog.py", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "2 3\n"), result.stderr


def test_command_works_through_a_link(installed, tmp_path):
    (tmp_path / "t").symlink_to(installed.program[0])
    installed.program = [str(tmp_path / "t")]
    result = installed("--version")
    assert result.stdout == "trickle 0.1.0\n", result.stderr


def test_the_installed_package_is_the_one_that_is_used(installed, tmp_path, prefix):
    (tmp_path / "prog.py").write_text("import trickle; print(trickle.__file__)\n"
                                      "vms = connect()\nprint(vms[0].eval(\n"
                                      "    '__import__(\"trickle\").__file__'))\n")
    result = installed("run", "--local=1", tmp_path / "prog.py")
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        assert line.startswith(f"{prefix}/lib/"), result.stdout


def test_package_is_imported_by_a_plain_python(run, prefix, environment, tmp_path):
    package = next(prefix.glob("lib/python3*/*-packages/trickle"))
    assert {p.name for p in package.iterdir()} >= {"__init__.py", "cli.py", "_trickle.abi3.so",
                                                   "_trickle.pyi"}
    environment["PYTHONPATH"] = str(package.parent)
    code = "import trickle; print(trickle.connect.__name__)"
    assert run("/usr/bin/python3", "-c", code, env=environment, cwd=tmp_path) == "connect\n"


def test_chaos_for_an_own_program(installed, tmp_path):
    (tmp_path / "prog.py").write_text("import time\ndef work(x):\n    time.sleep(0.01)\n"
                                      "    return x\n"
                                      "print(sum(forkwork(connect(), work, range(300))))\n")
    result = installed("chaos", "--seed", "1", "--dir", "run", "prog.py", cwd=tmp_path)
    assert result.returncode == 0 and "trickle chaos: ok: 1 round" in result.stderr, result.stderr
    assert (tmp_path / "run/report.html").is_file()


def test_extension_shows_only_its_entry(run, prefix):
    extension = next(prefix.glob("lib/python3*/*-packages/trickle/_trickle.abi3.so"))
    names = [line.split()[-1] for line in
             run("nm", "-D", "--defined-only", extension).splitlines()]
    assert names == ["PyInit__trickle"]


@pytest.mark.parametrize("name", ["share/man/man1/trickle.1", "share/man/man1/trickle-map.1",
                                  "share/man/man1/trickle-vm.1",
                                  "lib/systemd/user/trickle-vm.service",
                                  "lib/systemd/system/trickle-vm@.service",
                                  "include/trickle/trickle.h"])
def test_also_installed(name, prefix):
    assert (prefix / name).is_file()


@pytest.mark.parametrize("page", ["trickle.1", "trickle-map.1", "trickle-vm.1"])
def test_manual_page_is_good_roff(run, page, root):
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(["groff", "-man", "-ww", "-z", root / "man" / page],
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
