#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""forkwork of a trivial function over a million ints: what does an element cost?"""
import concurrent.futures
import multiprocessing

from common import VMS, Bench, rate

ELEMENTS = 1_000_000


def increment(x):
    return x + 1


def main():
    bench = Bench(__doc__)
    bench.start_vms()
    from trickle import connect, forkwork, inject
    vms = connect(VMS)
    inject(vms, increment)
    full, part = range(bench.size(ELEMENTS)), range(bench.scaled(ELEMENTS))

    def ours():
        result = []
        measured = rate(len(full), lambda: result.append(forkwork(vms, increment, full)))
        assert result[0] == list(range(1, len(full) + 1))
        return measured

    with multiprocessing.Pool(VMS) as pool, \
            concurrent.futures.ProcessPoolExecutor(VMS) as executor:
        pool.map(increment, range(100))
        list(executor.map(increment, range(100)))
        bench.compare("trivial elements", "1/s", ours, {
            "Pool.map, chunksize 1":
                (lambda: rate(len(part), lambda: pool.map(increment, part, 1)), 6),
            "ProcessPoolExecutor.map, chunksize 1":
                (lambda: rate(len(part), lambda: list(executor.map(increment, part))), 40),
            "Pool.map, chunksize 10,000":
                (lambda: rate(len(full), lambda: pool.map(increment, full, 10_000)), None)})
    bench.finish()


if __name__ == "__main__":
    main()
