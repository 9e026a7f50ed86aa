# SPDX-License-Identifier: MIT
"""trickle map from end to end: real commands on VMs of its own, killed, resumed, stopped."""
import json
import os
import pty
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from jobs_rig import wait_for

# Elements from 3 on wait for the file "gate"; each run is a line in "log".
GATED = "echo {} >> log; while [ {} -gt 3 -a ! -e gate ]; do sleep 0.01; done; echo got {}"
STOPPED = 75


@pytest.fixture
def home(trickle_command):
    with tempfile.TemporaryDirectory(prefix="trk-home-") as path:
        trickle_command.env["TRICKLE_HOME"] = path
        yield Path(path)


@pytest.fixture
def trickle(home, trickle_command, tmp_path):
    """Runs the command on a list: (status, what it printed, what it said)."""
    def run(*words, given=None, text=True, cwd=tmp_path):
        stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
        process = subprocess.Popen([*trickle_command.program, *map(as_word, words)], cwd=cwd,
                                   env=trickle_command.env, stdin=stdin, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        data = given.encode() if isinstance(given, str) else given
        out, err = process.communicate(data, timeout=60)
        return process.returncode, out.decode() if text else out, err.decode()
    return run


@pytest.fixture
def start(home, trickle_command, tmp_path):
    """Starts the command with a pipe for its list; what is left of it ends with the test."""
    started = []

    def run(*words):
        started.append(subprocess.Popen(
            [*trickle_command.program, "map", *map(str, words)], cwd=tmp_path, bufsize=0,
            env=trickle_command.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE))
        return started[-1]
    yield run
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


@pytest.fixture
def recorded(trickle):
    """Waits until so many results of a job are on the disk."""
    def wait(name, count):
        def is_so():
            status, out, _ = trickle("status", "--json", name)
            return status == 0 and json.loads(out)["recorded"] == count
        wait_for(is_so, f"{count} results of {name}")
    return wait


def as_word(word):
    return word if isinstance(word, bytes) else str(word)


def sorted_lines(text):
    return sorted(text.splitlines())


def numbers(first, last):
    return "".join(f"{i}\n" for i in range(first, last + 1))


def got(first, last):
    return sorted(f"got {i}" for i in range(first, last + 1))


# --- to its end -----------------------------------------------------------------------------------


def test_each_line_is_a_command_and_a_value_one_argument(trickle):
    values = [b"a b", b"'\"$(x)", b"new\nline", b"\xff\xfe", b"", b"-n"]
    status, out, err = trickle("map", "--local=2", "-k0", "printf '[%s]' {}", text=False,
                               given=b"".join(v + b"\0" for v in values))
    assert (status, out) == (0, b"".join(b"[" + v + b"]" for v in values)), err
    assert trickle("results", "printf-1", text=False)[1] == out
    status, out, _ = trickle("results", "--json", "printf-1")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["element"] for line in lines[:2]] == ["a b", "'\"$(x)"]
    assert all(line["exit_status"] == 0 and line["duration"] > 0 for line in lines)
    assert "stdout" in lines[0] and "stdout_base64" in lines[3]


def test_names_that_are_not_utf_8_are_shown_and_given_back(trickle, trickle_command):
    trickle_command.env["PYTHONIOENCODING"] = "utf-8:strict"  # as where LANG is de_DE.UTF-8, say
    status, _, err = trickle("map", "-j1", "--output", b"x\xff{}", "--check", "false", "--shell",
                             "echo {} > {output}", ":::", b"\xfe", "\u00e9", text=False)
    assert status == 1 and "the output x\\xff\\xfe did not" in err
    status, out, err = trickle("status", "echo-1", text=False)
    assert status == 0, err
    status, out, err = trickle("why", "echo-1", "0", text=False)
    assert status == 0 and b"the output x\xff\xfe did not" in out, err
    first, second = map(json.loads, trickle("results", "--json", "echo-1")[1].splitlines())
    assert first["element_base64"] == "/g==" and "element" not in first
    assert second["element"] == "\u00e9"


def test_fields_of_csv_have_names(trickle):
    status, out, err = trickle("map", "-j1", "-k", "--csv", "echo {name} {2}",
                               given='name,age\n"x  y",3\nz,4\n')
    assert (status, out) == (0, "x  y 3\nz 4\n"), err
    line = json.loads(trickle("results", "--json", "echo-1")[1].splitlines()[0])
    assert line["element"] == {"name": "x  y", "age": "3"}


