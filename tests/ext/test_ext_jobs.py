# SPDX-License-Identifier: MIT
"""Job and View of the extension, on fake_jobs.c."""
import signal
import threading
import time

import pytest


def test_what_opening_found(ext):
    job = ext.Job("a", home="/x", on_change="redo", retry_failed=True)
    assert job.opened() == {"is_new": True, "epoch": 13, "uuid": b"\7" * 16, "dir": "/jobs/a",
                            "text": "/x"}
    job.opened().clear()
    assert job.opened()["epoch"] == 13
    assert ext.Job("a", must_exist=True).opened()["is_new"] is False


@pytest.mark.parametrize("words, error", [
    ({"name": "held"}, RuntimeError), ({"name": "a", "on_change": "maybe"}, ValueError),
    ({"name": "a\0b"}, ValueError), ({"name": b"a"}, TypeError), ({}, TypeError)])
def test_what_cannot_be_opened(words, error, ext):
    with pytest.raises(error):
        ext.Job(**words)


def test_notes(ext):
    job = ext.Job("a")
    assert job.get(ext.NOTE_ONCE, "x") is None
    job.put(ext.NOTE_ONCE, "x", b"one\0two")
    job.put(ext.NOTE_ONCE, "y", bytearray(b"3"), wait=False)
    assert job.get(ext.NOTE_ONCE, "x") == b"one\0two" and job.get(ext.NOTE_ONCE, "y") == b"3"
    assert job.get(ext.NOTE_JOB, "x") is None
    for bad in [(1, "x", "text"), (1, "x\0", b""), ("1", "x", b"")]:
        with pytest.raises((TypeError, ValueError)):
            job.put(*bad)
    assert job.state() == {"syncs": 3, "sync_ns": 4, "queued_bytes": 0, "is_paused": False,
                           "text": ""}


def test_a_wait_for_the_disk_is_ended_by_a_signal(ext):
    job = ext.Job("full")
    job.put(1, "x", b"", wait=False)
    assert job.state()["is_paused"]
    with pytest.raises(KeyboardInterrupt):
        timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
        timer.start()
        job.put(1, "x", b"1")
    timer.join()
    job.close()


def test_close_ends_it_and_only_once(ext):
    job = ext.Job("a")
    job.close()
    job.close()
    for call in (lambda: job.get(1, "x"), lambda: job.put(1, "x", b""), job.state,
                 lambda: ext.Farm(job=job)):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    assert job.opened()["epoch"] == 1
    with pytest.raises(RuntimeError, match="did not take"):
        ext.Job("broken").close()
    with pytest.raises(RuntimeError, match="opened already"):
        job.__init__("a")


def test_a_farm_keeps_its_job(ext):
    farm = ext.Farm(job=ext.Job("a"))
    farm.close()
    ext.Farm(job=None).close()
    with pytest.raises(TypeError, match="must be a Job"):
        ext.Farm(job="a")


def test_looking(ext):
    view = ext.View("a")
    info = view.info()
    assert (info["is_running"], info["pid"], info["host"], info["epoch"]) == (True, 77, "here", 2)
    assert view.note(1, "run") == b"run" and view.note(1, "none") is None
    stage, = view.stages()
    assert (stage["number"], stage["key"], stage["added"], stage["is_closed"]) == (
        1, "f#1", 5000, True)
    assert view.result(1, 5) == (5, 0, 1, b"5") and view.result(1, 5000) is None
    attempt, = view.attempts(1, 3)
    assert (attempt["epoch"], attempt["outcome"]) == (2, "lost") and view.attempts(1, 4) == []
    assert view.ask("status", "x") == b"status x" and view.ask("nobody") is None
    view.close()
    view.close()
    with pytest.raises(RuntimeError, match="closed"):
        view.info()


