# SPDX-License-Identifier: MIT
"""Farm, VMList, VM, Call: lives, waits, errors."""
import gc
import os
import signal
import threading
import time
import weakref

import pytest


class Lost(Exception):
    pass


class Other(Exception):
    pass


@pytest.fixture
def classes(ext):
    ext.set_exceptions({"EVMLOST": Lost, "": Other})
    yield
    ext.set_exceptions({})


def interrupt_after(seconds):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_module_says_what_it_is(ext):
    assert ext.VERSION and ext.OP_INJECT == 1 and ext.OP_FETCH == 6
    assert (ext.STATUS_OK, ext.STATUS_EXCEPTION, ext.STATUS_ERROR) == (0, 1, 2)
    assert ext.is_forked() is False
    assert issubclass(ext.TrickleError, RuntimeError)


def test_only_farms_are_made_by_calling(ext):
    for cls in (ext.VMList, ext.VM, ext.Call, ext.Work):
        with pytest.raises(TypeError):
            cls()
    with pytest.raises(TypeError):
        type("Mine", (ext.Farm,), {})


def test_farm_says_where_it_listens(ext):
    farm = ext.Farm(listen="127.0.0.1:0")
    assert farm.listening == "127.0.0.1:4711"
    farm.close()
    assert farm.listening == "127.0.0.1:4711"  # and does not crash
    with pytest.raises(AttributeError):
        farm.listening = None
    farm = ext.Farm()
    assert farm.listening is None
    farm.close()


def test_farm_options_are_checked(ext):
    ext.Farm(program="p", runtime_dir="/tmp", lan=True, insecure=True, hosts="a:1",
             multicast="239.0.0.1:1", dead_after_ms=5,
             suspect_after_ms=2).close()
    for wrong in ({"program": 1}, {"dead_after_ms": "x"}, {"nonsense": 1}):
        with pytest.raises(TypeError):
            ext.Farm(**wrong)
    for wrong in ({"dead_after_ms": -1}, {"dead_after_ms": 2**32}):
        with pytest.raises(OverflowError):
            ext.Farm(**wrong)


def test_failed_and_closed_farms_say_so(ext, classes):
    with pytest.raises(Other, match="asked to fail"):
        ext.Farm(program="denied")
    farm = ext.Farm()
    with pytest.raises(RuntimeError, match="already"):
        farm.__init__()
    farm.close()
    farm.close(timeout=None)
    for use in (farm.connect, farm.vms, lambda: farm.work("w", b"", vms=[])):
        with pytest.raises(Other, match="closed"):
            use()
    unopened = ext.Farm.__new__(ext.Farm)
    with pytest.raises(Other, match="closed"):
        unopened.connect()
    with pytest.raises(EOFError):
        unopened.notice()


def test_errors_raise_the_registered_class_or_the_modules_own(ext, farm):
    with pytest.raises(ext.TrickleError, match="77 were asked for"):
        farm.connect(77)
    ext.set_exceptions({"ENOVMS": Lost})
    with pytest.raises(Lost):
        farm.connect(max=77, need_all=True, wait_ms=1)
    ext.set_exceptions({"": Other})
    with pytest.raises(Other):
        farm.connect(77)
    for wrong in ([], {"ENOVMS": 1}, {1: Lost}):
        with pytest.raises(TypeError):
            ext.set_exceptions(wrong)
    with pytest.raises(Other):
        farm.connect(77)
    ext.set_exceptions({})


def test_connect_ends_by_timeout_and_by_ctrl_c(ext, farm):
    start = time.monotonic()
    with pytest.raises(ext.TrickleError, match="in time"):
        farm.connect(88, timeout=0.15)
    assert 0.15 <= time.monotonic() - start < 2
    timer = interrupt_after(0.05)
    with pytest.raises(KeyboardInterrupt):
        farm.connect(88)
    timer.join()
    assert len(farm.connect()) == 2


def test_a_vm_is_one_object_as_long_as_it_lives(farm, vms):
    vm = vms.get(0)
    assert vms.get(0) is vm and farm.connect().get(0) is vm and vms.get(1) is not vm
    assert vms.refresh() == len(vms) == 2
    ref = weakref.ref(vm)
    del vm
    assert ref() is None
    assert vms.get(0).info()["index"] == 0
    for wrong in (2, -1, 2**70):
        with pytest.raises(IndexError):
            vms.get(wrong)


