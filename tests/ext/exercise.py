# SPDX-License-Identifier: MIT
"""Exercises the whole extension in one Python, and looks for leaks: exercise.py [serve].

Plain asserts and no pytest, so that it runs in any CPython from 3.11 on. Each scenario runs
again and again; the interpreter's count of allocated blocks, the references to None and the
size of the process must then stay where they are.
"""
import gc
import pickle
import resource
import signal
import sys
import threading
import weakref

import _trickle as t


def dumps(obj):
    return pickle.dumps(obj, 5)


loads = pickle.loads
VALUES = [None, True, 5, -5, 2**40, 2**70, 1.5, "a", "é" * 300, "\ud800", b"b" * 300, [], [1, "a"],
          (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": 1}, [[1]], list(range(3000))]


def codec():
    for value in VALUES:
        data = t.encode(value, dumps)
        assert pickle.loads(data) == value == t.decode(data, loads)
        assert t.decode(dumps(value), loads) == value
    for wrong in (b"", b"\x80\x05]K\x01", b"\x80\x05(K\x01e.", b"\x80\x05K\x01K."):
        try:
            t.decode(wrong, loads)
        except Exception:
            continue
        assert False
    try:
        t.encode(lambda: None, dumps)
    except Exception:
        pass


def objects():
    farm = t.Farm(program="exercise")
    vms = farm.connect(max=2)
    vm = vms.get(1)
    assert weakref.ref(vm)() is vms.get(1) is vm and vm.info() in farm.vms()
    call = vm.request(op=t.OP_CALL, object=1, name="echo", payload=b"abc")
    assert call.wait() == 0 and bytes(memoryview(call)) == b"abc" and call.is_done
    assert t.wait_any([call, vm.request(2, 0, "never", b"x" * 100000)]) == 0
    for make in (lambda: vm.request(2, 0, "refused", b""), lambda: farm.connect(77),
                 lambda: t.Farm(program="denied"), lambda: farm.work("w", b"", vms=[])):
        try:
            make()
        except t.TrickleError:
            continue
        assert False
    vm.request(2, 0, "notice", b"n", False)
    assert [c.wait() for c in farm.inject(vms, "echo", b"1")] == [0, 0]
    farm.close()
    assert farm.notice(1)[4] == b"n"


def work():
    farm = t.Farm()
    vms = farm.connect()
    for chunksize in (None, 2):
        w, results, it = farm.work("w", b"pairs", list=vms, ahead_elements=5), [], iter(VALUES)
        while not w.feed(it, chunksize, dumps):
            w.collect(results, loads, 0)
        assert w.collect(results, loads, 0) is True
        expected = VALUES if chunksize is None else [VALUES[i:i + 2] for i in range(0, 21, 2)]
        assert results == expected
    w = farm.work("w", b"odd", vms=[vms.get(0)])
    w.feed(iter([1, {2}]), None, dumps)
    assert w.next(0, loads) == (0, 0, 1, 1) and w.next(0, loads)[1] == 1
    assert w.progress()["done"] == 2
    w.cancel()
    try:
        w.next(0, loads)
    except StopIteration:
        pass


def broken_work():
    def source():
        yield 1
        raise KeyboardInterrupt

    def bad(_):
        raise KeyboardInterrupt
    farm = t.Farm()
    w = farm.work("w", b"echo", list=farm.connect())
    for use in (lambda: w.feed(source(), 3, dumps), lambda: w.feed(iter([{1}]), None, bad),
                lambda: w.feed(iter([{1}]), None, dumps) and w.next(0, bad),
                lambda: w.next(0, bad)):
        try:
            use()
        except KeyboardInterrupt:
            continue
        assert False


def waits():
    farm = t.Farm()
    never = farm.connect().get(0).request(2, 0, "never", b"")
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        never.wait()
        assert False
    except InterruptedError:
        pass
    thread = threading.Thread(target=farm.close)
    thread.start()
    try:
        while True:
            farm.notice(None)
    except EOFError:
        thread.join()


def alarm(*_):
    raise InterruptedError


def size_kib():
    """Resident now, not at most."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def growth(scenario, times):
    """What times runs leave behind: (blocks, references to None, KiB)."""
    gc.collect()
    before = sys.getallocatedblocks(), sys.getrefcount(None), size_kib()
    for _ in range(times):
        scenario()
    gc.collect()
    after = sys.getallocatedblocks(), sys.getrefcount(None), size_kib()
    return [y - x for x, y in zip(before, after)]


def steady(scenario, times):
    """A leak shows in every round, a cache that fills up does not."""
    rounds = [growth(scenario, times)]
    while len(rounds) < 5 and not (max(rounds[-1][:2]) < times // 2 and rounds[-1][2] < 256):
        rounds.append(growth(scenario, times))
    assert len(rounds) < 5, f"{scenario.__name__}: {rounds} more after {times} times each"


class Server:
    version = "%d.%d" % sys.version_info[:2]
    moved = type("Moved", (BaseException,), {})
    dumps = staticmethod(dumps)
    loads = staticmethod(loads)

    def request(self, op, object, name, payload):
        if name == "blocks":
            gc.collect()
            return 0, str(sys.getallocatedblocks()).encode()
        return 0, bytes(payload)

    def stage_open(self, function):
        return eval(bytes(function)), None

    def dump_exception(self, error):
        return dumps(repr(error))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        t.serve(Server())
    else:
        signal.signal(signal.SIGALRM, alarm)
        for scenario, times in ((codec, 200), (objects, 200), (work, 200), (broken_work, 200),
                                (waits, 40)):
            steady(scenario, times)
        print("steady")
