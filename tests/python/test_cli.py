# SPDX-License-Identifier: MIT
"""The trickle command: words, exit statuses, and the program as __main__. No VMs needed."""
import subprocess
import sys

import pytest


@pytest.fixture
def program(tmp_path):
    def write(text, name="prog.py"):
        path = tmp_path / name
        path.write_text(text)
        return path
    return write


def sentence(result):
    """The one-line message of a usage error."""
    assert result.returncode == 2, result
    assert result.stderr.startswith("trickle: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["run", "--help"], ["vms", "-h"],
                                   ["drain", "--help"]])
def test_help_goes_to_stdout_with_success(words, trickle_command):
    result = trickle_command(*words)
    assert result.returncode == 0 and result.stdout.startswith("usage: trickle")
    assert all(len(line) <= 100 for line in result.stdout.splitlines())


def test_vm_help_is_that_of_trickle_vm(trickle_command):
    result = trickle_command("vm", "--help")
    assert result.returncode == 0 and "trickle-vm" in result.stdout


def test_version(trickle_command):
    result = trickle_command("--version")
    assert result.returncode == 0 and result.stdout == "trickle 0.1.0\n"


def test_without_arguments_the_usage_goes_to_stderr(trickle_command):
    result = trickle_command()
    assert result.returncode == 2 and result.stderr.startswith("usage: trickle")


@pytest.mark.parametrize("words, part", [
    (["nothere.py"], "nothere.py"),
    (["--wrong"], "--wrong"),
    (["run"], "needs a program"),
    (["run", "--wrong", "x.py"], "--wrong"),
    (["run", "--hosts"], "needs a value"),
    (["run", "--lan=1", "x.py"], "takes no value"),
    (["run", "--log", "loud", "x.py"], "loud"),
    (["run", "--local=0", "/dev/null"], "'0'"),
    (["run", "--local=many", "/dev/null"], "'many'"),
    (["vms", "x"], "'x'"),
    (["drain"], "needs VMs"),
    (["drain", "x"], "'x'"),
    (["drain", "host:"], "'host:'"),
    (["drain", "0"], "'0'"),
    (["run", "--dead-after", "soon", "/dev/null"], "'soon'"),
    (["run", "--suspect-after=0", "/dev/null"], "'0'"),
    (["run", "--suspect-after=3", "--dead-after=2", "/dev/null"], "more than --dead-after"),
    (["/tmp"], "is a directory"),
])
def test_wrong_words_are_a_sentence(words, part, trickle_command):
    assert part in sentence(trickle_command(*words))


def test_no_vms_is_an_answer_with_status_1(trickle_command):
    result = trickle_command("vms")
    assert result.returncode == 1 and "trickle vm" in result.stderr and result.stdout == ""


def test_no_vms_is_an_empty_json_list(trickle_command):
    result = trickle_command("vms", "--json")
    assert result.returncode == 1 and result.stdout == "[]\n"


def test_no_vm_to_drain_is_an_answer_with_status_1(trickle_command):
    result = trickle_command("drain", "1", "there:2")
    assert result.returncode == 1 and result.stdout == ""
    assert [line[:18] for line in result.stderr.splitlines()] == ["trickle: 1: no VM ",
                                                                  "trickle: there:2: "]


def test_times_of_silence_go_to_the_program(program, trickle_command):
    path = program("import os\nprint(os.environ['TRICKLE_DEAD_AFTER'],"
                   " os.environ['TRICKLE_SUSPECT_AFTER'])\n")
    result = trickle_command("run", "--dead-after=2.5", "--suspect-after", "0.5", path)
    assert result.stdout == "2.5 0.5\n", result.stderr


def test_program_is_main_as_under_python(program, trickle_command, tmp_path):
    path = program("import sys, __main__\n"
                   "own = __main__.__dict__ is globals()\n"
                   "print(__name__, __file__, sys.argv, sys.path[0], own)\n"
                   "del own\n"
                   "print(sorted(n for n in globals() if not n.startswith('__')))\n")
    result = trickle_command(path, "--local", "a b")
    first, second = result.stdout.splitlines()
    assert first == f"__main__ {path} {[str(path), '--local', 'a b']} {tmp_path} True"
    assert second == repr(sorted(["sys", "connect", "inject", "fork", "join", "joinany", "forkwork",
                                  "forkgen", "fetch", "same"]))


def test_modules_beside_the_program_are_found(program, trickle_command, tmp_path):
    program("value = 5\n", "beside.py")
    link = tmp_path / "links"
    link.mkdir()
    (link / "prog.py").symlink_to(program("import beside; print(beside.value)\n"))
    assert trickle_command(link / "prog.py").stdout == "5\n"


def test_trickle_does_not_stand_before_the_standard_library(program, trickle_command, build):
    path = program("import sys; print(sys.path.index(sys.argv[1]) > 2)\n")
    assert trickle_command(path, build / "python").stdout == "True\n"


@pytest.mark.parametrize("text, status, err", [
    ("raise SystemExit(7)", 7, ""),
    ("import sys; sys.exit('said so')", 1, "said so\n"),
    ("import sys; sys.exit()", 0, ""),
    ("import os; os._exit(9)", 9, ""),
])
def test_system_exit_is_honoured(text, status, err, program, trickle_command):
    result = trickle_command(program(text))
    assert (result.returncode, result.stderr) == (status, err)


def test_traceback_shows_the_program_only(program, trickle_command):
    path = program("def f():\n    1 / 0\ntry:\n    f()\nexcept Exception as e:\n"
                   "    raise ValueError('why') from e\n")
    result = trickle_command(path)
    assert result.returncode == 1
    files = [line.split('"')[1] for line in result.stderr.splitlines() if ' File "' in line]
    assert files == [str(path)] * 3
    assert result.stderr.endswith("ValueError: why\n") and "ZeroDivisionError" in result.stderr


def test_syntax_error_is_shown_as_python_does(program, trickle_command):
    path = program("def f(:\n")
    result = trickle_command(path)
    plain = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert result.returncode == 1 and "SyntaxError" in result.stderr
    assert result.stderr.splitlines()[0] == plain.stderr.splitlines()[0]


def test_interrupt_ends_as_a_signal(program, trickle_command):
    result = trickle_command(program("import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
                                     "while True: pass\n"))
    assert result.returncode == -2 and "KeyboardInterrupt" in result.stderr


def test_atexit_and_threads_end_in_order(program, trickle_command):
    path = program("import atexit, threading, time\natexit.register(print, 'exit')\n"
                   "def f():\n    time.sleep(0.05)\n    print('thread')\n"
                   "threading.Thread(target=f).start()\n")
    assert trickle_command(path).stdout == "thread\nexit\n"


def test_python_dash_m_is_the_same_command(program, trickle_command, build):
    trickle_command.program = [sys.executable, "-m", "trickle"]
    trickle_command.env["PYTHONPATH"] = str(build / "python")
    result = trickle_command(program("import sys; print(sys.path[0] != '')\n"))
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


def test_multiprocessing_spawn_finds_the_program(program, trickle_command):
    path = program("import multiprocessing as m\ndef f(q): q.put(5)\n"
                   "if __name__ == '__main__':\n    m.set_start_method('spawn')\n"
                   "    q = m.Queue(); p = m.Process(target=f, args=(q,)); p.start()\n"
                   "    print(q.get()); p.join()\n")
    result = trickle_command(path)
    assert result.stdout == "5\n", result.stderr