def test_a_weak_reference_callback_gets_a_new_object(vms):
    seen = []
    vm = vms.get(0)
    ref = weakref.ref(vm, lambda _: seen.append(vms.get(0)))
    del vm
    assert ref() is None and seen[0].info()["pid"] == 100 and vms.get(0) is seen[0]


def test_any_order_of_death_is_fine(ext):
    farm = ext.Farm()
    vms = farm.connect()
    a, b = vms.get(0), vms.get(1)
    call = a.request(ext.OP_CALL, 0, "echo", b"abc")
    work = farm.work("w", b"echo", list=vms)
    ref = weakref.ref(a)
    del farm, vms, a
    gc.collect()
    assert ref() is None and b.info()["index"] == 1
    assert call.wait() == 0 and bytes(call) == b"abc"
    assert work.feed(iter([b"1"]), None, None)
    del b, work, call
    gc.collect()


def test_info_is_a_dict_of_all_that_is_known(farm, vms):
    info = vms.get(1).info()
    assert info == farm.vms()[1]
    assert info["incarnation"] == b"\2" * 16 and info["supervisor"] == bytes(16)
    assert info["host"] == "hére" and info["state"] == "leased" and info["memory_bytes"] == 2**40
    assert info["note"] == "n" * 128
    assert set(info) == {"incarnation", "supervisor", "index", "state", "pid", "cores",
                         "memory_bytes", "dropped", "host", "module", "version", "owner", "note",
                         "address"}


def test_requests_give_their_payload_as_a_buffer(ext, vms):
    vm = vms.get(0)
    for payload in (b"", b"x", bytes(range(256)) * 1000, bytearray(b"ab"), memoryview(b"cd")):
        call = vm.request(ext.OP_CALL, 2**64 - 1, "echo", payload)
        with pytest.raises(BufferError):
            memoryview(call)
        assert call.is_done and call.wait() == ext.STATUS_OK and call.wait(0) == 0
        view = memoryview(call)
        del call
        gc.collect()
        assert view.readonly and view == payload
    assert vm.request(ext.OP_CALL, 0, "raise", b"").wait() == ext.STATUS_EXCEPTION
    assert vm.request(ext.OP_CALL, 0, "error", b"").wait() == ext.STATUS_ERROR
    assert vm.request(ext.OP_DELETE, 0, "echo", b"", reply=False) is None


def test_requests_check_their_arguments(ext, vms, classes):
    vm = vms.get(0)
    for args, error in [((0, 0, "n", b""), ValueError), ((9, 0, "n", b""), ValueError),
                        ((1, -1, "n", b""), OverflowError), ((1, 2**64, "n", b""), OverflowError),
                        ((1, 0, b"n", b""), TypeError), ((1, 0, "n", "p"), TypeError),
                        ((1, 0, "n\0", b""), ValueError), ((1, 0, "\ud800", b""), ValueError),
                        (("1", 0, "n", b""), TypeError), ((1, 0, "n"), TypeError),
                        ((1, 0, "refused", b""), Other)]:
        with pytest.raises(error):
            vm.request(*args)


def test_a_lost_vm_raises_and_says_why(ext, vms, classes):
    vm = vms.get(0)
    assert vm.is_lost is False and vm.lost_reason == ""
    call = vm.request(ext.OP_CALL, 0, "lost", b"")
    for _ in range(2):
        with pytest.raises(Lost, match="SIGKILL"):
            call.wait()
    assert vm.is_lost is True and vm.lost_reason == "killed by SIGKILL"
    assert vm.info()["state"] == "lost"
    with pytest.raises(AttributeError):
        vm.is_lost = False


def test_call_waits_end_by_timeout_and_by_ctrl_c(ext, vms):
    call = vms.get(0).request(ext.OP_CALL, 0, "never", b"")
    assert call.wait(0) is None and call.wait(timeout=-1) is None and not call.is_done
    start = time.monotonic()
    assert call.wait(0.12) is None
    assert 0.12 <= time.monotonic() - start < 2
    timer = interrupt_after(0.05)
    with pytest.raises(KeyboardInterrupt):
        call.wait()
    timer.join()
    with pytest.raises(ValueError):
        call.wait(float("nan"))
    with pytest.raises(TypeError):
        call.wait("soon")


