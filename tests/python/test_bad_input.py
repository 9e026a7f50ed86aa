# SPDX-License-Identifier: MIT
"""What user code may do to a VM: a clear error or no effect on others, never a hang."""
import os
import time

import pytest

import trickle
from trickle import VMLost, forkwork, inject, join


def square(x):
    return x * x


def print_much():
    for i in range(3000):
        print("x" * 1000)
    return "done"


def close_standard_descriptors():
    for fd in (0, 1, 2):
        os.close(fd)
    return "closed"


def fork_and_return(x=0):
    os.fork()
    return os.getpid()


def fork_and_wait():
    child = os.fork()
    if child == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_and_use_trickle():
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            trickle.connect()
            os.write(write, b"connected")
        except BaseException as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    return os.read(read, 1000).decode()


def outlive():
    read, write = os.pipe()
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    os.close(write)
    return os.getpid()


def use_pool(n):
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(square, range(n))


def start_thread():
    import threading
    thread = threading.Thread(target=time.sleep, args=(60,))
    thread.start()
    return threading.active_count()


def change_directory(path):
    os.chdir(path)
    os.environ["TRICKLE_TEST"] = "1"
    os.umask(0o077)
    return os.getcwd()


def deep_list(n):
    result = []
    for _ in range(n):
        result = [result]
    return result


def test_constructor_function_and_values_that_fail_leave_the_vm_usable(vm):
    for bad in ("1/0", "nothing", "open('/nothing')", "[].x", "int('x')"):
        with pytest.raises(Exception):
            vm.eval(bad)
    assert vm.abs(-1) == 1


def test_unpicklable_argument_is_named(vm):
    with pytest.raises(TypeError, match="argument 2, of type generator"):
        vm.max(1, (x for x in []))
    with pytest.raises(TypeError, match="argument key, of type function"):
        vm.max([1], key=lambda x: x)


def test_os_exit_is_the_loss_of_the_vm_and_of_no_other(vms):
    lost, other = vms
    held = lost.eval("[1]") and lost.eval("iter([1])")
    with pytest.raises(VMLost):
        lost.exec("import os; os._exit(3)")
    with pytest.raises(VMLost):
        lost.abs(1)
    with pytest.raises(VMLost):
        next(held)
    assert "proxy of a list_iterator on" in repr(held)
    del held
    assert other.abs(-1) == 1


def test_segmentation_fault_is_the_loss_of_the_vm(vm):
    vm.exec("import os, signal")
    with pytest.raises(VMLost, match="SIGSEGV"):
        vm.exec("os.kill(os.getpid(), signal.SIGSEGV)")


def test_printing_megabytes_ends(run_program):
    result = run_program("""
from trickle import connect, inject
def print_much():
    for i in range(3000):
        print("x" * 1000)
    return "done"
vms = connect(1)
inject(vms, print_much)
print(vms[0].print_much(), vms[0].print_much())
""")
    assert result.out == "done done\n"
    assert result.err.count("x" * 1000) > 100


def test_closed_standard_descriptors(vm):
    inject(vm, close_standard_descriptors)
    assert vm.close_standard_descriptors() == "closed"
    assert vm.abs(-1) == 1
    with pytest.raises(OSError):
        vm.print("nobody sees this")
    with pytest.raises(ZeroDivisionError):
        vm.eval("1/0")


def test_child_that_returns_is_ended(vm):
    inject(vm, fork_and_return)
    pid = vm.fork_and_return()
    assert pid == trickle._proxy.vm_info(vm)["pid"]
    assert vm.fork_and_return() == pid
    assert forkwork([vm], fork_and_return, range(3)) == [pid] * 3


def test_child_may_end_on_its_own(vm):
    inject(vm, fork_and_wait)
    assert vm.fork_and_wait() == 7


def test_child_of_a_vm_that_uses_trickle_gets_an_error(vm):
    inject(vm, fork_and_use_trickle)
    assert "fork" in vm.fork_and_use_trickle()


