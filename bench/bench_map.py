#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""trickle map: commands per second, as a durable job, beside GNU parallel with its job log, and
beside a loop that does nothing but start commands and wait for them, on as many cores.

On a machine that does other things too the kernel shares its time by sessions (sched_autogroup),
and each VM is one. So the loop is also run with a session for each of its workers; and rows of CPU
time, which other programs hardly touch, stand beside those of the clock."""
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

from common import BUILD, VMS, Bench, rate


PARALLEL = f"GNU parallel -j{VMS} --joblog"
LOOP = "a bare posix_spawn loop"
SESSIONS = "the loop, a session per worker"


class Commands:
    """The same list of commands, run by different means."""

    def __init__(self, count, part):
        self.folder = Path(tempfile.mkdtemp(prefix="trk-bench-"))
        self.count = count
        self.part = part  # of them, for what is slow
        self.number = 0
        self.cpu = {}  # name -> microseconds of CPU time per command, round by round
        for size in (count, part):
            (self.folder / f"{size}").write_text("".join(f"{i}\n" for i in range(size)))
        self.env = {name: value for name, value in os.environ.items() if name != "PARALLEL"}
        self.env["PARALLEL_HOME"] = str(self.folder)
        (self.folder / "will-cite").touch()

    def run(self, name, count, *command):
        """Commands per second."""
        def measured():
            with open(self.folder / f"{count}", "rb") as lines, open(os.devnull, "wb") as nothing:
                subprocess.run([*map(str, command)], stdin=lines, stdout=nothing, check=True,
                               stderr=nothing, env=self.env, cwd=self.folder)
        before = cpu_seconds()
        per_second = rate(count, measured)
        self.cpu.setdefault(name, []).append((cpu_seconds() - before) / count * 1e6)
        return per_second

    def trickle(self):
        self.number += 1
        name = f"bench-{self.number}"
        per_second = self.run("trickle", self.count, BUILD / "trickle", "map", f"--local={VMS}",
                              "--job", name, "true")
        done = subprocess.run([BUILD / "trickle", "rm", name], env=self.env)
        assert done.returncode == 0
        return per_second

    def parallel(self):
        return self.run(PARALLEL, self.part, "parallel", f"-j{VMS}", "--joblog",
                        self.folder / "log", "true")

    def loop(self):
        """Starts nothing but the commands, with what is in the list as argument."""
        return self.run(LOOP, self.count, BUILD / "bench/spawn_loop", "-j", VMS, self.count, "true",
                        "1")

    def loop_in_sessions(self):
        return self.run(SESSIONS, self.count, BUILD / "bench/spawn_loop", "-s", "-j", VMS,
                        self.count, "true", "1")


def cpu_seconds():
    """Of all that has ended below us."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    bench = Bench(__doc__)
    count = bench.size(20_000)
    commands = Commands(count, bench.scaled(20_000))
    others = {LOOP: (commands.loop, 0.7), SESSIONS: (commands.loop_in_sessions, None)}
    if shutil.which("parallel"):
        others = {PARALLEL: (commands.parallel, 3)} | others
    else:
        bench.say("GNU parallel is not installed")
    bench.compare(f"{count:,} commands that do nothing", "1/s", commands.trickle, others)
    bench.add("their CPU time, each", "us", commands.cpu, dict.fromkeys(others),
              smaller_is_better=True)
    bench.finish()
    shutil.rmtree(commands.folder)


if __name__ == "__main__":
    main()