def test_other_threads_run_while_one_waits(ext, vms):
    ticks = []
    call = vms.get(0).request(ext.OP_CALL, 0, "slow", b"z")
    thread = threading.Thread(target=lambda: ticks.append(call.wait()))
    thread.start()
    assert not ticks
    assert call.wait(float("inf")) == 0
    thread.join()
    assert ticks == [0]


def test_wait_any_names_the_first(ext, vms):
    def ask(name):
        return vms.get(0).request(ext.OP_CALL, 0, name, b"")
    never = [ask("never") for _ in range(50)]
    assert ext.wait_any(never, 0) is None and ext.wait_any(never, 0.05) is None
    assert ext.wait_any([*never, ask("slow")]) == 50
    assert ext.wait_any((ask("never"), ask("echo")), timeout=None) == 1
    for wrong, error in [([], ValueError), ([1], TypeError), (5, TypeError)]:
        with pytest.raises(error):
            ext.wait_any(wrong)


def test_inject_gives_a_call_per_vm(ext, farm, vms, classes):
    assert [c.wait() for c in farm.inject(vms, "echo", b"1")] == [0, 0]
    assert [c.wait() for c in farm.inject(vms.get(1), "echo", b"1")] == [0]
    with pytest.raises(Other):
        farm.inject(vms, "refused", b"1")
    for wrong in ((1, "n", b""), (vms, 1, b""), (vms, "n", "")):
        with pytest.raises(TypeError):
            farm.inject(*wrong)


def test_orders_are_answered_by_a_sentence(farm, ext):
    assert farm.order("drain", 7) == "it drains, for 5000 ms"
    assert farm.order("drain", 7, host="here", timeout=0.5) == "it drains, for 500 ms"
    assert farm.order("drain", 7, None) == "it drains, for 5000 ms"
    for wrong in (("drain", 8), ("stop", 7), ("drain", 7, "there")):
        with pytest.raises(ext.TrickleError, match="no such VM"):
            farm.order(*wrong)
    for args in ((), ("drain",), ("drain", "7"), (7, 7), ("drain", 7, 7), ("drain", -7)):
        with pytest.raises((TypeError, OverflowError)):
            farm.order(*args)


def test_notices_come_also_after_close(ext):
    farm = ext.Farm()
    vm = farm.connect().get(1)
    assert farm.notice() is None and farm.notice(timeout=0.01) is None
    for text in (b"one", b"", b"two\n"):
        vm.request(ext.OP_CALL, 0, "notice", text)
    assert farm.notice(None) == ("output", "here", 7, 1, b"one")
    farm.close()
    assert [farm.notice()[4], farm.notice(None)[4]] == [b"", b"two\n"]
    for _ in range(2):
        with pytest.raises(EOFError):
            farm.notice(None)


def test_a_thread_that_takes_notices_ends_when_another_closes_the_farm(ext):
    farm = ext.Farm()
    ended = []

    def take():
        try:
            while True:
                farm.notice(None)
        except EOFError:
            ended.append(True)
    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    farm.close()
    for thread in threads:
        thread.join(10)
    assert ended == [True] * 3


def test_after_fork_everything_raises_and_nothing_hangs(ext):
    farm = ext.Farm()
    vms = farm.connect()
    vm = vms.get(0)
    call = vm.request(ext.OP_CALL, 0, "echo", b"")
    work = farm.work("w", b"echo", list=vms)
    uses = [lambda: vm.is_lost, lambda: vm.lost_reason, vm.info, vms.refresh, lambda: len(vms),
            lambda: vms.get(0), vms.close, call.wait, lambda: call.is_done, work.progress,
            work.cancel, work.flush, work.close, lambda: work.next(0, None),
            lambda: work.feed(iter([b"1"]), None, None), lambda: work.collect([], None, 0)]
    pid = os.fork()
    if pid == 0:
        passed = 0
        for use in uses:
            try:
                use()
            except RuntimeError as error:
                passed += "used after fork" in str(error)
        os._exit(passed)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == len(uses)
    assert ext.is_forked() is False and call.wait() == 0


def test_wait_any_takes_calls_of_one_farm(ext, vms):
    other = ext.Farm()
    calls = [v.get(0).request(ext.OP_CALL, 0, "echo", b"") for v in (vms, other.connect())]
    with pytest.raises(ValueError, match="one farm"):
        ext.wait_any(calls)
