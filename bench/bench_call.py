#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A synchronous call of a trivial function on an idle VM: how long until its answer is here?"""
import multiprocessing
import pickle
import statistics
import subprocess
import time

from common import BUILD, VMS, Bench

CALLS = 3000


def increment(x):
    return x + 1


def median_us(function, calls):
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        function(1)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def bare_request(vm, call):
    """What call(1) asks of the extension, without the proxy around it: a function of one argument,
    so that it is measured as the call is."""
    asked = []
    request = vm.__dict__["_t_request"]

    def remember(*args):
        asked[:] = args
        return request(*args)

    vm.__dict__["_t_request"] = remember
    call(1)
    vm.__dict__["_t_request"] = request
    return lambda _: request(*asked).wait(None)


def pickling(_):
    """What both ends do to arguments and value."""
    for obj in ((1,), 2):
        pickle.loads(pickle.dumps(obj, 5))


def ping_pong(calls):
    done = subprocess.run([BUILD / "bench/bench_pingpong", str(calls)], check=True,
                          capture_output=True, text=True)
    return float(done.stdout)


def main():
    bench = Bench(__doc__)
    calls = bench.size(CALLS)
    with multiprocessing.Pool(VMS) as pool:
        bench.start_vms()
        from trickle import connect, inject
        vm = connect(VMS)[0]
        inject(vm, increment)
        call = vm.increment
        for _ in range(100):
            call(1)
            pool.apply(increment, (1,))
        bench.compare("one call", "us", lambda: median_us(call, calls), {
            "Pool.apply": (lambda: median_us(lambda x: pool.apply(increment, (x,)), calls), 1),
            "ping-pong of two C processes": (lambda: ping_pong(calls), 1 / 6)},
            smaller_is_better=True)
        # Where the time goes: the rest of a call is the proxy in Python at this end.
        request = bare_request(vm, call)
        for what, function in (("of it the request, C and VM", request),
                               ("of it pickling", pickling)):
            bench.compare(f"  {what}", "us", lambda: median_us(function, calls),
                          {"one call": (lambda: median_us(call, calls), None)},
                          smaller_is_better=True)
    bench.finish()


if __name__ == "__main__":
    main()
