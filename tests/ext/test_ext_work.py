# SPDX-License-Identifier: MIT
"""Work: feeding and taking results."""
import gc
import itertools
import os
import pickle
import signal
import threading
import time
import weakref

import pytest


def dumps(obj):
    return pickle.dumps(obj, 5)


@pytest.fixture
def work(farm, vms):
    def make(kind="echo", **options):
        return farm.work("test", kind.encode(), list=vms, **options)
    return make


def take_all(work):
    taken = []
    while True:
        try:
            taken.append(work.next(None, pickle.loads))
        except StopIteration:
            return taken


def test_elements_come_back_in_a_list(work):
    w, results = work(), []
    values = [1, "a", None, {"b": [1]}, b"c" * 100000, (1, (2,)), 2**80]
    assert w.feed(iter(values), None, dumps) is True
    assert w.feed(iter([1]), None, dumps) is True  # closed: nothing is pulled any more
    assert w.collect(results, pickle.loads, None) is True
    assert results == values
    assert w.collect(results, pickle.loads, None) is True


def test_next_gives_index_status_value_attempts(work):
    w = work("odd")
    w.feed(iter([5, "x", {}]), None, dumps)
    assert take_all(w) == [(0, 0, 5, 1), (1, 1, dumps("x")[:2] + b"\x8c\x01x.", 1), (2, 0, {}, 1)]


def test_collect_hands_failed_results_to_the_caller(work):
    w, results = work("odd"), []
    w.feed(iter([0, 1, 2, 3, 4]), None, dumps)
    assert w.collect(results, pickle.loads, None) == (1, 1, b"\x80\x05K\x01.", 1)
    assert w.collect(results, pickle.loads, None)[0] == 3
    assert w.collect(results, pickle.loads, None) is True
    assert results == [0, None, 2, None, 4]


def test_collect_puts_results_in_their_place(work):
    w, results = work("pairs"), ["old"]
    w.feed(iter(range(7)), None, dumps)
    assert w.collect(results, loads=pickle.loads, timeout=0) is True
    assert results == list(range(7))
    with pytest.raises(TypeError):
        w.collect((), pickle.loads, 0)


def test_late_results_are_waited_for(work):
    w, results = work("late"), []
    w.feed(iter(range(3)), None, dumps)
    assert w.collect(results, pickle.loads, 0) is None and results == []
    assert w.collect(results, pickle.loads, 0.01) is None and results == [0]
    assert w.next(None, pickle.loads)[0] == 1
    assert w.collect(results, pickle.loads, None) is True
    stuck = work("stuck")
    stuck.feed(iter([1]), None, dumps)
    start = time.monotonic()
    assert stuck.next(0.11, pickle.loads) is None
    assert 0.11 <= time.monotonic() - start < 2


def test_a_full_window_keeps_the_element_and_pulls_no_further(work):
    w, pulled = work(ahead_elements=3), []

    def source():
        for i in range(7):
            pulled.append(i)
            yield {i} if i % 2 else i
    it, results = source(), []
    assert w.feed(it, None, dumps) is False and pulled == [0, 1, 2, 3]
    assert w.feed(it, None, dumps) is False and pulled == [0, 1, 2, 3]
    assert w.next(0, pickle.loads)[2] == 0
    assert w.feed(it, None, dumps) is False and pulled == [0, 1, 2, 3, 4]
    assert w.collect(results, pickle.loads, 0) is None
    assert w.feed(it, None, dumps) is True
    assert w.collect(results, pickle.loads, 0) is True
    assert results == [None, {1}, 2, {3}, 4, {5}, 6]


def test_limit_bounds_what_is_added(work):
    w, it = work(), iter(range(5))
    assert w.feed(it, None, dumps, 0) is False
    assert w.feed(it, None, dumps, limit=2) is False and w.progress()["added"] == 2
    assert w.feed(it, None, dumps, 3) is False  # the end was not looked at
    assert w.feed(it, None, dumps, 3) is True and w.progress()["added"] == 5


def test_chunks_are_lists(work):
    for size, expected in [(1, [[0], [1], [2], [3], [4]]), (2, [[0, 1], [2, 3], [4]]),
                           (5, [[0, 1, 2, 3, 4]]), (100, [[0, 1, 2, 3, 4]])]:
        w, results = work(), []
        assert w.feed(iter(range(5)), size, dumps) is True
        assert w.collect(results, pickle.loads, 0) is True
        assert results == expected
    w, results = work(), []
    assert w.feed(iter(()), 3, dumps) is True and w.collect(results, pickle.loads, 0) is True
    assert results == []


