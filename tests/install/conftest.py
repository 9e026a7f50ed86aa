# SPDX-License-Identifier: MIT
"""A copy installed outside the tree, in a place it was not configured for."""
import shutil
import tempfile
from pathlib import Path

import pytest

from installed import run


@pytest.fixture(scope="session")
def prefix(build):
    directory = Path(tempfile.mkdtemp(prefix="trk-install-"))
    run("meson", "install", "-C", build, "--no-rebuild", "--destdir", directory)
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
        words = run("pkg-config", "--cflags", "--libs", *(["--static"] * (linking == "static")),
                    "trickle", env=environment | {"PKG_CONFIG_PATH": str(directory)}).split()
        assert not [word for word in words if word.startswith("-I/usr/local")]
        if linking == "static":
            return [word.replace("-ltrickle", "-l:libtrickle.a") for word in words]
        return [*words, f"-Wl,-rpath,{directory.parent}"]
    return flags
