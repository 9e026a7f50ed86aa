#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""forkwork over TCP on loopback, with TLS and without: 16 MB to each element, 16 MB from each, and
trivial elements. Two farms with two VMs each, one with a key and one with --insecure, in turn."""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import BUILD, VMS, Bench

ELEMENTS, PAYLOADS, SIZE = 1_000_000, 24, 16_000_000
PAYLOAD_RATIO, ELEMENT_RATIO = 0.65, 0.8  # TLS costs 35 and 20 % at most


def size_of(data):
    return len(data)


def bytes_of(size, made={}):  # the default is the cache: made once per VM
    if size not in made:
        made[size] = os.urandom(size)
    return made[size]


def increment(x):
    return x + 1


def program():
    """The program of one farm: a line "NAME COUNT" in, the seconds that it took out."""
    from trickle import _farm, connect, forkwork, inject
    vms = connect(VMS)
    addresses = [vm["address"] for vm in _farm.farm().vms()]
    assert len(addresses) == VMS and all(a.startswith("tcp:") for a in addresses), addresses
    inject(vms, os, size_of, bytes_of, increment)
    data = os.urandom(SIZE)
    works = {"to": lambda count: (size_of, [data] * count, [SIZE] * count),
             "from": lambda count: (bytes_of, [SIZE] * count, None),
             "trivial": lambda count: (increment, range(count), list(range(1, count + 1)))}
    for line in sys.stdin:
        name, count = line.split()
        function, elements, expected = works[name](int(count))
        start = time.perf_counter()
        results = forkwork(vms, function, elements, progress=False)
        seconds = time.perf_counter() - start
        if expected is None:
            assert {len(result) for result in results} == {SIZE}
        else:
            assert results == expected
        print(seconds, flush=True)


class Farm:
    """Two VMs that listen on TCP, and a program that uses them, in directories of their own."""

    def __init__(self, folder, is_secure):
        from trickle.cli import trickle_vm, vm_environment
        for name in "vms", "program", "config":
            (folder / name).mkdir(parents=True, mode=0o700)
        env = vm_environment() | {"XDG_CONFIG_HOME": str(folder / "config"),
                                  "PYTHONPATH": str(BUILD / "python")}
        env.pop("TRICKLE_INSECURE", None)
        command = [trickle_vm(), "-n", str(VMS), "--python", sys.executable, "--die-with-parent",
                   "--listen", "127.0.0.1", "--log", "info"]
        if is_secure:
            subprocess.run([sys.executable, "-m", "trickle", "key", "new"], env=env, check=True,
                           stdout=subprocess.DEVNULL)
        else:
            command.append("--insecure")
            env["TRICKLE_INSECURE"] = "1"
        ready, write = os.pipe()
        with (folder / "log").open("w") as log:
            self.vms = subprocess.Popen(
                [*command, "--ready-fd", str(write)], pass_fds=[write], stderr=log,
                env=env | {"TRICKLE_RUNTIME": str(folder / "vms")}, stdin=subprocess.DEVNULL)
        os.close(write)
        assert os.read(ready, 1) != b"", (folder / "log").read_text()
        os.close(ready)
        host = (folder / "log").read_text().split("listening on ", 1)[1].split()[0]
        self.program = subprocess.Popen(
            [sys.executable, __file__, "--program"], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=env | {"TRICKLE_RUNTIME": str(folder / "program"),
                                               "TRICKLE_HOSTS": host})

    def seconds(self, name, count):
        print(name, count, file=self.program.stdin, flush=True)
        answer = self.program.stdout.readline()
        assert answer, "the program has ended"
        return float(answer)

    def stop(self):
        self.program.stdin.close()
        assert self.program.wait(60) == 0
        self.vms.terminate()
        self.vms.wait(60)


def main():
    bench = Bench(__doc__)
    folder = Path(tempfile.mkdtemp(prefix="tls-", dir=bench.home))
    tls, tcp = Farm(folder / "tls", True), Farm(folder / "tcp", False)
    for what, unit, name, count, amount, ratio in [
            ("16 MB to each element", "MB/s", "to", bench.size(PAYLOADS), SIZE / 1e6,
             PAYLOAD_RATIO),
            ("16 MB from each element", "MB/s", "from", bench.size(PAYLOADS), SIZE / 1e6,
             PAYLOAD_RATIO),
            ("trivial elements", "1/s", "trivial", bench.size(ELEMENTS), 1, ELEMENT_RATIO)]:
        for farm in tls, tcp:
            farm.seconds(name, max(count // 4, VMS))  # memory is had, batches have their size
        bench.compare(f"{what}, TLS", unit, lambda: count * amount / tls.seconds(name, count), {
            "plain TCP": (lambda: count * amount / tcp.seconds(name, count), ratio)})
    tls.stop()
    tcp.stop()
    bench.finish()


if __name__ == "__main__":
    program() if sys.argv[1:] == ["--program"] else main()