def test_arguments_of_feed_are_checked(work):
    w = work()
    for args, error in [(([1], None, dumps), TypeError), ((iter([1]), 0, dumps), ValueError),
                        ((iter([1]), -1, dumps), ValueError), ((iter([1]), "2", dumps), TypeError),
                        ((iter([1]), None), TypeError), ((iter([1]), None, dumps, "x"), TypeError)]:
        with pytest.raises(error):
            w.feed(*args)
    assert w.feed(iter([1]), None, dumps) is True


def broken_at(n, error=ValueError):
    """Raises once when n were pulled; goes on afterwards."""
    class Source:
        count = 0
        broken = False

        def __iter__(self):
            return self

        def __next__(self):
            if self.count == n and not self.broken:
                self.broken = True
                raise error("broken")
            self.count += 1
            if self.count > 5:
                raise StopIteration
            return self.count
    return Source()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("chunksize, expected",
                         [(None, [1, 2, 3, 4, 5]), (2, [[1, 2], [3, 4], [5]])])
def test_an_error_of_the_iterator_loses_nothing(work, error, chunksize, expected):
    w, it, results = work(), broken_at(3, error), []
    with pytest.raises(error, match="broken"):
        w.feed(it, chunksize, dumps)
    assert w.progress()["added"] == (3 if chunksize is None else 1)
    assert w.feed(it, chunksize, dumps) is True
    assert w.collect(results, pickle.loads, 0) is True and results == expected


def test_an_element_that_cannot_be_pickled_is_dropped_once(work):
    w, results = work(), []
    it = iter([1, lambda: None, 3])
    with pytest.raises((pickle.PicklingError, AttributeError)):
        w.feed(it, None, dumps)
    assert w.feed(it, None, dumps) is True
    assert w.collect(results, pickle.loads, 0) is True and results == [1, 3]


def test_ctrl_c_while_pickling_keeps_the_element(work):
    w, results, struck = work(), [], []

    def slow(obj):
        if not struck:
            struck.append(1)
            raise KeyboardInterrupt
        return dumps(obj)
    it = iter([{1}, {2}])
    with pytest.raises(KeyboardInterrupt):
        w.feed(it, None, slow)
    assert w.feed(it, None, slow) is True
    assert w.collect(results, pickle.loads, 0) is True and results == [{1}, {2}]


def test_ctrl_c_while_unpickling_keeps_the_result(work):
    w, results, struck = work(), [], []

    def loads(view):
        if len(struck) < 3:
            struck.append(1)
            raise KeyboardInterrupt
        return pickle.loads(view)
    w.feed(iter([{1}, {2}]), None, dumps)
    with pytest.raises(KeyboardInterrupt):
        w.collect(results, loads, 0)
    with pytest.raises(KeyboardInterrupt):
        w.next(0, loads)
    w.flush()
    with pytest.raises(KeyboardInterrupt):
        w.collect(results, loads, 0)
    assert w.collect(results, loads, 0) is True and results == [{1}, {2}]


def test_an_error_of_loads_comes_out_and_the_rest_goes_on(work):
    w, results = work(), []

    def loads(view):
        if pickle.loads(view) == {1}:
            raise KeyError("no class")
        return pickle.loads(view)
    w.feed(iter([{1}, {2}]), None, dumps)
    with pytest.raises(KeyError):
        w.collect(results, loads, 0)
    assert w.collect(results, loads, 0) is True and results == [None, {2}]


def test_loads_cannot_keep_borrowed_bytes(work):
    w, kept = work(), []

    def loads(view):
        kept.append(view)
        return pickle.loads(view)
    w.feed(iter([{1}]), None, dumps)
    assert w.next(0, loads)[2] == {1}
    with pytest.raises(ValueError, match="released"):
        kept[0][0]


def test_ctrl_c_ends_waits_and_long_feeds(work):
    for use in (lambda w: w.next(None, pickle.loads), lambda w: w.collect([], pickle.loads, None),
                lambda w: w.feed(itertools.repeat(1), None, dumps),
                lambda w: w.feed(itertools.repeat(1), 10**9, dumps)):
        w = work("stuck", ahead_elements=10**9)
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        # Switching to the timer needs a GIL that the C loop gives away only by signals.
        handler = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.001))
        signal.setitimer(signal.ITIMER_REAL, 0.06, 0.01)
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                use(w)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
            timer.join()
        assert w.progress()["vms"] == 2


