# SPDX-License-Identifier: MIT
"""Bad disks and clocks, each against a small real job: it waits or ends with a sentence, goes on
when all is well, and its results are right."""
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "chaos"), str(HERE.parent / "python")]
from jobs_rig import Job, wait_for  # noqa: E402
from live import disk, shim  # noqa: E402

STOP, COUNT = 10, 400  # elements from STOP on wait until the fault is there


class Rig:
    """A job whose processes have a bad disk and clock when told so."""

    def __init__(self, command, directory, build):
        command.env["TRICKLE_HOME"] = str(directory / "home")
        self.control = shim.Control(directory / "control")
        self.plain = command.env
        self.bad = command.env | self.control.environment(build / "chaos/shim.so")
        command.env = self.bad
        self.job = Job(command, directory, STOP, COUNT)
        self.home = directory / "home"

    def start(self):
        self.job.start()
        self.job.command.env = self.plain  # those who only look have a good disk
        self.job.wait_recorded(STOP)

    def struck(self, what):
        wait_for(lambda: getattr(self.control, f"hits_{what}") > 0, f"a fault of the kind {what}")

    def ends_well(self):
        status, out, err = self.job.finish()
        assert (status, out.strip()) == (0, str(self.job.sum)), err
        return err

    def kill(self):
        self.job.process.kill()
        self.job.open_gate()
        self.job.finish()  # its VMs end, too

    def resume(self):
        self.job.command.env = self.bad
        done = self.job.command("resume", self.job.name)
        assert (done.returncode, done.stdout.strip()) == (0, str(self.job.sum)), done.stderr
        return done.stderr

    def recorded_ran_once(self):
        counts = self.job.runs()
        assert all(counts[x] == 1 for x in range(STOP)), counts


@pytest.fixture
def rig(trickle_command, tmp_path, build):
    made = Rig(trickle_command, tmp_path, build)
    yield made
    if made.job.process is not None and made.job.process.poll() is None:
        made.job.process.kill()
        made.job.process.communicate()


def test_no_room(rig):
    rig.start()
    rig.control.is_full = 1
    rig.job.open_gate()
    rig.struck("full")
    assert rig.job.process.poll() is None  # it waits
    rig.control.is_full = 0
    assert "No space left" in rig.ends_well()
    rig.recorded_ran_once()


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("vanish", [0, 1])
def test_syncs_fail(rig, count, vanish):
    rig.start()
    rig.control.writes_vanish = vanish
    rig.control.syncs_fail = count
    rig.job.open_gate()
    rig.struck("sync")
    rig.ends_well()
    assert rig.control.syncs_fail == 0
    rig.recorded_ran_once()


def test_writes_fail(rig):
    rig.start()
    rig.control.writes_fail = 3
    rig.job.open_gate()
    rig.struck("write")
    rig.ends_well()
    rig.recorded_ran_once()


def test_a_write_that_vanished_is_told_by_the_next_sync(rig):
    """Also when the disk is well by then: no disk forgets without a word."""
    script = f"""
import os, sys
sys.path.insert(0, {str(HERE.parents[1] / "chaos")!r})
from live import shim
control = shim.Control({str(rig.control.path)!r})
os.makedirs(os.environ["TRICKLE_HOME"], exist_ok=True)
fd = os.open(os.environ["TRICKLE_HOME"] + "/f", os.O_RDWR | os.O_CREAT)
control.writes_vanish, control.syncs_fail = 1, shim.EVERY
os.pwrite(fd, b"gone", 0)
control.heal()
try:
    os.fdatasync(fd)
except OSError as error:
    print(error.errno, os.pread(fd, 9, 0))
os.pwrite(fd, b"there", 0)
os.fdatasync(fd)
print(os.pread(fd, 9, 0))
"""
    done = subprocess.run([sys.executable, "-c", script], env=rig.bad, capture_output=True,
                          text=True)
    assert done.stdout == "5 b''\nb'there'\n", done.stderr


def test_slow(rig):
    rig.control.sync_us = 150_000
    rig.start()
    rig.job.open_gate()
    rig.struck("slow")
    rig.ends_well()
    rig.recorded_ran_once()


def test_unreadable(rig):
    """Who looks at a bad page of a map dies. The job is resumed on a good disk."""
    rig.start()
    rig.control.read_pid = rig.job.process.pid
    rig.control.is_unreadable = 1
    rig.control.reads_fail = shim.EVERY
    rig.job.open_gate()
    status, _, err = rig.job.finish()
    assert status == -signal.SIGSEGV and rig.control.hits_map > 0, (status, err)
    rig.control.heal()
    rig.resume()
    rig.recorded_ran_once()


def test_reads_fail_when_it_is_opened(rig):
    """Then it is refused with a sentence, and nothing is lost by that."""
    rig.start()
    rig.kill()
    rig.control.reads_fail = shim.EVERY
    rig.job.command.env = rig.bad
    done = rig.job.command("resume", rig.job.name)
    assert done.returncode in (1, 2) and "trickle: " in done.stderr, done
    assert rig.control.hits_read > 0 and "Traceback" not in done.stderr
    rig.control.heal()
    rig.resume()


