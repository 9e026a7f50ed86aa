#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How fast a job is on bad networks: beside VMs behind a link that loses and delays, and while
somebody without the key floods a VM's port. Machines are namespaces of their own, joined by
chaos/live's relay, and all sessions are TCP with TLS; needs root."""
import os
import statistics
import subprocess
import sys
import time

from common import BUILD, ROOT, Bench

sys.path.insert(0, str(ROOT / "chaos"))
os.environ["TRICKLE_BUILD"] = str(BUILD)

from live import hostile, network  # noqa: E402

ELEMENT_MS = 10
SECONDS = 5.0           # that the speed is measured without a flood
WARM_SECONDS = 1.0      # not measured
CONNECTIONS = 100_000
WARM_CONNECTIONS = 2000
GROWTH_LIMIT_MB = 8     # 80 bytes a connection; what VMs do besides makes a few MB of difference
PORTION_BAD = 0.95      # of the speed of good VMs beside none behind a bad link
PORTION_FLOOD = 0.6     # of the speed beside a process that burns a core

# Says how many results it has, 50 times a second: "host=count ... monotonic". HOW: what an element
# does. When there is a file "stop" it ends with a work that has an end. Each result has to be
# right, and there once.
PROGRAM = """
import itertools, os, socket, time
def work(x):
    HOW
    return x, x * x, socket.gethostname()
vms = connect()
counts, seen, told = {}, set(), 0
results = forkgen(vms, work, itertools.count(), progress=False)
for x, y, host in results:
    assert y == x * x and x not in seen
    seen.add(x)
    counts[host] = counts.get(host, 0) + 1
    now = time.monotonic()
    if now - told > 0.02:
        told = now
        print(*(f"{h}={n}" for h, n in counts.items()), now, flush=True)
        if os.path.exists("stop"):
            break
results.close()
assert [y for _, y, _ in forkwork(vms, work, range(200))] == [x * x for x in range(200)]
print("right", flush=True)
"""
WAITS = f"time.sleep({ELEMENT_MS} / 1000)"
COMPUTES = f"t = time.thread_time() + {ELEMENT_MS} / 1000\n    while time.thread_time() < t: pass"
NOTHING = "pass"


class Job:
    """A program that goes on until it is stopped, on the first machine of a network."""

    def __init__(self, net, how):
        self.net, self.here = net, net.machines[0]
        self.here.path("work/stop").unlink(missing_ok=True)
        text = PROGRAM.replace("HOW", how)
        self.here.path("work/prog.py").write_text(text)
        self.process = self.here.start(BUILD / "trickle", "run", "--lan", "--no-checkpoint",
                                       "prog.py", stdout=subprocess.PIPE, text=True)
        self.lines = []

    def read_until(self, is_enough):
        """Reads what it says until a line is enough: (counts, moment)."""
        while not self.lines or not is_enough(*self.lines[-1]):
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit("the program has failed")
            *counts, now = line.split()
            self.lines.append(({h: int(n) for h, n in (c.split("=") for c in counts)},
                               float(now)))

    def speed(self, begin, end, host=None):
        """Results in a second between two moments, of one host or of all."""
        self.read_until(lambda counts, at: at >= end)

        def count(moment):
            """By then; between two lines as if they came evenly."""
            before, after = None, None
            for counts, at in self.lines:
                value = counts.get(host, 0) if host else sum(counts.values())
                if at <= moment:
                    before = (value, at)
                elif after is None:
                    after = (value, at)
            if before is None or after is None:
                return (before or after)[0]
            part = (moment - before[1]) / (after[1] - before[1])
            return before[0] + part * (after[0] - before[0])
        return (count(end) - count(begin)) / (end - begin)

    def stop(self):
        """Its results were right, or this ends the benchmark."""
        self.here.path("work/stop").touch()
        out, _ = self.process.communicate(timeout=120)
        if self.process.returncode != 0 or not out.endswith("right\n"):
            raise SystemExit(f"the program has failed: {out[-500:]}")


