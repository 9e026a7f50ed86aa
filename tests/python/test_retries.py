# SPDX-License-Identifier: MIT
"""Elements that fail: retries, time limits, second runs, what is raised or returned, and what is
told of them."""
import datetime
import os
import pickle
import time
from collections import Counter

import pytest

import trickle
from runlog import hold, in_thread, note
from trickle import TrickleError, WorkFailed, forkgen, forkwork


class OwnError(Exception):
    def __init__(self, *, code):
        super().__init__(code)
        self.code = code


def flaky(job):
    """Element x fails in its first x runs."""
    folder, x = job
    note(job)
    with open(f"{folder}/log") as file:
        run = sum(line.startswith(f"{x} ") for line in file)
    if run <= x:
        raise OwnError(code=(x, run))
    return x


def failing(job):
    x = note(job)
    if x == 7:
        raise OwnError(code=x)
    time.sleep(0.002)
    return x


def held_until_failure(job):
    x = note(job)
    if x == 0:
        hold(job, "failed")
        note((job[0], 1000))
    elif x == 1:
        hold(job, "zero runs")
        raise OwnError(code=x)
    else:
        time.sleep(0.01)
    return x


def stuck(job):
    x = note(job)
    if x == 3:
        print("it begins")
        deep_in_a_loop()
    return x


def deep_in_a_loop():
    while True:
        pass


def stuck_with_the_gil(job):
    import ctypes
    if note(job) == 3:
        ctypes.PyDLL(None).usleep(60_000_000)


def straggler(job):
    """The first run of element 0 never ends by itself."""
    x = note(job)
    with open(f"{job[0]}/log") as file:
        is_first = sum(line.startswith("0 ") for line in file) == 1
    if x == 0 and is_first:
        hold(job, "never")
    return x


def square(x):
    return x * x


# --- exceptions -----------------------------------------------------------------------------


def test_failed_elements_run_again_as_often_as_asked_for(vms, log):
    assert forkwork(vms, flaky, log.jobs(4), retries=3, retry_after=0.01) == [0, 1, 2, 3]
    assert log.counts() == Counter({0: 1, 1: 2, 2: 3, 3: 4})
    assert [[a.outcome for a in trickle.attempts(x)] for x in (0, 2)] == [
        ["done"], ["exception", "exception", "done"]]


def test_without_retries_the_first_exception_counts(vms, log):
    with pytest.raises(OwnError):
        forkwork(vms, flaky, [(log.folder, 1)])
    assert log.counts() == {1: 1}


def test_when_all_retries_have_failed_the_last_exception_is_raised(vms, log):
    with pytest.raises(OwnError) as caught:
        forkwork(vms, flaky, [(log.folder, 5)], retries=2, retry_after=0)
    assert caught.value.code == (5, 3)
    assert "in flaky" in str(caught.value.__cause__)
    notes = caught.value.__notes__
    assert notes[0] == "(raised by element 0 of flaky, attempt 3 of 3)"
    assert [line[:14] for line in notes if line.startswith("  attempt")] == ["  attempt 1 on",
                                                                             "  attempt 2 on"]
    assert log.counts() == {5: 3}


def test_after_a_failure_nothing_new_starts_and_what_runs_ends(vms, log):
    def go():
        with pytest.raises(OwnError):
            forkwork(vms, held_until_failure, log.jobs(10_000))
        log.open("failed")
    work = in_thread(go)
    log.wait(lambda: log.pids(0) and log.pids(1))
    log.open("zero runs")
    work.join()
    log.wait(lambda: log.pids(1000))  # element 0 was let finish
    assert len(log.counts()) < 5000 and set(log.counts().values()) == {1}
    assert forkwork(vms, square, range(100)) == [x * x for x in range(100)]


def test_failures_take_the_place_of_results(vms, log):
    results = forkwork(vms, failing, log.jobs(20), on_error="return", retries=1, retry_after=0.001)
    failed = results[7]
    assert type(failed.exception) is OwnError and failed.exception.code == 7
    assert failed.reason == "element 7 of failing failed: OwnError: 7" and failed.index == 7
    assert [(a.attempt, a.outcome, a.signal, a.exit_status) for a in failed.attempts] == [
        (1, "exception", None, None), (2, "exception", None, None)]
    assert all("OwnError: 7" in a.output and "in failing" in a.output for a in failed.attempts)
    results[7] = 7
    assert results == list(range(20))
    assert log.counts() == Counter({**dict.fromkeys(range(20), 1), 7: 2})


def test_failures_can_be_kept(vms):
    failed = forkwork(vms, int, ["x"], on_error="return")[0]
    again = pickle.loads(pickle.dumps(failed))
    assert str(again) == str(failed) and again.attempts[0].pid == failed.attempts[0].pid