def test_failures_are_shown_and_told(trickle):
    status, out, err = trickle("map", "-j1", "-k", "--shell",
                               "echo out {}; echo err >&2; exit {}", ":::", "0", "3")
    assert (status, out) == (1, "out 0\nout 3\n")
    assert "1 of 2 failed" in err and "exit 3" in err and "trickle why echo-1 1" in err
    status, out, _ = trickle("why", "echo-1", "1")
    assert status == 0 and "exit 3" in out and "status 3" in out and "| err" in out
    assert trickle("resume", "echo-1")[:2] == (1, "out 0\nout 3\n")


def test_failed_ones_run_again_when_asked(trickle, tmp_path):
    words = ["map", "-j1", "-k", "cat {}", ":::", "a", "b"]
    (tmp_path / "a").write_text("A\n")
    assert trickle(*words)[:2] == (1, "A\n")
    (tmp_path / "b").write_text("B\n")
    assert trickle("resume", "cat-1")[:2] == (1, "A\n")
    assert trickle("resume", "--retry-failed", "cat-1")[:2] == (0, "A\nB\n")


def test_retries_run_what_failed_again(trickle):
    status, out, err = trickle("map", "-j1", "--retries=2", "--shell",
                               ": {}; echo $TRICKLE_ATTEMPT; test $TRICKLE_ATTEMPT = 3", ":::", "x")
    assert (status, out) == (0, "3\n"), err


def test_a_timeout_ends_the_command_alone(trickle):
    status, out, err = trickle("map", "-j1", "-k", "--timeout=0.3", "--shell",
                               "sleep {}; echo {}", ":::", "0", "60", "0.0")
    assert (status, out) == (1, "0\n0.0\n") and "used up its time" in err


def test_outputs_are_there_whole_or_not_at_all(trickle, tmp_path):
    status, _, err = trickle("map", "-j1", "--output", "made/{}.x", "--check", "grep -q good {}",
                             "--shell", "echo {} > {output}; test {} != 'good but late'",
                             ":::", "good", "bad", "good but late")
    assert status == 1 and "2 of 3 failed" in err
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["good.x"]
    assert (tmp_path / "made/good.x").read_text() == "good\n"


def test_output_is_tagged_and_a_table_written(trickle, tmp_path):
    status, out, _ = trickle("map", "-j1", "-k", "--tag", "--joblog", "log",
                             "printf '1\\n2 {}'", ":::", "a b", "c")
    assert (status, out) == (0, "a b\t1\na b\t2 a bc\t1\nc\t2 c")
    head, first, second = (tmp_path / "log").read_text().splitlines()
    assert head.startswith("Seq\tHost\tStarttime") and first.split("\t")[0] == "1"
    assert first.split("\t")[6:] == ["0", "0", "printf '1\\n2 a b'"]
    assert second.split("\t")[0] == "2"
    (tmp_path / "log").unlink()
    (tmp_path / "elsewhere").mkdir()
    assert trickle("resume", "printf-1", cwd=tmp_path / "elsewhere")[0] == 0
    assert len((tmp_path / "log").read_text().splitlines()) == 3
    assert trickle("map", "-j1", "--quiet", "echo", ":::", "a")[1] == ""


def test_what_is_left_out_of_much_output_is_said(trickle):
    status, out, err = trickle("map", "-j1", "--max-output=20", "seq {}", ":::", "1000")
    assert status == 0 and out.startswith("1\n2\n") and out.endswith("1000\n") and len(out) == 20
    assert "in the middle are left out" in err
    status, out, err = trickle("map", "-j1", "--max-output=0", "seq {}", ":::", "1000")
    assert (status, out) == (0, "") and "left out" not in err  # as it was asked for


def test_halting_leaves_the_rest_for_a_resume(trickle, tmp_path):
    status, out, err = trickle("map", "-j1", "-k", "--fail-fast", "--shell",
                               "test {} != 2 -o -e gate && echo {}", ":::", *range(50))
    assert status == 1 and out == "0\n1\n" and "has not begun" in err
    (tmp_path / "gate").touch()
    status, out, err = trickle("resume", "--retry-failed", "test-1")
    assert (status, out) == (0, "".join(f"{i}\n" for i in range(50))), err


