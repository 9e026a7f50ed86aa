#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A million trivial elements of a C program through the native module, without and with the store,
beside two forked workers that are sent each element through a pipe."""
import re
import subprocess

from common import BUILD, Bench

ELEMENTS = 1_000_000
WANTED = {"native": 1_000_000, "durable": 400_000}


def main():
    bench = Bench(__doc__)
    seen = {}

    def measure(name):
        """Each run of the program measures all; the rows are taken from it one by one."""
        if not seen.get(name):
            done = subprocess.run([BUILD / "bench/bench_native", BUILD / "trickle-vm",
                                   BUILD / "bench/native_add.so", str(bench.size(ELEMENTS)), "1"],
                                  check=True, capture_output=True, text=True)
            for line in done.stdout.splitlines():
                which, rate = re.match(r"(.*?) +(\d+) elements/s", line).groups()
                seen.setdefault(which, []).append(float(rate))
        return seen[name].pop(0)

    for name, wanted in WANTED.items():
        bench.compare(f"trivial elements, {name}", "/s", lambda: measure(name), {
            "pipes, one by one": (lambda: measure("pool 1"), None),
            "pipes, 1,000 at a time": (lambda: measure("pool 1000"), None),
            "what is wanted": (lambda: wanted, None if bench.options.quick else 1)})
    bench.finish()


if __name__ == "__main__":
    main()
