#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""trickle map: commands per second, as a durable job, beside GNU parallel with its job log, and
beside a loop that does nothing but start commands and wait for them, on as many cores."""
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from common import BUILD, VMS, Bench, rate


class Commands:
    """The same list of commands, run by different means."""

    def __init__(self, count):
        self.folder = Path(tempfile.mkdtemp(prefix="trk-bench-"))
        self.count = count
        self.number = 0
        (self.folder / "list").write_text("".join(f"{i}\n" for i in range(count)))
        self.env = {name: value for name, value in os.environ.items() if name != "PARALLEL"}
        self.env["PARALLEL_HOME"] = str(self.folder)
        (self.folder / "will-cite").touch()

    def run(self, *command):
        """Commands per second."""
        def measured():
            with open(self.folder / "list", "rb") as lines, open(os.devnull, "wb") as nothing:
                subprocess.run([*map(str, command)], stdin=lines, stdout=nothing, check=True,
                               stderr=nothing, env=self.env, cwd=self.folder)
        return rate(self.count, measured)

    def trickle(self):
        self.number += 1
        name = f"bench-{self.number}"
        per_second = self.run(BUILD / "trickle", "map", f"--local={VMS}", "--job", name, "true")
        done = subprocess.run([BUILD / "trickle", "rm", name], env=self.env)
        assert done.returncode == 0
        return per_second

    def parallel(self):
        return self.run("parallel", f"-j{VMS}", "--joblog", self.folder / "log", "true")

    def loop(self):
        """Starts nothing but the commands, with what is in the list as argument."""
        return self.run(BUILD / "bench/spawn_loop", "-j", VMS, self.count, "true", "1")


def main():
    bench = Bench(__doc__)
    count = bench.size(20_000)
    commands = Commands(count)
    others = {"a bare posix_spawn loop": (commands.loop, 0.7)}
    if shutil.which("parallel"):
        others = {"GNU parallel -j2 --joblog": (commands.parallel, 3)} | others
    else:
        bench.say("GNU parallel is not installed")
    bench.compare(f"{count:,} commands that do nothing", "1/s", commands.trickle, others)
    bench.finish()
    shutil.rmtree(commands.folder)


if __name__ == "__main__":
    main()