def test_halting_soon_awaits_what_runs(trickle, start, recorded, tmp_path):
    process = start("--job", "k", "-j2", "--halt=soon,fail=1", "--shell",
                    "touch run{}; until set -- run*; [ $# -gt 1 ] && [ {} = 1 -o -e gate ]; do "
                    "sleep 0.01; done; echo got {}; [ {} != 1 -o -e gate ]")
    process.stdin.write(numbers(1, 6).encode())
    recorded("k", 1)
    (tmp_path / "gate").touch()
    assert process.wait(60) == 1
    assert sorted_lines(process.stdout.read().decode()) == got(1, 2)
    assert b"resume --retry-failed k < LIST" in process.stderr.read()
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run1", "run2"]
    status, out, err = trickle("resume", "--retry-failed", "k", given=numbers(1, 6))
    assert (status, sorted_lines(out)) == (0, got(1, 6)), err


def test_a_job_that_no_vm_took_is_forgotten(trickle, home):
    status, out, err = trickle("map", "echo", given="a\n")
    assert (status, out) == (1, "") and "--local" in err
    assert list((home / "jobs").iterdir()) == []


def test_without_a_job_nothing_is_recorded(trickle, home):
    assert trickle("map", "-j1", "--no-checkpoint", "-k", "echo", ":::", "a", "b")[:2] == (
        0, "a\nb\n")
    assert not (home / "jobs").exists()


@pytest.mark.parametrize("words, why", [
    (["map"], "needs a command"),
    (["map", "echo {} | wc"], "--shell"),
    (["map", "--csv", "echo {x}"], "there is no field {x}"),
    (["map", "-a", "/nowhere", "echo"], "cannot be read"),
])
def test_wrong_usage_makes_no_job(trickle, home, words, why):
    status, out, err = trickle(*words, given="n,m\n1,2\n")
    assert (status, out) == (2, "") and why in err
    assert not (home / "jobs").exists()


def test_a_list_is_good_up_to_what_is_wrong_with_it(trickle):
    words = ["map", "--job", "k", "-j1", "--csv", "echo {n}"]
    status, out, err = trickle(*words, given="n,m\n1,2\n3\n4,5\n")
    assert (status, out) == (1, "1\n") and "line 3: there are 1 fields" in err
    assert trickle("resume", "k", given="n,m\n1,2\n3,0\n4,5\n")[:2] == (0, "1\n3\n4\n")


def test_a_dry_run_prints_the_commands(trickle, home):
    assert trickle("map", "--dry-run", "cp {} {.}.o", ":::", "a b.c", "d")[:2] == (
        0, "cp 'a b.c' 'a b.o'\ncp d d.o\n")
    assert not (home / "jobs").exists()


def test_ctrl_c_outside_of_a_job_is_no_traceback(start):
    process = start("--dry-run", "echo")
    process.stdin.write(b"a\n")
    assert process.stdout.readline() == b"echo a\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    assert process.stderr.read() == b""


# --- stopped, and on ------------------------------------------------------------------------------


def test_a_slow_list_does_not_keep_results_waiting(start):
    process = start("-j1", "echo got {}")
    for i in range(3):
        process.stdin.write(b"%d\n" % i)
        assert process.stdout.readline() == b"got %d\n" % i
    process.stdin.close()
    assert process.wait(60) == 0


def test_the_bar_of_a_list_that_is_not_at_its_end_has_no_total(start):
    process = start("-j1", "--bar", "--no-checkpoint", "echo")
    process.stdin.write(b"a\n")
    seen = b""
    while b" VM" not in seen.partition(b"discovered 1 VM")[2]:
        seen += os.read(process.stderr.fileno(), 4096)
    assert b"echo 1 done, 1 VM" in seen or b"echo 0 done, 1 VM" in seen, seen
    process.stdin.close()
    assert process.wait(60) == 0


def test_killed_with_the_list_read_it_goes_on_without_it(trickle, start, recorded, tmp_path):
    process = start("--job", "k", "-j2", "--shell", GATED)
    process.stdin.write(numbers(1, 6).encode())
    process.stdin.close()
    recorded("k", 3)
    process.kill()
    process.wait()
    (tmp_path / "gate").touch()
    status, out, err = trickle("resume", "k")
    assert (status, sorted_lines(out)) == (0, got(1, 6)), err
    log = (tmp_path / "log").read_text().split()
    assert [log.count(str(i)) for i in (1, 2, 3)] == [1, 1, 1]
    assert trickle("resume", "k")[:2] == (0, "".join(f"got {i}\n" for i in range(1, 7)))


