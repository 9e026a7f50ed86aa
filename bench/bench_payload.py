#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Calls with 16 MB of bytes that come back as they are: how many bytes per second?"""
import multiprocessing
import multiprocessing.connection
import os

from common import VMS, Bench, rate

CALLS, SIZE = 64, 16_000_000


def same_bytes(data):
    return data


def echo(address):
    with multiprocessing.connection.Client(address) as connection:
        try:
            while True:
                connection.send(connection.recv())
        except EOFError:
            pass


def main():
    bench = Bench(__doc__)
    calls = max(bench.size(CALLS), 2)
    data = os.urandom(SIZE)
    listener = multiprocessing.connection.Listener(family="AF_UNIX")
    child = multiprocessing.Process(target=echo, args=(listener.address,), daemon=True)
    child.start()
    connection = listener.accept()
    bench.start_vms()
    from trickle import connect, inject
    vm = connect(VMS)[0]
    inject(vm, same_bytes)

    def ours():
        for _ in range(calls):
            assert len(vm.same_bytes(data)) == SIZE

    def theirs():
        for _ in range(calls):
            connection.send(data)
            assert len(connection.recv()) == SIZE

    bench.compare("16 MB there and back", "MB/s each way",
                  lambda: rate(calls * SIZE / 1e6, ours), {
                      "multiprocessing.connection":
                          (lambda: rate(calls * SIZE / 1e6, theirs), 0.5)})
    connection.close()
    child.join()
    listener.close()
    bench.finish()


if __name__ == "__main__":
    main()
