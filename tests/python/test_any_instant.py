# SPDX-License-Identifier: MIT
"""The initiator is killed at every instant of a small job, and at random ones of a larger job; the
job is resumed, under further kills, until it is done.

Then its results are those of a serial run, each recorded once; and no element whose result was
recorded before a kill has run after it: the functions note each run in a file.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from supervisors import BUILD

SMALL = """
import json, os, sys
import trickle
from runlog import note

def square(job):
    return note(job) ** 2

def weigh(job):
    folder, x, before, total = job
    note((folder, 1000 + x))
    return x * total

folder = sys.argv[1]
trickle.job("small")
vms = trickle.connect(2)
squares = trickle.forkwork(vms, square, [(folder, x) for x in range(12)])
start = trickle.once("start", lambda: os.getpid())

def elements():
    for x in range(8):
        yield folder, x, len(weights), sum(squares)

weights = []
for weight in trickle.forkgen(vms, weigh, elements(), ordered=True):
    weights.append(weight)
print(json.dumps([squares, weights, start > 0]))
"""

LARGE = """
import sys
import trickle
from runlog import note

def double(job):
    return 2 * note(job)

trickle.job("large")
folder, count = sys.argv[1], int(sys.argv[2])
vms = trickle.connect()
print(sum(trickle.forkgen(vms, double, ((folder, x) for x in range(count)))))
"""


class Job:
    """A program that is a job, in a home of its own."""

    def __init__(self, supervisor, tmp_path, text, *args):
        self.folder = tmp_path
        self.home = tmp_path / "home"
        self.env = {**supervisor.env, "TRICKLE_HOME": str(self.home)}
        self.env["PYTHONPATH"] += os.pathsep + os.path.dirname(os.path.abspath(__file__))
        program = tmp_path / "program.py"
        program.write_text(text)
        self.command = [sys.executable, program, tmp_path, *map(str, args)]

    def start(self, crash="write:0"):
        env = {**self.env, "LD_PRELOAD": str(BUILD / "tests/crash/crash.so"),
               "TRICKLE_CRASH": crash, "ASAN_OPTIONS": "verify_asan_link_order=0"}
        return subprocess.Popen(self.command, env=env, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def run(self, crash="write:0"):
        """(status, output); -9: it was killed."""
        process = self.start(crash)
        out, err = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), err
        return process.returncode, out

    def runs(self):
        """Elements that have run, in order."""
        path = self.folder / "log"
        return [int(line.split()[0]) for line in path.read_text().splitlines()] \
            if path.exists() else []

    def recorded(self, name, offsets):
        """Elements with results, as they are noted."""
        from trickle import _trickle
        os.environ.setdefault("TRICKLE_FSCK", str(BUILD / "src/ckpt/trickle-fsck"))
        try:
            view = _trickle.View(name, home=str(self.home))
        except _trickle.TrickleError:
            return set()  # killed before there was one
        found = set()
        for stage in view.stages():
            assert not stage["replaced_by"]
            indices, position = [], (0, 0)
            while True:
                results, position = view.results(stage["number"], position)
                if not results:
                    break
                indices += [result[0] for result in results]
            assert len(indices) == len(set(indices))
            found.update(offsets[stage["number"]] + index for index in indices)
        view.close()
        return found


def resumed_until_done(job, name, offsets, crashes):
    """Runs the job with one crash after the other; its output. Checks after each that nothing that
    was recorded runs again."""
    settled = []  # (how many runs had been noted, what was recorded then)
    while True:
        status, out = job.run(next(crashes))
        runs = job.runs()
        for count, recorded in settled:
            again = recorded.intersection(runs[count:])
            assert not again, f"recorded after {count} runs, and run again: {sorted(again)}"
        if status == 0:
            return out, len(settled)
        settled.append((len(runs), job.recorded(name, offsets)))


def crashes_at(what, n):
    """The same instant in each run, then later ones: a job that is always killed at its first write
    does not get far."""
    yield f"{what}:{n}"
    yield f"{what}:{n}"
    while True:
        n = n * 2 + 1
        yield f"{what}:{n}"


@pytest.mark.parametrize("what", ["write", "torn", "sync", "frame"])
def test_killed_at_every_instant(supervisor, tmp_path, what, is_full):
    squares = [x * x for x in range(12)]
    expected = json.dumps([squares, [x * sum(squares) for x in range(8)], True]) + "\n"
    n, was_killed = 1, True
    while was_killed:
        folder = tmp_path / str(n)
        folder.mkdir()
        job = Job(supervisor, folder, SMALL)
        out, kills = resumed_until_done(job, "small", {1: 0, 2: 1000}, crashes_at(what, n))
        assert out == expected
        assert job.recorded("small", {1: 0, 2: 1000}) == {*range(12), *range(1000, 1008)}
        was_killed = kills > 0
        n += 1 if is_full or n < 4 else 3
    assert n > 6, f"the job had only {n} instants of the kind {what}"


def killed_after(job, runs):
    """Runs the job until it has noted so many runs of elements in all."""
    process = job.start()
    path = job.folder / "log"
    while process.poll() is None and (not path.exists() or path.stat().st_size < runs * 12):
        time.sleep(0.001)
    process.kill()
    out, err = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode, out


def test_killed_at_random_times(supervisor, tmp_path, is_full):
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    count, kills = (300_000, 40) if is_full else (40_000, 6)
    job = Job(supervisor, tmp_path, LARGE, count)
    settled = []
    for at in sorted(rng.randrange(count) for _ in range(kills)):
        status, out = killed_after(job, at)
        if status == 0:
            break
        settled.append((len(job.runs()), job.recorded("large", {1: 0})))
    assert settled, "the job was never killed"
    for _ in range(2):  # to its end, and once more, when there is nothing left to do
        status, out = job.run()
        assert (status, int(out)) == (0, count * (count - 1))
    runs = job.runs()
    assert set(runs) == set(range(count))
    for noted, recorded in settled:
        again = recorded.intersection(runs[noted:])
        assert not again, f"recorded, and run again: {sorted(again)[:20]}"