def test_killed_while_the_list_is_read(trickle, start, recorded, tmp_path):
    process = start("--job", "k", "-j2", "echo got {}")
    process.stdin.write(numbers(1, 4).encode())
    recorded("k", 4)
    process.kill()
    process.wait()
    status, out, err = trickle("resume", "k")
    assert (status, sorted_lines(out)) == (STOPPED, got(1, 4))
    assert "read as far as its record 4" in err
    assert "trickle resume k < LIST" in err
    assert trickle("resume", "k", given="")[0] == STOPPED
    status, _, err = trickle("resume", "k", given="other\n" + numbers(2, 6))
    assert status == 1 and "element 0 is not what it was" in err
    status, out, err = trickle("resume", "k", given=numbers(1, 6))
    assert (status, sorted_lines(out)) == (0, got(1, 6)), err
    assert trickle("resume", "k")[0] == 0


def test_a_file_is_compared_with_the_list_and_may_change(trickle, trickle_command, tmp_path):
    assert trickle("map", "--job", "k", "-j1", "-k", "echo got {}", given=numbers(1, 3))[0] == 0
    (tmp_path / "list").write_text(numbers(2, 5))

    def resume(*options):
        with open(tmp_path / "list", "rb") as given:
            done = subprocess.run([*trickle_command.program, "resume", *options, "k"], stdin=given,
                                  env=trickle_command.env, capture_output=True, timeout=60)
        return done.returncode, sorted_lines(done.stdout.decode()), done.stderr.decode()
    status, _, err = resume()
    assert status == 1 and "element 0 is not what it was" in err
    assert resume("--on-change=keep")[:2] == (0, got(2, 5))


def test_a_list_named_by_a_may_change(trickle, tmp_path):
    (tmp_path / "list").write_text(numbers(1, 3))
    assert trickle("map", "--job", "k", "-j1", "-a", "list", "echo got {}")[0] == 0
    (tmp_path / "list").write_text(numbers(2, 5))
    status, out, err = trickle("resume", "k")
    assert (status, sorted_lines(out)) == (0, got(1, 3)), err
    status, out, err = trickle("resume", "--on-change=keep", "k")
    assert (status, sorted_lines(out)) == (0, got(2, 5)), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order(trickle, start, recorded, tmp_path, number):
    process = start("--job", "k", "-j2", "--shell", GATED)
    process.stdin.write(numbers(1, 6).encode())
    process.stdin.close()
    recorded("k", 3)
    process.send_signal(number)
    assert process.wait(60) == STOPPED
    assert b"go on with: trickle resume k]" in process.stderr.read()
    (tmp_path / "gate").touch()
    status, out, err = trickle("resume", "k")
    assert (status, sorted_lines(out)) == (0, got(1, 6)), err


def test_it_stops_when_nobody_reads_its_output(trickle, start):
    process = start("--job", "k", "-j1", "seq {} 1000")
    process.stdin.write(numbers(1, 200).encode())
    process.stdin.close()
    assert process.stdout.readline() == b"1\n"
    process.stdout.close()
    assert process.wait(60) == STOPPED
    assert b"nobody reads" in process.stderr.read()
    status, out, _ = trickle("resume", "k")
    assert (status, len(out.splitlines())) == (0, sum(1001 - i for i in range(1, 201)))


def test_a_lost_vm_is_no_failure(trickle, start, recorded, trickle_command, tmp_path):
    process = start("--job", "k", "-j2", "--shell", GATED)
    process.stdin.write(numbers(1, 6).encode())
    process.stdin.close()
    recorded("k", 3)
    status = json.loads(trickle("status", "--json", "k")[1])
    os.kill(status["vms"][0]["pid"], signal.SIGKILL)
    (tmp_path / "gate").touch()
    assert process.wait(60) == 0
    assert sorted_lines(process.stdout.read().decode()) == got(1, 6)


def test_a_terminal_is_no_list_for_a_resume(trickle, start, recorded, trickle_command, tmp_path):
    process = start("--job", "k", "-j2", "echo got {}")
    process.stdin.write(numbers(1, 4).encode())
    recorded("k", 4)
    process.kill()
    process.wait()
    master, terminal = pty.openpty()
    try:
        done = subprocess.run([*trickle_command.program, "resume", "k"], stdin=terminal,
                              env=trickle_command.env, capture_output=True, timeout=60)
    finally:
        os.close(master)
        os.close(terminal)
    assert (done.returncode, sorted_lines(done.stdout.decode())) == (STOPPED, got(1, 4))
