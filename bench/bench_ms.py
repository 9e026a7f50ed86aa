#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Elements of one millisecond of computing: how much of the ideal is reached without a chunksize?
The ideal is the same work in two bare loops, measured in the same round."""
import multiprocessing
import time

from common import VMS, Bench, rate

ELEMENTS = 10_000


def spin(loops):
    x = 0
    for i in range(loops):
        x += i
    return x


def loops_of_a_millisecond():
    best = min(timed(100_000) for _ in range(20))
    return int(100_000 * 0.001 / best)


def timed(loops):
    start = time.perf_counter()
    spin(loops)
    return time.perf_counter() - start


def bare_loop(barrier, loops, count):
    barrier.wait()
    for _ in range(count):
        spin(loops)
    barrier.wait()


def two_bare_loops(loops, count):
    """Elements per second of processes that do nothing else."""
    barrier = multiprocessing.Barrier(VMS + 1)
    processes = [multiprocessing.Process(target=bare_loop, args=(barrier, loops, count // VMS))
                 for _ in range(VMS)]
    for process in processes:
        process.start()
    barrier.wait()
    measured = rate(count // VMS * VMS, barrier.wait)
    for process in processes:
        process.join()
    return measured


def main():
    bench = Bench(__doc__)
    count = bench.size(ELEMENTS)
    loops = loops_of_a_millisecond()
    work = [loops] * count
    with multiprocessing.Pool(VMS) as pool:
        bench.start_vms()
        from trickle import connect, forkwork, inject
        vms = connect(VMS)
        inject(vms, spin)
        forkwork(vms, spin, work[:100])
        pool.map(spin, work[:100], 1)
        bench.compare("1 ms elements", "1/s",
                      lambda: rate(count, lambda: forkwork(vms, spin, work)), {
                          "two bare loops": (lambda: two_bare_loops(loops, count), 0.95),
                          "Pool.map, chunksize 1":
                              (lambda: rate(count, lambda: pool.map(spin, work, 1)), None)})
    bench.finish()


if __name__ == "__main__":
    main()
