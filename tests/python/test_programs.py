# SPDX-License-Identifier: MIT
"""Programs, the prompt, notebook cells; how a program ends."""
import os
import signal
import subprocess
import sys

import pytest

PROMPT = """
from trickle import connect, inject, fork, join, forkwork
n = 5
def add(x):
    return x + n

class Stack:
    def __init__(self):
        self.items = [n]
    def top(self):
        return self.items[-1]

vms = connect(2)
inject(vms, add, Stack)
print(vms[0].add(1), vms[1].Stack().top(), forkwork(vms, lambda x: add(x), [1, 2]))
n = 7
inject(vms, n)
print(vms[0].n)
"""


def test_prompt(run_program):
    result = run_program("", stdin=PROMPT)
    assert result.out == "6 5 [6, 7]\n7\n", result.err


CELLS = '''
import linecache, sys
from trickle import connect, inject, forkwork

def cell(number, text):
    """As a notebook does it: the source is in linecache under a name that is no file."""
    name = f"/tmp/ipykernel_1/{number}.py"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), sys.modules["__main__"].__dict__)

cell(1, "factor = 3\\ndef f(x):\\n    return x * factor\\n")
cell(2, """
class Base:
    def go(self):
        return f(2)
class Thing(Base):
    def name(self):
        return "old"
""")
cell(3, "vms = connect(1); inject(vms, f, Thing)\\n")
cell(4, "print(vms[0].f(2), vms[0].Thing().go(), vms[0].Thing().name())\\n")
cell(5, "def f(x):\\n    return x * factor * 10\\n\\ninject(vms, f)\\nprint(vms[0].f(2))\\n")
cell(6, "print(forkwork(vms, lambda x: [f(x), Thing().name()], [1]))\\n")
cell(7, "def bad():\\n    return 1 // 0\\n")
cell(8, """
inject(vms, bad)
try:
    vms[0].bad()
except ZeroDivisionError as error:
    print("return 1 // 0" in str(error.__cause__), "7.py" in str(error.__cause__))
""")
'''


def test_notebook_cells(run_program):
    result = run_program(CELLS)
    assert result.out == "6 6 old\n60\n[[30, 'old']]\nTrue True\n", result.err


def test_program_without_a_main_guard_is_not_run_on_the_vms(run_program):
    result = run_program("""
import trickle
LIMIT = 2
def f(x):
    return x + LIMIT
print("once")
vms = trickle.connect(2)
trickle.inject(vms, f)
print([vm.f(1) for vm in vms])
""")
    assert result.out == "once\n[3, 3]\n"


@pytest.mark.parametrize("end, status", [
    ("", 0), ("raise SystemExit(4)", 4), ("raise ValueError('end')", 1),
    ("import os; os._exit(6)", 6)])
def test_every_end_of_a_program_gives_the_vms_back(run_program, end, status):
    program = f"""
from trickle import connect, fork
import time
vms = connect(4)
items = [vm.eval("[1]") for vm in vms]
vms[0].x = [1]
kept = vms[0].x
handle = fork(vms[1], time.sleep, 60)
{end}
"""
    for _ in range(2):
        result = run_program(program, timeout=20)
        assert result.status == status, result.err


def test_killed_program_gives_the_vms_back(run_program, supervisor, tmp_path):
    path = tmp_path / "killed.py"
    path.write_text("from trickle import connect\nimport sys, time\nvms = connect(4)\n"
                    "vms[0].x = 1\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen([sys.executable, path], env=supervisor.env, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    result = run_program("from trickle import connect\nprint(len(connect(4, timeout=10)))")
    assert result.out == "4\n", result.err


def test_ctrl_c_during_a_call_is_a_keyboard_interrupt(run_program):
    result = run_program("""
import os, signal, threading, time
from trickle import connect
vms = connect(1)
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
begin = time.monotonic()
try:
    vms[0].eval("__import__('time').sleep(60)")
except KeyboardInterrupt:
    print(time.monotonic() - begin < 2)
""", timeout=20)
    assert result.out == "True\n", result.err
    assert result.status == 0


def test_directory_may_change_before_injection(run_program, tmp_path):
    result = run_program("""
import os
from trickle import connect, inject
def f(x):
    return x + 1
os.chdir("/")
vms = connect(1)
inject(vms, f)
try:
    print(vms[0].f(1)); vms[0].f("x")
except TypeError as error:
    print("return x + 1" in str(error.__cause__))
""")
    assert result.out == "2\nTrue\n", result.err


def test_file_that_was_edited_after_the_start_does_not_matter(run_program):
    result = run_program("""
from trickle import connect, inject
def f(x):
    return x + 1
with open(__file__) as file:
    text = file.read()
with open(__file__, "w") as file:
    file.write(text.replace("x + 1", "x + 2"))
vms = connect(1)
inject(vms, f)
print(vms[0].f(1))
""")
    assert result.out == "2\n", result.err


def test_program_of_threads(run_program):
    result = run_program("""
import threading
from trickle import connect, inject, forkwork
def f(x):
    return x * 2
vms = connect(4)
inject(vms, f)
results = {}
def run(i):
    results[i] = [vms[i].f(n) for n in range(200)] + forkwork(vms, f, range(50))
threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
expected = [2 * n for n in range(200)] + [2 * n for n in range(50)]
print(all(results[i] == expected for i in range(4)))
""")
    assert result.out == "True\n", result.err


def test_vm_sees_neither_the_package_directory_nor_the_environment_of_its_start(vm):
    path = vm.eval("__import__('sys').path")
    directory = os.path.dirname(sys.modules["trickle"].__file__)
    assert directory not in path and os.path.dirname(directory) not in path
    assert vm.eval("__name__") == "__main__"
    with pytest.raises(ModuleNotFoundError):
        vm.exec("import cli")
    assert vm.eval("'TRICKLE_VM_FDS' in __import__('os').environ") is False
