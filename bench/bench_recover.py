#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How soon a job goes on: from the kill -9 of a VM to the start of its element on another one, and
from the start of a new VM's supervisor to an element on it."""
import os
import signal
import subprocess
import tempfile
import threading
import time

from common import Bench

KILLS = 200
JOINS = 20
REASSIGN_LIMIT_MS = 50
JOIN_LIMIT_MS = 100


def held(job):
    """Notes when it begins, then waits."""
    folder, x = job
    with open(f"{folder}/{x}-{os.getpid()}.tmp", "w") as file:
        file.write(str(time.monotonic_ns()))
    os.rename(file.name, file.name[:-4])
    while not os.path.exists(f"{folder}/go {x}"):
        time.sleep(0.0005)
    return x


def begun(folder, x, count):
    """Waits until an element has begun so often: {pid: when}."""
    while True:
        names = [name for name in os.listdir(folder)
                 if name.startswith(f"{x}-") and not name.endswith(".tmp")]
        if len(names) >= count:
            return {int(name.partition("-")[2]): int(open(f"{folder}/{name}").read())
                    for name in names}
        time.sleep(0.0005)


def kill_one(vms, folder, x):
    """Milliseconds from the death of the VM that runs element x to its second start."""
    from trickle import forkwork
    took = []
    while any(vm._t_raw.is_lost for vm in vms):
        time.sleep(0.001)  # the other one has to be there
        vms._refresh()

    def kill():
        pid, = begun(folder, x, 1)
        at = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        when = begun(folder, x, 2)
        took.append((max(when.values()) - at) / 1e6)
        with open(f"{folder}/go {x}", "w"):
            pass
    killer = threading.Thread(target=kill)
    killer.start()
    forkwork(vms, held, [(folder, x)], progress=False)
    killer.join()
    return took[0]


def join_one(vms, folder, x, program, environment):
    """Milliseconds from the moment when a new VM is up to the start of an element on it."""
    from trickle import forkwork
    took = []

    def join():
        begun(folder, f"{x}.0", 1), begun(folder, f"{x}.1", 1)  # the others have their hands full
        ready, write = os.pipe()
        process = subprocess.Popen([program, "-n", "1", "--ready-fd", str(write)], pass_fds=[write],
                                   env=environment, stderr=subprocess.DEVNULL)
        os.close(write)
        os.read(ready, 1)
        at = time.monotonic_ns()
        os.close(ready)
        when = begun(folder, f"{x}.2", 1)
        took.append(max((max(when.values()) - at) / 1e6, 0.001))
        for i in range(3):
            with open(f"{folder}/go {x}.{i}", "w"):
                pass
        done.wait()
        process.terminate()
        process.wait()
    done = threading.Event()
    joiner = threading.Thread(target=join)
    joiner.start()
    forkwork(vms, held, [(folder, f"{x}.{i}") for i in range(3)], progress=False)
    done.set()
    joiner.join()
    return took[0]


def main():
    bench = Bench(__doc__)
    bench.start_vms()
    import trickle
    from trickle.cli import trickle_vm, vm_environment
    vms = trickle.connect()
    with tempfile.TemporaryDirectory() as folder:
        kills = [kill_one(vms, folder, x) for x in range(bench.size(KILLS))]
        bench.spread("VM killed, its element begins again", "ms", kills, REASSIGN_LIMIT_MS)
        joins = [join_one(vms, folder, f"j{x}", trickle_vm(), vm_environment())
                 for x in range(bench.size(JOINS))]
        bench.spread("VM up, its first element begins", "ms", joins, JOIN_LIMIT_MS)
    bench.finish()


if __name__ == "__main__":
    main()