def start_vms(machine, count=2):
    ready, write = os.pipe()
    process = machine.start(BUILD / "trickle-vm", "-n", count, "--lan", "--ready-fd", write,
                            pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    if os.read(ready, 1) == b"":
        raise SystemExit("the VMs did not start")
    os.close(ready)
    return process


def stop_vms(process):
    process.terminate()
    process.wait(30)


def measure_bad_link(bench, seconds):
    """Two VMs on a good link; two more on a bad one, or not."""
    net = network.Network(3)
    try:
        net.share_key()
        _, good, bad = net.machines
        start_vms(good)

        def alone():
            return measure(good.name)

        def beside():
            process = start_vms(bad)
            with net.loss(bad, p=0.1), net.delay(bad, ms=100):
                value = measure(bad.name)
            stop_vms(process)
            return value

        def measure(awaited):
            """Once one VM of that machine has sent results."""
            job = Job(net, WAITS)
            job.read_until(lambda counts, at: awaited in counts)
            begin = time.monotonic() + WARM_SECONDS
            value = job.speed(begin, begin + seconds, good.name)
            job.stop()
            return value
        bench.compare("two good VMs, beside two with 10 % loss and 100 ms", "elements/s", beside,
                      {"the two alone": (alone, PORTION_BAD)})
        print(f"{net.tls_connections()} TCP connections, all with TLS", file=sys.stderr)
    finally:
        net.close()


def memory_mb(pids):
    """Of all of them together."""
    pages = sum(int(open(f"/proc/{pid}/statm").read().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def vm_ports(machine, supervisor):
    """The ports of its VMs: not those at which the supervisor itself reads. {pid: port}"""
    children = open(f"/proc/{supervisor}/task/{supervisor}/children").read().split()
    words = {}
    for pid in children:
        for word in open(f"/proc/{pid}/environ").read().split("\0"):
            if word.startswith("TRICKLE_VM_FDS="):
                fields = dict(f.split("=") for f in word.partition("=")[2].split(","))
                words[int(pid)] = int(fields["tcpport"])
    return words


def measure_flood(bench, name, how, seconds, connections):
    """The flood comes from the VMs' own machine: no relay slows it down."""
    net = network.Network(2)
    try:
        net.share_key()
        there = net.machines[1]
        supervisor = start_vms(there).pid
        growth = {True: [], False: []}  # MB of the VMs, with a flood and without

        def measure(begin_other):
            job = Job(net, how)
            job.read_until(lambda counts, at: True)
            time.sleep(WARM_SECONDS)
            ports = vm_ports(there, supervisor)
            if begin_other is flood:  # what the first of them need is kept for the next
                flood(min(ports.values()), WARM_CONNECTIONS).wait()
            before = memory_mb([supervisor, *ports])
            begin = time.monotonic()
            process = begin_other(min(ports.values()))
            told = None
            if process.stdout:
                told = hostile.outcome(process)
                bench.say(f"{told}")
            else:
                time.sleep(seconds)
                process.kill()
                process.wait()
            value = job.speed(begin, time.monotonic())
            growth[told is not None].append(memory_mb([supervisor, *ports]) - before)
            job.stop()
            return value

        def flood(port, count=connections):
            return hostile.start(net, "garbage", [f"tcp:{there.address}:{port}"], there,
                                 subprocess.PIPE, count=count)

        def burn(port):
            return there.start(sys.executable, "-c", "while True: pass")

        def idle(port):
            return there.start("sleep", "1000")
        bench.compare(f"{name} beside {connections:,} garbage connections", "elements/s",
                      lambda: measure(flood),
                      {"beside a loop": (lambda: measure(burn), PORTION_FLOOD),
                       "undisturbed": (lambda: measure(idle), None)})
        usual = statistics.median(growth[False])
        bench.limit("memory of the VMs grows so much more", "MB",
                    lambda: max(growth[True].pop(0) - usual, 0.01), GROWTH_LIMIT_MB)
        print(f"{net.tls_connections()} TCP connections, all with TLS", file=sys.stderr)
    finally:
        net.close()


def main():
    bench = Bench(__doc__)
    if network.why_none():
        print(f"bench_network measures nothing: {network.why_none()}", file=sys.stderr)
    else:
        seconds = SECONDS * (0.2 if bench.options.quick else 1)
        connections = bench.size(CONNECTIONS)
        measure_bad_link(bench, seconds)
        measure_flood(bench, "10 ms computed", COMPUTES, seconds, connections)
        measure_flood(bench, "nothing", NOTHING, seconds, connections)
    bench.finish()


if __name__ == "__main__":
    main()