def test_chunks_fail_and_run_again_as_a_whole(vms, log):
    def chunk(jobs):
        return [failing(job) for job in jobs]
    results = forkwork(vms, chunk, log.jobs(12), 4, on_error="return", retries=1, retry_after=0)
    assert (results[0], results[2]) == ([0, 1, 2, 3], [8, 9, 10, 11])
    assert results[1].reason.startswith("chunk 1 of chunk failed: OwnError: 7")
    assert log.counts() == Counter({**dict.fromkeys(range(12), 1), **dict.fromkeys(range(4, 8), 2)})


def test_a_generator_retries_and_tells_too(vms, log):
    results = forkgen(vms, flaky, log.jobs(3), ordered=True, retries=1, retry_after=0,
                      on_error="return")
    assert iter(results) is iter(results)
    assert (next(results), next(results)) == (0, 1)
    failed, = results
    assert isinstance(failed, WorkFailed) and failed.exception.code == (2, 2)
    assert [a.outcome for a in results.attempts(1)] == ["exception", "done"]
    progress = results.progress()
    assert set(progress) == {"added", "done", "failed", "restored", "reissued", "vms",
                             "is_closed"}
    assert (progress["added"], progress["done"], progress["failed"]) == (3, 3, 1)
    assert progress["is_closed"]


@pytest.mark.parametrize("options, error", [
    ({"retries": -1}, ValueError), ({"retries": 1.5}, TypeError), ({"retries": True}, TypeError),
    ({"retries": 10**6}, ValueError), ({"retry_after": -1}, ValueError),
    ({"retry_after": "1"}, TypeError), ({"timeout": 0}, ValueError), ({"timeout": "1"}, TypeError),
    ({"timeout": -1}, ValueError), ({"timeout": float("nan")}, ValueError),
    ({"timeout": 1e12}, ValueError)])
def test_wrong_options_are_errors(vms, options, error):
    for run in (forkwork, forkgen):
        with pytest.raises(error, match="is a number"):
            run(vms, square, [1], **options)


# --- time -----------------------------------------------------------------------------------


def test_an_element_over_its_time_has_failed_and_is_told_of(vms, log):
    results = forkwork(vms, stuck, log.jobs(20), timeout=0.3, on_error="return")
    failed = results[3]
    assert isinstance(failed, WorkFailed) and failed.exception is None
    assert "ended by timeout" in failed.reason
    assert [a.outcome for a in failed.attempts] == ["timeout"] * log.counts()[3]
    for attempt in failed.attempts:
        assert attempt.duration >= 0.3
        assert "it begins" in attempt.output
        assert attempt.output.index("in deep_in_a_loop") < attempt.output.index("in stuck")
    assert "| " in str(failed) and "in deep_in_a_loop" in str(failed)
    results[3] = 3
    assert results == list(range(20))
    counts = log.counts()
    del counts[3]
    assert set(counts.values()) <= {1, 2} and len(counts) == 19


def test_code_that_holds_the_gil_is_over_its_time_too(vms, log):
    with pytest.raises(WorkFailed, match="timeout") as caught:
        forkwork(vms, stuck_with_the_gil, log.jobs(5), timeout=0.3)
    assert "in stuck_with_the_gil" in caught.value.attempts[-1].output


def test_elements_within_their_time_are_left_alone(vms, log):
    assert forkwork(vms, failing, log.jobs(7), timeout=60) == list(range(7))
    assert set(log.counts().values()) == {1}


# --- second runs ----------------------------------------------------------------------------


def test_a_second_run_of_the_slowest_ends_the_job(vms, log):
    assert forkwork(vms, straggler, log.jobs(50), speculate=True) == list(range(50))
    counts = log.counts()
    assert counts.pop(0) == 2 and set(counts.values()) <= {1, 2}
    assert forkwork(vms, square, range(10)) == squares(10)


def squares(count):
    return [x * x for x in range(count)]


# --- what happened to element 17? -----------------------------------------------------------


def test_all_attempts_can_be_asked_for(vms, log):
    before = datetime.datetime.now() - datetime.timedelta(seconds=1)
    forkwork(vms, failing, log.jobs(7))
    attempt, = trickle.attempts(3)
    assert (attempt.attempt, attempt.outcome, attempt.pid) == (1, "done", log.pids(3)[0])
    assert (attempt.signal, attempt.exit_status, attempt.output) == (None, None, "")
    assert 0 < attempt.duration < 60 and before < attempt.started < datetime.datetime.now()
    assert str(attempt).startswith(f"attempt 1 on VM {attempt.index} of {attempt.host} (pid ")
    assert trickle.attempts(7) == []


def test_attempts_are_those_of_this_threads_last_work(vms, log):
    forkwork(vms, square, range(5))
    work = in_thread(lambda: forkwork(vms, failing, log.jobs(7)) and trickle.attempts(6))
    assert [a.outcome for a in work.join()] == ["done"]
    assert trickle.attempts(6) == []
    with pytest.raises(TrickleError, match="has not begun any"):
        in_thread(trickle.attempts, 0).join()