def test_child_that_outlives_its_vm_holds_nobody_up(supervisor):
    with trickle.connect(1) as vms:
        inject(vms, outlive)
        vms[0].outlive()
    begin = time.monotonic()
    with trickle.connect(4) as vms:
        assert vms[0].abs(-1) == 1
    assert time.monotonic() - begin < 10


def test_multiprocessing_on_a_vm(vm):
    inject(vm, use_pool)
    assert vm.use_pool(4) == [0, 1, 4, 9]
    assert forkwork([vm], use_pool, [2, 3]) == [[0, 1], [0, 1, 4]]


def test_multiprocessing_in_the_program(run_program):
    result = run_program("""
import multiprocessing, os
from trickle import connect, inject
def square(x):
    return x * x
def remote(x):
    try:
        return vms[0].square(x)
    except Exception as error:
        return str(error)
if __name__ == "__main__":
    vms = connect(1)
    inject(vms, square)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(square, range(3)))
        print("after fork" in pool.apply(remote, (2,)))
    pid = os.fork()
    if pid == 0:
        kept = vms[0].__class__
        raise SystemExit(5)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(vms[0].square(3))
""")
    assert result.out == "[0, 1, 4]\nTrue\n5\n9\n", result.err
    assert result.status == 0


def test_thread_that_goes_on_does_not_keep_the_vm(supervisor):
    with trickle.connect(1) as vms:
        inject(vms, start_thread)
        assert vms[0].start_thread() >= 2
    with trickle.connect(4) as vms:
        assert len(vms) == 4


def test_directory_and_environment_last_until_the_lease_ends(supervisor, tmp_path):
    with trickle.connect(4) as vms:
        inject(vms, change_directory)
        before = vms[1].eval("__import__('os').getcwd()")
        assert vms[0].change_directory(str(tmp_path)) == str(tmp_path)
        assert vms[0].eval("__import__('os').getcwd()") == str(tmp_path)
        assert vms[1].eval("__import__('os').getcwd()") == before
    with trickle.connect(4) as vms:
        for vm in vms:
            assert vm.eval("__import__('os').getcwd()") == before
            assert vm.eval("'TRICKLE_TEST' in __import__('os').environ") is False


def test_deeply_nested_result_comes_by_reference_or_fails_clearly(vm):
    inject(vm, deep_list)
    result = vm.deep_list(100_000)
    assert len(result) == 1
    with pytest.raises((TypeError, RecursionError)):
        trickle.fetch(result)
    with pytest.raises((TypeError, RecursionError)):
        forkwork([vm], deep_list, [100_000])


def test_value_whose_pickling_is_broken_comes_by_reference(vm):
    vm.exec("class Odd(dict):\n"
            "    def __reduce_ex__(self, protocol):\n        raise OSError('no')\n"
            "def f():\n    return {'a': __import__('threading').Lock()}")
    assert len(vm.f()) == 1
    assert vm.eval("Odd(a=1)")["a"] == 1


def test_names_with_odd_characters_are_refused_or_work(vm):
    setattr(vm, "ö", 5)
    assert getattr(vm, "ö") == 5
    with pytest.raises((AttributeError, ValueError, trickle.TrickleError)):
        getattr(vm, "a\0b")
    with pytest.raises((AttributeError, ValueError, trickle.TrickleError)):
        getattr(vm, "x" * 10_000)
    assert vm.abs(-1) == 1


def test_handle_on_a_lost_vm_raises_at_join_again_and_again(vms):
    dies = "import os, time; time.sleep(0.3); os._exit(1)"  # late: the next fork must get in
    handle = trickle.fork(vms[0], "exec", dies)
    behind = trickle.fork(vms[0], abs, 1)
    for h in (handle, handle, behind):
        with pytest.raises(VMLost):
            join(h)
    assert handle.is_done
