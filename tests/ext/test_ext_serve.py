# SPDX-License-Identifier: MIT
"""The VM side. A process calls serve(); the fake trk_vm_serve reads commands from its stdin."""
import pickle
import subprocess
import sys

import pytest

SERVER = '''
import os, pickle, signal, sys, threading, time, _trickle

class Server:
    version = "3.x"
    moved = type("Moved", (BaseException,), {})
    strikes = 0

    def request(self, op, object, name, payload):
        assert isinstance(payload, memoryview) and payload.readonly
        if name == "raise":
            raise SystemExit(3)
        if name == "sleep":
            time.sleep(60)
        if name == "bad":
            return 5
        if name == "worse":
            return (0, "text")
        if name == "keep":
            self.kept = payload
        if name == "see":
            try:
                self.kept[0]
            except ValueError as error:
                return 0, str(error).encode()
        return 0, b"%d %d %s " % (op, object, name.encode()) + payload

    def stage_open(self, function):
        return eval(bytes(function)), None

    def dumps(self, obj):
        return pickle.dumps(obj, 5)

    loads = staticmethod(pickle.loads)

    def dump_exception(self, error):
        if isinstance(error, LookupError):
            raise TypeError("no way")
        if isinstance(error, OSError) and not self.strikes:
            self.strikes = 1
            raise KeyboardInterrupt
        return f"{type(error).__name__}: {error}".encode()

def throw(error):
    raise error

def swallow(_):
    until = time.monotonic() + 0.5
    caught = 0
    while time.monotonic() < until:
        try:
            time.sleep(0.5)
        except KeyboardInterrupt:
            caught += 1
            return caught

def recurse(n):
    return recurse(n + 1)

def quiet(_):
    for fd in 0, 1, 2:
        os.close(fd)

def late(_):
    """A signal that arrives while C code runs that does not look."""
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

class Unpicklable:
    def __reduce__(self):
        raise ZeroDivisionError("not me")

_trickle.serve(Server())
print("served")
'''