def test_the_iterator_may_look_and_cancel_but_not_feed(work, ext):
    w, errors, seen = work(), [], []

    def source():
        yield 1
        for use in (lambda: w.next(0, None), lambda: w.collect([], None, 0), w.flush, w.close,
                    lambda: w.feed(iter([]), None, dumps)):
            try:
                use()
            except RuntimeError as error:
                errors.append(str(error))
        seen.append(w.progress())
        w.cancel()
        yield 2
    with pytest.raises(ext.TrickleError, match="no more"):
        w.feed(source(), None, dumps)
    assert len(errors) == 5 and all("in use" in e for e in errors)
    assert seen[0]["added"] == 1 and seen[0]["is_closed"] is False
    with pytest.raises(StopIteration):
        w.next(None, pickle.loads)


def test_cancel_from_loads_waits_until_the_bytes_are_read(work):
    w = work()

    def loads(view):
        w.cancel(interrupt=True)
        assert w.progress()["done"] <= 1
        return pickle.loads(view)
    w.feed(iter([{1}, {2}]), None, dumps)
    assert w.next(None, loads)[2] == {1}
    with pytest.raises(StopIteration):
        w.next(None, loads)


def test_cancel_and_progress_from_another_thread_while_one_waits(work):
    w, seen = work("stuck"), []
    w.feed(iter([1, 2]), None, dumps)

    def other():
        seen.append(w.progress()["added"])
        try:
            w.flush()
        except RuntimeError:
            seen.append("busy")
        w.cancel()
    thread = threading.Timer(0.03, other)
    thread.start()
    with pytest.raises(StopIteration):
        w.next(None, pickle.loads)
    thread.join()
    assert seen == [2, "busy"]


def test_close_ends_the_elements(work, ext):
    w = work()
    w.feed(iter([1]), None, dumps, 1)
    w.close()
    w.close()
    assert w.progress()["is_closed"] is True
    assert w.feed(iter([2]), None, dumps) is True
    assert [r[2] for r in take_all(w)] == [1]


def test_a_list_may_be_left_open(work, ext):
    fed, closed, plain = work(), work(), work()
    assert fed.feed(iter([1]), None, dumps, leave_open=True) is True
    closed.close(leave_open=True)
    plain.close(False)
    assert [w.progress()["restored"] for w in (fed, closed, plain)] == [1, 1, 0]  # as the fake says
    assert all(w.progress()["is_closed"] for w in (fed, closed, plain))
    for bad in [(1, 2), ("x", "y")]:
        with pytest.raises(TypeError):
            plain.close(*bad)


def test_work_checks_its_targets(farm, vms, ext):
    both = [vms.get(0), vms.get(1)]
    assert farm.work("w", b"echo", vms=both, ordered=True, ahead_bytes=2**40)
    assert farm.work("w", bytearray(b"echo"), vms=tuple(both), list=None)
    for kwargs in ({}, {"list": vms, "vms": both}, {"list": both}, {"vms": [1]}, {"vms": 5}):
        with pytest.raises(TypeError):
            farm.work("w", b"echo", **kwargs)
    with pytest.raises(ext.TrickleError, match="no VMs"):
        farm.work("w", b"echo", vms=[])
    with pytest.raises(OverflowError):
        farm.work("w", b"echo", list=vms, ahead_elements=-1)


def test_cycles_through_elements_are_collected(work):
    class Cell:
        pass
    w, cell = work(ahead_elements=1), Cell()
    cell.work = w

    def fail(obj):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        w.feed(iter([cell]), None, fail)
    ref = weakref.ref(cell)
    del w, cell
    gc.collect()
    assert ref() is None


def test_a_big_window_of_many_elements(work):
    w, results, it = work(ahead_elements=5000), [], iter(range(30000))
    while not w.feed(it, None, dumps):
        assert w.collect(results, pickle.loads, None) is None
    assert w.collect(results, pickle.loads, None) is True
    assert results == list(range(30000))


def test_attempts_are_dicts(work):
    w = work(retries=4, retry_after_ms=250, timeout_ms=1500, speculate=True, keep_elements=True)
    assert w.attempts(0) == []
    found = w.attempts(8)
    assert [a["outcome"] for a in found] == ["done", "exception", "died", "timeout", "memory",
                                             "oom", "lost", "unknown"]
    assert [a["output"] for a in found[:2]] == [b"", b"a\xff"]
    assert found[1] == {"attempt": 2, "outcome": "exception", "host": "here", "index": 3, "pid": 4,
                        "started_ms": 5, "duration_ns": 6, "signal": 11, "exit_status": 250,
                        "rss_max_bytes": 1500, "output": b"a\xff"}
    for wrong in (-1, 2**64, "x"):
        with pytest.raises((TypeError, OverflowError)):
            w.attempts(wrong)


def test_options_of_work_are_checked(work):
    for wrong in ({"retries": -1}, {"retries": 2**32}, {"timeout_ms": "x"},
                  {"retry_after_ms": 1.5}):
        with pytest.raises((TypeError, OverflowError)):
            work(**wrong)