@pytest.mark.parametrize("pages", [1, 6])
def test_damage_between_runs_is_told_and_repaired(rig, pages):
    rig.start()
    rig.kill()
    store = rig.home / "jobs" / rig.job.name / "data.mdb"
    said = disk.damage(store, pages, random.Random(pages))
    assert said.startswith("pages ")
    check = rig.job.command("fsck", "--json", rig.job.name)
    is_whole = json.loads(check.stdout)["is_whole"]
    status = rig.job.command("resume", rig.job.name)
    if status.returncode == 2 and "how the job" in status.stderr:  # that note was lost
        rig.job.command.env = rig.plain | {"TRICKLE_JOB": rig.job.name}
        status = rig.job.command("run", "--local=2", rig.job.program)
    assert (status.returncode, status.stdout.strip()) == (0, str(rig.job.sum)), status.stderr
    assert is_whole or "damaged" in status.stderr, (check.stdout, status.stderr)


REAL = """
import errno, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from live import disk, machine, shim
world = machine.World(Path(sys.argv[2]), Path(sys.argv[3]), 1)
world.machines.append(machine.Machine(world, "m0", world.dir / "state", world.dir / "run"))
shim.attach(world)
disk.attach(world)
assert world.disk.is_real, "no file system of its own"
kept = Path(world.disk.path("kept"))
kept.write_text("kept")
world.disk.fill()
try:
    Path(world.disk.path("more")).write_text("more" * 10000)
    print("there is room")
except OSError as error:
    print(errno.errorcode[error.errno], error.filename is None)
world.disk.free()
Path(world.disk.path("more")).write_text("more" * 10000)
world.disk.close()
print(kept.read_text(), sorted(os.listdir(world.dir / "state")))
print([line for line in open("/proc/mounts") if sys.argv[2] in line])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")
def test_a_real_file_system_is_filled_and_freed(tmp_path, build):
    probe = subprocess.run(["unshare", "--mount", "sh", "-c",
                            "ls /dev/loop-control && mkfs.ext4 -V"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("there are no mounts, loop devices or mkfs.ext4 here")
    done = subprocess.run([sys.executable, "-c", REAL, HERE.parents[1] / "chaos", tmp_path, build],
                          capture_output=True, text=True)
    assert done.stdout == "ENOSPC True\nkept ['kept', 'more']\n[]\n", done.stderr
    with open("/proc/mounts") as file:  # it never was here
        assert str(tmp_path) not in file.read()


CLOCK = """
import json, os, sys, time
import trickle
def work(x):
    return x, time.time(), time.monotonic(), os.getpid()
vms = trickle.connect(2)
def told(number):
    rows = trickle.forkwork(vms, work, range(60))
    assert [row[0] for row in rows] == list(range(60))
    print(json.dumps([time.time(), time.monotonic(), rows[0][1], os.getpid()]), flush=True)
told(0)
while sys.stdin.readline():
    told(1)
"""


@pytest.mark.parametrize("seconds", [-86400 * 3, 0.5, 3600, 86400 * 4000])
@pytest.mark.parametrize("whom", ["all", "program"])
def test_a_step_of_the_clock(rig, tmp_path, seconds, whom):
    program = tmp_path / "clock.py"
    program.write_text(CLOCK)
    process = subprocess.Popen([*rig.job.command.program, "run", "--local=2", program],
                               env=rig.bad, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    rows = [json.loads(process.stdout.readline())]
    rig.control.clock_pid = rows[0][3] if whom == "program" else 0
    for ns in (int(seconds * 1e9), 0):
        rig.control.clock_ns = ns
        process.stdin.write("\n")
        process.stdin.flush()
        rows.append(json.loads(process.stdout.readline()))
    process.stdin.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0, err
    (t0, m0, e0, _), (t1, m1, e1, _), (t2, m2, e2, _) = rows
    assert abs((t1 - t0) - (m1 - m0) - seconds) < 0.1 and abs((t2 - t0) - (m2 - m0)) < 0.1
    assert 0 <= m1 - m0 < 30 and 0 <= m2 - m1 < 30  # time passes as it does
    off = seconds if whom == "all" else 0
    assert abs((e1 - e0) - off - (m1 - m0)) < 2 and rig.control.hits_clock > 0


def test_what_a_control_looks_like_to_both_sides(tmp_path):
    control = shim.Control(tmp_path / "control")
    control.clock_ns = -5
    for value, name in enumerate(shim.NUMBERS[1:], 1):
        setattr(control, name, value)
    assert [getattr(control, name) for name in shim.NUMBERS[1:]] == list(range(
        1, len(shim.NUMBERS)))
    control.heal()
    assert control.clock_ns == 0 and control.is_full == 0 and control.hits_full != 0
    source = (HERE.parents[1] / "chaos/live/shim.c").read_text()
    fields = source.partition("struct control {")[2].partition("\n};")[0]
    names = [word.strip(" ;,") for line in fields.split("\n") if "uint32_t" in line
             for word in line.partition("uint32_t")[2].partition(";")[0].split(",")]
    assert names == list(shim.NUMBERS)


def test_what_vms_hold_is_damaged_on_all_machines(tmp_path):
    paths = [tmp_path / name / "held/0123/one.held" for name in ("m0", "m1")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(5000))
    started = []
    world = SimpleNamespace(machines=[SimpleNamespace(home=tmp_path / name) for name in
                                      ("m0", "m1")], random=random.Random(1),
                            start_program=lambda: started.append(True))
    disk.HeldDamage({"whom": [0.5, 0.5]}).stop(world)
    assert all(path.read_bytes() != bytes(5000) and path.stat().st_size == 5000 for path in paths)
    assert started == [True]
