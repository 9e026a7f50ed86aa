#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows that the simulator bites: builds it once with each deliberate bug of base/mutate.h and
demands that it is found within 10,000 seeds.

    chaos/sim/mutants.py [BUILD [NAME...]]

BUILD is a build directory in which chaos/sim is up to date (default: build). A mutant is the
simulator as it was linked there, with the one file compiled anew that has the bug.
"""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SEEDS = "1..10000"
PLACES = ["src/sched", "vm", "chaos/sim"]


def mutations():
    """(number, name, sentence) of each deliberate bug."""
    text = (ROOT / "src/base/mutate.h").read_text()
    return [(int(n), name, what)
            for n, name, what in re.findall(r'X\((\d+), (\w+), "([^"]+)"\)', text)]


def sources_of(name):
    """The files in which the bug is."""
    return [path for place in PLACES for path in sorted((ROOT / place).glob("*.c"))
            if re.search(rf"\bMUTATE\({name}\b", path.read_text())]


class Build:
    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        commands = json.loads((self.folder / "compile_commands.json").read_text())
        self.commands = {}
        for entry in commands:
            source = (Path(entry["directory"]) / entry["file"]).resolve()
            if "marks" not in entry["output"]:
                self.commands.setdefault(source, entry)

    def compile(self, source, number, out):
        entry = self.commands[source]
        words = shlex.split(entry["command"])
        at = words.index("-o")
        words[at + 1] = str(out)
        words.insert(at, f"-DTRK_MUTATION={number}")
        subprocess.run(words, cwd=entry["directory"], check=True)
        return Path(entry["directory"]) / entry["output"]

    def link(self, objects, replaced, out):
        """The simulator with these objects in place of those."""
        own = [str(p) for p in sorted((self.folder / "chaos/sim.p").glob("*.o"))
               if p.resolve() not in replaced]
        libs = [str(self.folder / p) for p in
                ["src/sched/libsched.a", "vm/libagent.a", "src/wire/libwire.a",
                 "src/base/libbase.a"]]
        subprocess.run(["cc", "-o", str(out), *map(str, objects), *own, "-Wl,--start-group", *libs,
                        "-Wl,--end-group", *pkg_libs(), "-lpthread", *sanitizers()], check=True)


def pkg_libs():
    words = []
    for names in (["msgpack-c", "msgpack"], ["libxxhash"]):
        for name in names:
            found = subprocess.run(["pkg-config", "--libs", name], capture_output=True, text=True)
            if found.returncode == 0:
                words += found.stdout.split()
                break
    return words


def sanitizers():
    return shlex.split(os.environ.get("MUTANTS_LDFLAGS", ""))


def hunt(binary):
    """(how it was found or None, the seed)"""
    done = subprocess.run([str(binary), "--seeds", SEEDS, "--no-coverage"], capture_output=True,
                          text=True)
    seed = re.search(r"^FAILED seed=(\d+)", done.stderr, re.M)
    if done.returncode == 0 or not seed:
        return None, None
    lines = done.stderr.splitlines()
    told = [line for line in lines if line.startswith("BROKEN: ")] or \
           [line for line in lines if "ERROR" in line or "ssert" in line] or lines[1:2]
    return re.sub(r"^(BROKEN: |trickle\[\d+\] ERROR |.*ssertion )", "", told[0]), int(seed.group(1))


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else ROOT / "build"
    wanted = sys.argv[2:]
    build = Build(folder)
    missed = []
    with tempfile.TemporaryDirectory() as room:
        for number, name, what in mutations():
            if wanted and name not in wanted:
                continue
            sources = sources_of(name)
            if not sources:
                print(f"{number:3} {name:18} is nowhere in the sources")
                missed.append(name)
                continue
            objects = [Path(room) / f"{source.stem}.o" for source in sources]
            replaced = {build.compile(source, number, out).resolve()
                        for source, out in zip(sources, objects)}
            binary = Path(room) / "sim"
            build.link(objects, replaced, binary)
            start = time.monotonic()
            how, seed = hunt(binary)
            if how is None:
                missed.append(name)
                print(f"{number:3} {name:18} NOT FOUND in seeds {SEEDS}: {what}")
            else:
                print(f"{number:3} {name:18} found by seed {seed} in "
                      f"{time.monotonic() - start:.1f} s: {what}\n{'':23}{how[:120]}", flush=True)
    if missed:
        sys.exit(f"{len(missed)} deliberate bugs were not found: {', '.join(missed)}")


if __name__ == "__main__":
    main()
