# SPDX-License-Identifier: MIT
"""Elements of work that note themselves: which ran, where, how often; and gates to hold them at.

An element is (folder, number). What is noted is a line in one file, written by one write() with
O_APPEND, so that it is there whatever becomes of the process a moment later.
"""
import collections
import os
import threading
import time

_fds = {}


def note(job):
    """On a VM: this element has begun. Returns its number."""
    folder, x = job
    fd = _fds.get(folder)
    if fd is None:
        fd = _fds[folder] = os.open(f"{folder}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b"%d %d\n" % (x, os.getpid()))
    return x


def hold(job, gate):
    """On a VM: waits until a gate is opened."""
    while not os.path.exists(f"{job[0]}/{gate}"):
        time.sleep(0.001)


class Log:
    """In the program: the same files."""

    def __init__(self, folder):
        self.folder = str(folder)

    def jobs(self, count):
        return [(self.folder, x) for x in range(count)]

    def runs(self):
        """(element, pid) in the order in which they began."""
        try:
            with open(f"{self.folder}/log") as file:
                return [tuple(map(int, line.split())) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def counts(self):
        return collections.Counter(x for x, _ in self.runs())

    def pids(self, x):
        return [pid for element, pid in self.runs() if element == x]

    def open(self, gate):
        with open(f"{self.folder}/{gate}", "w"):
            pass

    def wait(self, condition, seconds=60):
        """Until condition() is true, and what it gives then."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"it did not happen; what ran: {self.runs()[-20:]}"
            time.sleep(0.002)
        return value


def beside(own):
    """The environment of a program that uses the VMs of a supervisor, and this module."""
    here = os.path.dirname(os.path.abspath(__file__))
    return {"TRICKLE_RUNTIME": own.runtime, "PYTHONPATH": f"{own.env['PYTHONPATH']}:{here}"}


def in_thread(work, *args, **options):
    """Runs work beside the test; join() gives what it gave."""
    class Runner(threading.Thread):
        result = error = None

        def run(self):
            try:
                self.result = work(*args, **options)
            except BaseException as error:
                self.error = error

        def join(self, timeout=90):
            super().join(timeout)
            assert not self.is_alive(), "the work does not end"
            if self.error is not None:
                raise self.error
            return self.result
    runner = Runner(daemon=True)
    runner.start()
    return runner