class Vm:
    def __init__(self, folder, program=SERVER):
        self.process = subprocess.Popen([sys.executable, "-X", "dev", "-c", program],
                                        env={"PYTHONPATH": str(folder)}, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.stage = 0

    def tell(self, *words):
        print(*words, file=self.process.stdin, flush=True)

    def ask(self, *words):
        self.tell(*words)
        status, payload = self.process.stdout.readline().rstrip("\n").split(" ")
        return int(status), bytes.fromhex(payload)

    def open(self, source, again_on=None):
        """again_on: an answer that may come in its place while interrupts are still due."""
        self.stage += 1
        while (answer := self.ask("stage", self.stage, source.encode().hex())) == again_on:
            pass
        assert answer == (0, b"")

    def run(self, value, protocol=5):
        return self.ask("run", self.stage, pickle.dumps(value, protocol).hex())

    def request(self, name, payload=b"p", op=2):
        return self.ask("request", op, name, payload.hex())

    def end(self):
        out, err = self.process.communicate(timeout=60)
        assert out == "served\n" and self.process.returncode == 0, (out, err)
        return err


@pytest.fixture
def vm(ext_folder):
    vm = Vm(ext_folder)
    yield vm
    if vm.process.poll() is None:
        assert vm.end() == ""


def test_elements_run(vm):
    vm.open("lambda x: x * 2")
    for value in (1, "ab", 1.5, (1, 2), [3]):
        status, payload = vm.run(value)
        assert (status, pickle.loads(payload)) == (0, value * 2)
    vm.open("lambda x: {x: [x]}")
    assert pickle.loads(vm.run(5)[1]) == {5: [5]}
    vm.open("lambda x: x")
    assert pickle.loads(vm.run({"a": {1}}, 2)[1]) == {"a": {1}}


def test_stages_are_known_by_number(vm):
    vm.open("lambda x: 'one'")
    vm.open("lambda x: 'two'")
    element = pickle.dumps(0).hex()
    assert [pickle.loads(vm.ask("run", n, element)[1]) for n in (1, 2, 1)] == ["one", "two", "one"]
    assert vm.ask("close", 1) == vm.ask("close", 1) == (0, b"")
    assert vm.ask("run", 1, element)[0] == vm.ask("run", 9, element)[0] == 2
    assert vm.ask("stage", 2, b"lambda x: 'new'".hex())[0] == 0
    assert pickle.loads(vm.ask("run", 2, element)[1]) == "new"
    assert vm.ask("stage", 3, b"1 /".hex())[0] == 1
    assert vm.ask("stage", 3, b"5".hex()) == (
        1, b"TypeError: (5, None) has no function that can be called")
    assert vm.ask("run", 3, element)[0] == 2


@pytest.mark.parametrize("error", ["ValueError('v')", "SystemExit(0)", "KeyboardInterrupt('k')",
                                   "MemoryError('m')", "GeneratorExit('g')", "StopIteration(1)"])
def test_whatever_user_code_raises_is_the_answer(vm, error):
    vm.open(f"lambda x: throw({error})")
    assert vm.run(1) == (1, error.replace("('", ": ").replace("(", ": ").strip("')").encode())
    vm.open("lambda x: x")
    assert vm.run(1) == (0, b"\x80\x05K\x01.")


def test_deep_recursion_is_an_exception(vm):
    vm.open("recurse")
    assert vm.run(1)[1].startswith(b"RecursionError: ")
    assert vm.run(1)[0] == 1


def test_results_and_elements_that_cannot_be_pickled_are_exceptions_of_the_element(vm):
    vm.open("lambda x: Unpicklable()")
    assert vm.run(1) == (1, b"ZeroDivisionError: not me")
    assert vm.ask("run", 1, b"\x80\x05garbage.".hex())[0] == 1
    assert vm.ask("run", 1, "")[1].startswith(b"EOFError")


def test_an_exception_that_cannot_be_dumped_is_a_sentence(vm):
    vm.open("lambda x: throw(KeyError(1))")
    status, text = vm.run(1)
    assert status == 2
    assert text == b"KeyError was raised and could not be sent back: TypeError: no way"
    vm.open("lambda x: throw(OSError('o'))")
    assert vm.run(1) == (1, b"OSError: o")  # the first try was struck by KeyboardInterrupt


def test_results_over_the_limit_are_errors(vm):
    vm.open("lambda x: b'x' * x")
    assert vm.run(1000001)[0] == 2
    assert vm.run(999900)[0] == 0


def test_requests_are_answered(vm):
    assert vm.request("name", b"payload", op=3) == (0, b"3 0 name payload")
    assert vm.request("é", b"", op=1) == (0, "1 0 é ".encode())
    assert vm.request("raise") == (1, b"SystemExit: 3")
    assert vm.request("bad")[1].startswith(b"TypeError: request must return a tuple")
    assert vm.request("worse")[1].startswith(b"TypeError: ")


def test_a_kept_payload_is_dead_not_dangling(vm):
    assert vm.request("keep")[0] == 0
    assert b"released" in vm.request("see")[1]


@pytest.mark.parametrize("code", ["time.sleep(60)", "[None for _ in iter(int, 1)]",
                                  "threading.Event().wait()"])
def test_an_interrupt_stops_running_code(vm, code):
    vm.open(f"lambda x: {code}")
    vm.tell("interrupt", 100, 1)
    assert vm.run(1) == (1, b"KeyboardInterrupt: ")
    vm.open("lambda x: x")
    assert vm.run(1)[0] == 0


def test_an_interrupt_stops_a_request(vm):
    vm.tell("interrupt", 100, 1)
    assert vm.request("sleep") == (1, b"KeyboardInterrupt: ")


def test_interrupts_between_elements_hit_nobody(vm):
    vm.open("lambda x: x")
    vm.tell("interrupt", 1, 50)
    for i in range(100):
        status, payload = vm.run(i)
        assert (status, payload) in [(0, pickle.dumps(i, 5)), (1, b"KeyboardInterrupt: ")]
    # On a slow machine the last of the fifty may hit the opening: that is user code, too.
    vm.open("swallow", again_on=(1, b"KeyboardInterrupt: "))
    vm.tell("interrupt", 50, 1)
    assert pickle.loads(vm.run(1)[1]) == 1


def test_a_storm_of_interrupts_ends_no_loop(vm):
    vm.open("lambda x: sum(range(x))")
    vm.tell("interrupt", 0, 20000)
    answers = [vm.run(1000) for _ in range(300)]
    assert set(answers) <= {(0, pickle.dumps(499500, 5)[:2] + pickle.dumps(499500, 5)[11:]),
                            (0, b"\x80\x05J\x2c\x9f\x07\x00."), (1, b"KeyboardInterrupt: ")}


def test_a_signal_after_the_element_is_dropped(vm):
    vm.open("late")
    assert vm.run(1)[0] == 0
    vm.process.stdin.flush()
    import time
    time.sleep(0.2)  # the signal has come by then, or comes while the next one runs
    vm.open("lambda x: x")
    assert vm.run(1) == (0, b"\x80\x05K\x01.")


@pytest.mark.parametrize("handler", ["SIG_IGN", "SIG_DFL"])
def test_code_that_turned_ctrl_c_off_is_left_alone(vm, handler):
    vm.open(f"lambda x: [signal.signal(signal.SIGINT, signal.{handler}), time.sleep(0.2)] and 7")
    vm.tell("interrupt", 50, 1)
    assert pickle.loads(vm.run(1)[1]) == 7


def test_handlers_of_user_code_that_raise_end_nothing(vm):
    vm.open("lambda x: [signal.signal(signal.SIGALRM, lambda *_: throw(SystemExit(9))),"
            " signal.setitimer(signal.ITIMER_REAL, 0.05)] and 7")
    assert pickle.loads(vm.run(1)[1]) == 7
    import time
    time.sleep(0.2)
    vm.open("lambda x: x")
    assert vm.run(1)[0] == 0
    assert "SystemExit: 9" in vm.end()


@pytest.mark.parametrize("code", ["time.sleep(60)", "ctypes.PyDLL(None).usleep(60_000_000)"],
                         ids=["waiting", "holding the GIL"])
def test_a_dump_says_where_code_is_stuck(ext_folder, code):
    vm = Vm(ext_folder, "import ctypes\n" + SERVER.replace("def quiet", f"""
def stuck(_):
    signal.signal(signal.SIGRTMAX - 3, signal.SIG_IGN)
    {code}

def quiet"""))
    vm.open("stuck")
    vm.tell("dump", 100)
    vm.tell("run", vm.stage, pickle.dumps(1).hex())
    err = vm.process.communicate(timeout=60)[1]
    assert vm.process.returncode == 72
    assert "most recent call first" in err and "in stuck" in err, err


def test_closed_standard_descriptors_hurt_nobody(vm):
    vm.open("quiet")
    assert vm.run(1) == (0, b"\x80\x05N.")
    vm.open("lambda x: print(x, flush=True)")
    assert vm.run(1)[0] == 1
    vm.open("lambda x: x")
    assert vm.run(1) == (0, b"\x80\x05K\x01.")
    vm.process.kill()  # it has no descriptor to print its end to
    vm.process.communicate()


def test_a_server_without_its_methods_is_refused(ext):
    class Server:
        version = "1"
    with pytest.raises(AttributeError, match="request"):
        ext.serve(Server())
