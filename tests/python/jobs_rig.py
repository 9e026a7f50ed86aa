# SPDX-License-Identifier: MIT
"""Programs for the tests of jobs: they run on VMs of their own, and stop where the test wants."""
import json
import time

# Elements from STOP on wait for the file "gate"; each run of an element is a line in "log".
PROGRAM = """\
import os, time
HERE = {here!r}
def work(x):
    with open(HERE + "/log", "a") as log:
        log.write(f"{{x}}\\n")
    while x >= {stop} and not os.path.exists(HERE + "/gate"):
        time.sleep(0.01)
    if x == 3:
        raise ValueError("three")
    return x * x
vms = connect()
results = forkwork(vms, work, range({count}), on_error="return")
print(sum(r for r in results if isinstance(r, int)))
"""


class Job:
    """A program under `trickle run`, and its job as the commands see it."""

    def __init__(self, command, directory, stop=10, count=20, name="prog"):
        self.command = command
        self.directory = directory
        self.name = f"{name}-1"
        self.sum = sum(x * x for x in range(count) if x != 3)
        self.program = directory / f"{name}.py"
        self.program.write_text(PROGRAM.format(here=str(directory), stop=stop, count=count))
        self.process = None

    def start(self, *options):
        self.process = self.command.start("run", "--local=2", *options, self.program)

    def finish(self):
        """(status, out, err) of the process that was started."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def open_gate(self):
        (self.directory / "gate").touch()

    def runs(self):
        """How often each element has begun."""
        lines = (self.directory / "log").read_text().split()
        return {int(x): lines.count(x) for x in lines}

    def json(self, *words):
        result = self.command(words[0], "--json", *words[1:])
        assert result.returncode == 0, result
        return json.loads(result.stdout)

    def status(self):
        return self.json("status", self.name)

    def wait_recorded(self, count, seconds=30):
        """Until so many results are on the disk and the VMs run what comes then."""
        until = time.monotonic() + seconds
        while True:
            status = self.command("status", "--json", self.name)
            seen = json.loads(status.stdout) if status.returncode == 0 else {}
            busy = [vm for vm in seen.get("vms", []) if vm["element"] is not None]
            if seen.get("recorded") == count and len(busy) == 2:
                return seen
            assert time.monotonic() < until, (seen, status.stderr, self.process.poll())


def wait_for(condition, what, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.01)
