# SPDX-License-Identifier: MIT
"""Builds the extension against fake_trickle.c and fake_jobs.c, finds the Pythons to load it in."""
import functools
import os
import pathlib
import subprocess
import sysconfig

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


# What only makes and reads bytes is not faked.
REAL = ["src/rai/exec_codec.c", "src/rai/exec_spec.c", "src/rai/exec_words.c", "src/base/blob.c",
        "src/base/buf.c", "src/base/fail.c", "src/base/mem.c"]

LIMITED = "-DPy_LIMITED_API=0x030b0000"


def build(folder, *flags):
    """One file for every CPython from 3.11 on, when built with LIMITED."""
    sources = sorted(str(p) for p in (ROOT / "python" / "ext").glob("*.c"))
    module = folder / "_trickle.abi3.so"
    subprocess.run(
        [os.environ.get("CC", "cc"), "-std=gnu11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-O2", "-g",
         "-pthread", "-Wall", "-Wextra", "-Wshadow", "-Wno-unused-parameter", "-Werror",
         "-fvisibility=hidden", f"-I{ROOT / 'include'}", f"-I{sysconfig.get_path('include')}",
         f"-I{ROOT / 'src'}", *flags, *sources, *[str(ROOT / name) for name in REAL],
         str(HERE / "fake_trickle.c"), str(HERE / "fake_jobs.c"),
         "-o", str(module)],
        check=True)
    return module


@functools.lru_cache
def pythons():
    """Every CPython from 3.11 on that is installed: {version: path}."""
    found = {}
    places = [pathlib.Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    places += pathlib.Path.home().glob(".pyenv/versions/*/bin")
    for place in [pathlib.Path("/usr/bin"), *places]:
        if place.name == "shims":
            continue  # scripts of pyenv, which start one of the others
        for path in place.glob("python3*"):
            if not path.name[7:].replace(".", "").isdigit() and path.name != "python3":
                continue
            asked = subprocess.run(
                [str(path), "-c", "import sys; print(*sys.version_info[:3], sep='.')"],
                capture_output=True, text=True)
            version = asked.stdout.strip()
            if asked.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 11):
                found.setdefault(version, str(path))
    return found
