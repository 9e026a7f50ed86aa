# SPDX-License-Identifier: MIT
"""An installed copy outside the tree, and an environment that leads to nothing else."""
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def run_command(*args, **options):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=300,
                          stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def run():
    """Runs a command that has to succeed; gives what it printed."""
    return run_command


@pytest.fixture(scope="session")
def prefix(build):
    directory = Path(tempfile.mkdtemp(prefix="trk-install-"))
    run_command("meson", "install", "-C", build, "--no-rebuild", "--destdir", directory)
    yield next(directory.glob("**/bin")).parent
    shutil.rmtree(directory)


@pytest.fixture
def environment(trickle_command):
    """Nothing in it leads to the tree or to the build directory."""
    environment = dict(trickle_command.env)
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "TRICKLE_BUILD"):
        environment.pop(name, None)
    return environment


@pytest.fixture
def installed(trickle_command, environment, prefix):
    trickle_command.env = environment
    trickle_command.program = [str(prefix / "bin/trickle")]
    return trickle_command


@pytest.fixture
def flags_of(prefix, environment):
    """What pkg-config says for that way of linking, and what makes the library be found."""
    directory = next(prefix.glob("lib/**/pkgconfig"))

    def flags(linking):
        words = run_command("pkg-config", "--cflags", "--libs",
                            *(["--static"] * (linking == "static")), "trickle",
                            env=environment | {"PKG_CONFIG_PATH": str(directory)}).split()
        assert not [word for word in words if word.startswith("-I/usr/local")]
        if linking == "static":
            return [word.replace("-ltrickle", "-l:libtrickle.a") for word in words]
        return [*words, f"-Wl,-rpath,{directory.parent}"]
    return flags