@pytest.mark.parametrize("recorded", [False, True])
def test_results_come_in_portions(recorded, ext):
    view = ext.View("a")
    seen, position = [], (0, 0)
    while True:
        some, position = view.results(1, position, recorded, limit=1700)
        if not some:
            break
        assert len(some) <= 1700
        seen += [index for index, *_ in some]
    assert seen == sorted(range(5000), reverse=recorded)


def test_what_cannot_be_seen(ext):
    with pytest.raises(LookupError, match="no job none"):
        ext.View("none")
    with pytest.raises(RuntimeError):
        ext.View("held")
    broken = ext.View("broken")
    for call in (broken.stages, lambda: broken.note(1, "x"), lambda: broken.result(1, 1),
                 lambda: broken.results(1)):
        with pytest.raises(RuntimeError):
            call()
    assert broken.info()["is_damaged"]


def test_a_view_in_use_refuses_other_threads(ext):
    view = ext.View("a")
    thread = threading.Thread(target=view.ask, args=["slow"])
    thread.start()
    refused = None
    while thread.is_alive() and refused is None:
        try:
            view.info()
        except RuntimeError as error:
            refused = str(error)
        time.sleep(0)
    thread.join()
    assert refused == "another thread uses this view" and view.info()["pid"] == 77


def test_functions(ext):
    assert ext.job_home() == ("/jobs", "far away") and ext.job_names() == ["a", "bc"]
    assert ext.job_remove("a") is True and ext.job_remove("none") is False
    assert ext.job_check("a") == (True, "looked at")
    assert ext.job_check("broken") == (False, "looked at") and ext.job_check("none") is None
    for call in (ext.job_remove, ext.job_check):
        with pytest.raises(RuntimeError):
            call("held")


def test_the_key_file(ext):
    assert ext.key_path() == "/config/key"
    assert ext.key_do("load") is None
    assert ext.key_do("new") == (["new"], "")
    assert ext.key_do("rotate", True) == (["newer", "new"], "secret of newer")
    assert ext.key_import(b"k\0", "here", False) == ["here"]
    assert ext.key_import(b"other", "here", True) == ["replaced"]
    with pytest.raises(RuntimeError):
        ext.key_do("finish")
    for bad in [("make",), ("load\0",), (1,)]:
        with pytest.raises((ValueError, TypeError)):
            ext.key_do(*bad)
    with pytest.raises(TypeError):
        ext.key_import("text", "here", False)


def test_elements_that_were_kept(ext):
    job = ext.Job("a")
    assert job.stage_info("f#1") == (10, True) and job.stage_info("none") is None
    assert list(job.elements("f#1")) == [b"%d" % i for i in range(10)]
    assert list(job.elements("f#1", start=8)) == [b"8", b"9"] and not list(job.elements("f", 11))
    walk = job.elements("f#1", 9)
    assert iter(walk) is walk and next(walk) == b"9"
    assert next(walk, None) is next(walk, None) is None
    lacking = job.elements("holes", 8)
    assert next(lacking) == b"8"
    for _ in range(2):
        with pytest.raises(RuntimeError):
            next(lacking)
    with pytest.raises(LookupError, match="no work of the key none"):
        job.elements("none")
    for bad in [(1,), ("f", "x"), ("f", -1), ()]:
        with pytest.raises((TypeError, OverflowError)):
            job.elements(*bad)
    with pytest.raises(TypeError):
        job.stage_info(b"f")
    with pytest.raises(TypeError):
        type(walk)()
    broken = ext.Job("broken")
    for call in (broken.stage_info, broken.elements):
        with pytest.raises(RuntimeError):
            call("f")
    job.close()
    for call in (job.stage_info, job.elements):
        with pytest.raises(RuntimeError, match="closed"):
            call("f")


def test_an_element_from_outside(ext):
    view = ext.View("a")
    assert view.element(1, 5) == b"e5" and view.element(1, 5000) is view.element(2, 0) is None
    with pytest.raises(RuntimeError):
        ext.View("broken").element(1, 1)
    with pytest.raises(TypeError):
        view.element(1)
