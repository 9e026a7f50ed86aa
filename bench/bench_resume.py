#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What durability costs while a job runs, and what resuming one gives back.

The same programs with and without a job; a job of a million recorded results that was killed, and
is resumed; what `trickle status` takes, and takes away."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import BUILD, Bench

WORK = """
import sys, time
import trickle
count, seconds, name = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]

def double(x):
    return 2 * x

def pause(x):
    time.sleep(seconds)

if name:
    trickle.job(name)
function = pause if seconds else double
vms = trickle.connect(2)
trickle.forkwork(vms, abs, range(1000))
start = time.perf_counter()
trickle.forkwork(vms, function, range(count), progress=False)
print(count / (time.perf_counter() - start))
"""

KILLED = """
import os, signal, sys, time
from pathlib import Path

def double(x):
    return 2 * x

def stamp(x):
    return time.time()

mark, count = Path(sys.argv[1]), int(sys.argv[2])
vms = connect(2)
start = time.perf_counter()
forkwork(vms, double, range(count), progress=False)
took = time.perf_counter() - start
if not mark.exists():
    mark.write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
print(count / took, forkwork(vms, stamp, [0], name=str(os.getpid()))[0])
os.kill(os.getpid(), signal.SIGKILL) # so that it can be resumed once more
"""


class Jobs:
    def __init__(self, bench):
        self.folder = Path(tempfile.mkdtemp(prefix="trk-bench-"))
        self.env = {**os.environ, "TRICKLE_HOME": str(self.folder / "home"),
                    "PYTHONPATH": str(BUILD / "python")}
        self.bench = bench
        self.number = 0
        for name, text in (("work", WORK), ("killed", KILLED)):
            (self.folder / f"{name}.py").write_text(text)

    def run(self, *command):
        return subprocess.run([*map(str, command)], env=self.env, capture_output=True, text=True)

    def rate(self, count, seconds, is_job):
        self.number += 1
        name = f"job-{self.number}" if is_job else ""
        done = self.run(sys.executable, self.folder / "work.py", count, seconds, name)
        assert done.returncode == 0, done.stderr
        if is_job:
            assert self.trickle("rm", name).returncode == 0
        return float(done.stdout)

    def trickle(self, *arguments):
        return self.run(BUILD / "trickle", *arguments)

    def make_killed(self, count):
        done = self.trickle("run", "--job", "killed", self.folder / "killed.py",
                            self.folder / "mark", count)
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr

    def resume(self):
        """(results per second, seconds from the command to the first new element)."""
        start = time.time()
        done = self.trickle("resume", "killed")
        per_second, stamp = map(float, done.stdout.split())
        return per_second, stamp - start


def watched(jobs, count, is_watched):
    """The rate of a job while `trickle status` is asked for all the time, or not."""
    over = threading.Event()

    def watch():
        while not over.is_set():
            jobs.trickle("status", f"job-{jobs.number}")

    watcher = threading.Thread(target=watch)
    if is_watched:
        watcher.start()
    measured = jobs.rate(count, 0.001, True)
    over.set()
    if is_watched:
        watcher.join()
    return measured


def main():
    bench = Bench(__doc__)
    bench.start_vms()
    jobs = Jobs(bench)
    for what, count, seconds, target in (("1,000,000 trivial elements", 1_000_000, 0, 1 / 1.15),
                                         ("elements of 10 ms", 400, 0.01, 1 / 1.02)):
        count = bench.size(count)
        bench.compare(what + ", recorded", "1/s", lambda: jobs.rate(count, seconds, True),
                      {"not recorded": (lambda: jobs.rate(count, seconds, False), target)})
    count = bench.size(1_000_000)
    jobs.make_killed(count)
    resumed = [jobs.resume() for _ in range(bench.options.rounds)]
    bench.limit("resume: command to first new element", "s",
                iter([seconds for _, seconds in resumed]).__next__, 2)
    rates = iter([rate for rate, _ in resumed])
    bench.compare("resume: recorded results delivered", "1/s", rates.__next__,
                  {"the limit": (lambda: 500_000, 1)})

    def status():
        start = time.perf_counter()
        assert jobs.trickle("status", "killed").returncode == 0
        return (time.perf_counter() - start) * 1000
    bench.limit("trickle status of that job", "ms", status, 200)
    count = bench.size(4000)
    bench.compare("1 ms elements while status is asked all the time", "1/s",
                  lambda: watched(jobs, count, True),
                  {"not asked": (lambda: watched(jobs, count, False), None)})
    bench.finish()
    shutil.rmtree(jobs.folder)


if __name__ == "__main__":
    main()
