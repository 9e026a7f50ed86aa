# SPDX-License-Identifier: MIT
"""The installed C API: headers that compile alone, programs in C and C++, the names that the
library shows, its size, and a manual page for every function."""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HEADERS = sorted((HERE.parents[1] / "include/trickle").glob("*.h"))
STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
STRIPPED_MAX = 500_000
pytestmark = pytest.mark.xdist_group("build")


@pytest.fixture
def library(prefix):
    return next(prefix.glob("lib/**/libtrickle.so"))


@pytest.fixture
def names(library, run):
    return [line.split()[-1] for line in
            run("nm", "-D", "--defined-only", library).splitlines()]


@pytest.fixture
def vms(prefix, environment):
    """Two VMs of a program, or of the installed copy's Python."""
    started = []

    def start(*options):
        read, write = os.pipe()
        started.append(subprocess.Popen(
            [prefix / "bin/trickle-vm", "-n", "2", "--ready-fd", str(write), *map(str, options)],
            env=environment, pass_fds=[write], stdin=subprocess.DEVNULL))
        os.close(write)
        is_ready = os.read(read, 1) != b""
        os.close(read)
        assert is_ready
    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=10)


@pytest.mark.parametrize("language, standard", [("c", "c99"), ("c", "c11"), ("c++", "c++17")])
@pytest.mark.parametrize("header", [path.name for path in HEADERS])
def test_header_compiles_alone(run, header, language, standard, prefix, tmp_path):
    source = tmp_path / "alone.c"
    source.write_text(f"#include <trickle/{header}>\n#include <trickle/{header}>\n"
                      "int alone(void);\nint alone(void) { return 0; }\n")
    run("gcc", "-x", language, f"-std={standard}", *STRICT, "-fsyntax-only",
        f"-I{prefix / 'include'}", source)


def test_every_header_is_installed_and_in_the_umbrella(prefix):
    installed = {path.name for path in (prefix / "include/trickle").iterdir()}
    assert installed == {path.name for path in HEADERS}
    umbrella = (prefix / "include/trickle/trickle.h").read_text()
    assert [name for name in installed - {"trickle.h"}
            if f'#include "trickle/{name}"' not in umbrella] == []


@pytest.mark.parametrize("linking", ["shared", "static"])
def test_c_program_is_built_with_pkg_config(run, linking, flags_of, vms, environment, tmp_path):
    run("gcc", "-Wall", "-Werror", "-o", tmp_path / "count_vms", HERE / "count_vms.c",
        *flags_of(linking))
    vms()
    assert run(tmp_path / "count_vms", env=environment) == "2 python\n"
    assert "python" not in run("ldd", tmp_path / "count_vms")


@pytest.mark.parametrize("linking", ["shared", "static"])
def test_cxx_program_runs_a_durable_work(run, linking, flags_of, vms, installed, build, tmp_path):
    run("g++", "-std=c++17", *STRICT, "-o", tmp_path / "run", HERE / "run.cpp",
        *flags_of(linking))
    vms("--exec", build / "tests/vm/echo_vm")
    environment = installed.env | {"TRICKLE_HOME": str(tmp_path / "home")}
    total = sum(i * i for i in range(1000))
    assert run(tmp_path / "run", env=environment) == f"{total} of 1000, 0 restored\n"
    assert run(tmp_path / "run", env=environment) == f"{total} of 1000, 1000 restored\n"
    installed.env = environment
    assert re.search(r"squares +done +1000 of 1000", installed("jobs").stdout)


def test_library_shows_just_the_recorded_names(names):
    """symbols.txt is append only while the library is libtrickle.so.0: a name that goes, or means
    something else, breaks programs. New ones: add them there."""
    assert sorted(names) == (HERE / "symbols.txt").read_text().split()


def test_library_needs_no_python(run, library):
    assert "python" not in run("ldd", library)


def test_stripped_library_is_small(run, library, build, tmp_path):
    options = json.loads(run("meson", "introspect", "--buildoptions", build))
    if [o for o in options if o["name"] == "b_sanitize" and o["value"] != "none"]:
        pytest.skip("a build with sanitizers is no measure")
    run("strip", "-o", tmp_path / "stripped", library)
    assert (tmp_path / "stripped").stat().st_size < STRIPPED_MAX


@pytest.mark.parametrize("header", [path.stem for path in HEADERS])
def test_page_is_good_roff(header, prefix):
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    page = prefix / "share/man/man3" / ("trickle.3" if header == "trickle"
                                        else f"trickle_{header}.3")
    done = subprocess.run(["groff", "-man", "-ww", "-z", page], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_function_has_its_page(names, prefix):
    """Its name leads to the page of its header, which says what it does and by which threads."""
    for name in names:
        page = prefix / f"share/man/man3/{name}.3"
        assert page.is_file(), f"man 3 {name}: there is none"
        header = prefix / "share/man" / page.read_text().removeprefix(".so ").strip()
        text = header.read_text()
        assert f"{name}(" in text, f"{header.name} has no prototype of {name}"
        assert ".SH THREADS" in text, f"{header.name} does not say which threads may call what"
