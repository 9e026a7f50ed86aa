# SPDX-License-Identifier: MIT
"""What code can ask and do while it runs as an element: which one it is, output files that are
there only when they are complete."""
import os
import signal
import subprocess
import sys
import threading

import pytest

import trickle
from runlog import beside
from supervisors import PACKAGES
from trickle import TrickleError, WorkFailed, _element, forkwork


def names_in(directory):
    return sorted(os.listdir(directory))


# --- element ---


def index_in_child():
    import trickle
    return trickle.element().index


def tell(x):
    import trickle
    e = trickle.element()
    return e.job, e.stage, e.index, e.attempt


def test_element_outside_of_an_element(vm):
    assert trickle.element() is None

    def ask():
        import trickle
        return trickle.element()
    trickle.inject(vm, ask)
    assert vm.ask() is None


def test_element_says_which_one_runs(vms):
    found = forkwork(vms, tell, range(50))
    assert [index for _, _, index, _ in found] == list(range(50))
    assert {(job, attempt) for job, _, _, attempt in found} == {(None, 1)}


def test_element_in_a_chunk_counts_chunks(vms):
    assert [index for _, _, index, _ in forkwork(vms, tell, range(50), 10)] == list(range(5))


def test_attempts_count(vms):
    def fails_twice(x):
        import trickle
        if trickle.element().attempt < 3:
            raise ValueError("again")
        return trickle.element().attempt
    assert forkwork(vms, fails_twice, range(3), retries=2, retry_after=0) == [3, 3, 3]


def test_element_is_seen_in_threads_and_in_children(vms):
    def ask(x):
        import multiprocessing
        import threading

        import trickle
        found = []
        threads = [threading.Thread(target=lambda: found.append(trickle.element().index))]
        for thread in threads:
            thread.start()
            thread.join()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found.append(pool.apply(index_in_child))
        return found
    assert forkwork(vms, ask, "abc") == [[0, 0], [1, 1], [2, 2]]


# --- output, in a plain program ---


def test_output_is_there_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "out.txt"
    with trickle.output(path) as file:
        file.write("one")
        assert not path.exists()
    assert path.read_text() == "one" and names_in(tmp_path) == ["out.txt"]


def test_output_replaces_only_when_it_is_complete(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with pytest.raises(ZeroDivisionError):
        with trickle.output(path, "wb") as file:
            file.write(b"half")
            1 / 0
    assert path.read_bytes() == b"old" and names_in(tmp_path) == ["out.bin"]
    with trickle.output(str(path), "w+b") as file:
        file.write(b"new")
        file.seek(0)
        assert file.read() == b"new" and path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o640
    assert names_in(tmp_path) == ["out.bin"]


def test_output_takes_what_open_takes(tmp_path):
    with trickle.output(tmp_path / "a", "w", encoding="latin-1", newline="\r\n") as file:
        file.write("é\n")
    assert (tmp_path / "a").read_bytes() == b"\xe9\r\n"
    with pytest.raises(LookupError):
        with trickle.output(tmp_path / "b", encoding="no such"):
            pass
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("mode", ["a", "r", "x", "rb", "w+a", "", "ww"])
def test_output_writes_whole_files_only(tmp_path, mode):
    with pytest.raises(ValueError, match='"wb"'):
        trickle.output(tmp_path / "a", mode)


def test_output_goes_where_a_link_leads(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    with trickle.output(tmp_path / "link") as file:
        file.write("x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there/file").read_text() == "x"


def test_output_errors_name_the_file_that_is_meant(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        with trickle.output(tmp_path / "none" / "file"):
            pass
    assert caught.value.filename == str(tmp_path / "none" / "file")
    with pytest.raises(IsADirectoryError):
        with trickle.output(tmp_path):
            pass
    once = trickle.output(tmp_path / "a")
    with once:
        pass
    with pytest.raises(TrickleError, match="used already"):
        with once:
            pass


def test_output_with_a_name_of_full_length(tmp_path):
    name = "é" * 127
    with trickle.output(tmp_path / name) as file:
        file.write("x")
    assert names_in(tmp_path) == [name]


def test_output_of_many_threads_to_one_file(tmp_path):
    """Each of them is complete; the last one stays."""
    path = tmp_path / "same"

    def write(n):
        with trickle.output(path) as file:
            file.write(str(n) * 10000)
    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = path.read_text()
    assert text == text[0] * 10000 and names_in(tmp_path) == ["same"]


def test_output_that_somebody_has_removed(tmp_path):
    with pytest.raises(TrickleError, match="removed"):
        with trickle.output(tmp_path / "a"):
            os.unlink(tmp_path / names_in(tmp_path)[0])
    assert names_in(tmp_path) == []


HALF = f'''
import os, signal, sys
sys.path.insert(0, {PACKAGES!r})
import trickle
with trickle.output(sys.argv[1]) as file:
    file.write("half of it")
    file.flush()
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.readline()
    file.write(", and the rest")
'''


def test_output_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    path = tmp_path / "out"

    def start(what):
        return subprocess.Popen([sys.executable, "-c", HALF, path, what], text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert start("die").wait() == -signal.SIGKILL
    assert not path.exists() and len(names_in(tmp_path)) == 1
    with start("live") as other:
        assert other.stdout.readline() == "writing\n"
        assert len(names_in(tmp_path)) == 1, "what was left over is still there"
        with trickle.output(path) as file:
            file.write("mine")
        assert path.read_text() == "mine" and len(names_in(tmp_path)) == 2
        other.communicate("\n")
    assert path.read_text() == "half of it, and the rest" and names_in(tmp_path) == ["out"]


def test_output_where_files_cannot_be_locked(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(95, "not supported")
    monkeypatch.setattr(_element.fcntl, "flock", no_locks)
    path = tmp_path / "out"
    for text in ("one", "two"):
        with trickle.output(path) as file:
            file.write(text)
            with trickle.output(path) as other:
                other.write("other")
        assert path.read_text() == text
    assert names_in(tmp_path) == ["out"]


# --- output, in elements ---


def test_output_is_there_when_the_function_has_returned(vms, tmp_path):
    def write(element):
        import os

        import trickle
        where, x = element
        path = f"{where}/{x}"
        with trickle.output(path) as file:
            file.write(x)
        assert not os.path.exists(path)
        with trickle.output(path + "2", "wb") as file:
            file.write(b"22")
        return element
    work = [(str(tmp_path), x) for x in "abc"]
    assert forkwork(vms, write, work) == work
    assert names_in(tmp_path) == ["a", "a2", "b", "b2", "c", "c2"]
    assert (tmp_path / "a").read_text() == "a"


def test_output_of_an_element_that_fails(vms, tmp_path):
    def write(element):
        import trickle
        where, x = element
        with trickle.output(f"{where}/{x}") as file:
            file.write(x)
        if x == "raises":
            raise ValueError(x)
        if x == "result":
            return lambda: x  # cannot be pickled
        if x == "caught":
            try:
                with trickle.output(f"{where}/{x}.inner") as file:
                    raise KeyError(x)
            except KeyError:
                pass
        if x == "gone":
            import os
            file = next(name for name in os.listdir(where) if name.startswith(f".{x}."))
            os.unlink(f"{where}/{file}")
        if x == "unfinished":
            trickle.output(f"{where}/{x}.open").__enter__()
        return x
    work = ["raises", "result", "caught", "gone", "unfinished", "fine"]
    found = forkwork(vms, write, [(str(tmp_path), x) for x in work], on_error="return")
    assert [type(result) is WorkFailed for result in found] == [True, True, False, True, True,
                                                                False]
    assert names_in(tmp_path) == ["caught", "fine"]
    assert "with block" in str(found[4]) and "removed" in str(found[3])


def test_element_killed_in_the_middle_leaves_nothing_that_looks_finished(vms, tmp_path):
    """Killed while it writes, and after the block; the next attempt cleans up."""
    def write(element):
        import os
        import signal

        import trickle
        where, when = element
        first = trickle.element().attempt == 1

        def die(now):
            if first and now == when:
                os.kill(os.getpid(), signal.SIGKILL)
        with trickle.output(f"{where}/{when}") as file:
            file.write("half")
            file.flush()
            die("inside")
            file.write(" and half")
        found = [name for name in os.listdir(where) if when in name]
        die("after")
        return found
    found = forkwork(vms, write, [(str(tmp_path), when) for when in ("inside", "after", "never")])
    for when, names in zip(["inside", "after", "never"], found):
        assert len(names) == 1 and names[0].startswith(f".{when}."), names
    assert names_in(tmp_path) == ["after", "inside", "never"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"half and half"}


def test_output_in_a_child_of_an_element(vms, tmp_path):
    """It is there at the end of the block: the child does not know what becomes of the element."""
    def write(where):
        import os

        import trickle
        pid = os.fork()
        if pid == 0:
            with trickle.output(f"{where}/a") as file:
                file.write("a")
            os._exit(0)
        os.waitpid(pid, 0)
        return os.listdir(where)
    assert forkwork(vms, write, [str(tmp_path)]) == [["a"]]


# --- checkpoints ---


def test_checkpoint_and_restore_outside_of_an_element(vms):
    assert trickle.restore() is None and trickle.restore(7) == 7
    assert trickle.checkpoint(lambda: "not even looked at") is None
    assert trickle.restore(7) == 7

    def f(x):
        import trickle
        found = trickle.restore("nothing")
        trickle.checkpoint(x)
        return found, trickle.restore("still nothing")
    assert forkwork(vms, f, [1, 2]) == [("nothing", "still nothing")] * 2


def test_moved_is_for_nobody_to_catch():
    assert issubclass(trickle.Moved, BaseException) and not issubclass(trickle.Moved, Exception)


def test_moved_of_its_own_is_a_failure(vms):
    def f(x):
        import trickle
        raise trickle.Moved("said the function itself")
    with pytest.raises(TrickleError, match="said the function itself"):
        forkwork(vms, f, [1])


# --- checkpoints of a job ---

JOB = """
import os, signal, sys, threading
import trickle
from runlog import Log, note

log = Log(sys.argv[1])
trickle.job(sys.argv[2])
"""


@pytest.fixture
def run_job(run_program, supervise, log):
    """Runs a program as a job, with VMs of its own; the next call goes on with the job."""
    own = supervise(count=2)
    name = f"element-{os.getpid()}-{os.path.basename(log.folder)}"

    def run(text):
        return run_program(JOB + text, log.folder, name, env=beside(own))
    return run


def test_element_of_a_job_knows_its_name(run_job, log):
    result = run_job("""
def tell(x):
    e = trickle.element()
    return e.job == x, e.stage, e.index, e.attempt

vms = trickle.connect()
print(trickle.forkwork(vms, tell, [sys.argv[2]] * 2, name="telling"))
""")
    assert result.out == "[(True, 'telling', 0, 1), (True, 'telling', 1, 1)]\n", result.err


COUNTS = """
def count(element):
    begin = trickle.restore(default=(0, None))[0]
    for n in range(begin, 100):
        note((element[0], n))
        trickle.checkpoint((n + 1, b"x" * 100_000))
        stop(element, n)
    return begin, trickle.restore()[0]
"""


def test_checkpoint_is_there_for_the_next_attempt(run_job, log):
    """After the death of the VM, and after an exception, which uses up a retry."""
    result = run_job(COUNTS + """
def stop(element, n):
    attempt = trickle.element().attempt
    if attempt == 1 and n == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    if attempt == 2 and n == 40:
        raise ValueError("again")

vms = trickle.connect()
print(trickle.forkwork(vms, count, log.jobs(1), retries=1, retry_after=0))
print([a.outcome for a in trickle.attempts(0)])
""")
    assert result.out == "[(41, 100)]\n['lost', 'exception', 'done']\n", result.err
    assert set(log.counts().values()) == {1} and len(log.counts()) == 100


def test_checkpoint_of_one_element_is_not_that_of_another(run_job, log):
    result = run_job("""
def f(x):
    found = trickle.restore("none")
    trickle.checkpoint(x)
    return found, trickle.restore()

def g(x):
    return trickle.restore("none")

vms = trickle.connect(1)
print(trickle.forkwork(vms, f, "abc"), trickle.forkwork(vms, g, "abc"))
""")
    wanted = f"{[('none', x) for x in 'abc']} {['none'] * 3}\n"
    assert result.out == wanted, result.err


def test_draining_a_vm_moves_its_element_without_blame(run_job, log):
    result = run_job(COUNTS + """
def stop(element, n):
    '''The first attempt goes on until it is told to move.'''
    if trickle.element().attempt == 1 and n == 50:
        Log(element[0]).open("begun")
        while True:
            trickle.checkpoint((n + 1, b""))

def drain():
    log.wait(lambda: os.path.exists(f"{log.folder}/begun"))
    pid = log.pids(50)[0]
    farm = trickle._farm.farm()
    farm.vms()
    farm.order("drain", pid)

vms = trickle.connect()
drainer = threading.Thread(target=drain)
drainer.start()
print(trickle.forkwork(vms, count, log.jobs(1)))
drainer.join()
print([a.outcome for a in trickle.attempts(0) if a.outcome in ("exception", "died")])
""")
    assert result.out == "[(51, 100)]\n[]\n", result.err
    assert set(log.counts().values()) == {1} and len(log.counts()) == 100
    assert len({pid for _, pid in log.runs()}) == 2


def test_output_of_an_element_that_moves_is_removed(run_job, log):
    result = run_job("""
def write(element):
    folder = element[0]
    with trickle.output(f"{folder}/out") as file:
        file.write("first" if trickle.restore() is None else "second")
    if trickle.restore() is None:
        note(element)
        while True:
            trickle.checkpoint(1)
    return sorted(name for name in os.listdir(folder) if "out" in name)

def drain():
    pid = log.wait(lambda: log.pids(0))[0]
    farm = trickle._farm.farm()
    farm.vms()
    farm.order("drain", pid)

vms = trickle.connect()
drainer = threading.Thread(target=drain)
drainer.start()
print(len(trickle.forkwork(vms, write, log.jobs(1))[0]))
drainer.join()
print(open(log.folder + "/out").read())
""")
    assert result.out == "1\nsecond\n", result.err


def test_checkpoint_outlives_the_program(run_job, log):
    """Killed after it was told that the state is durable; so is the VM."""
    text = COUNTS + """
def stop(element, n):
    if n == 30:
        os.kill(element[2], signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

vms = trickle.connect()
work = [(*log.jobs(1)[0], trickle.once("pid", os.getpid))]
print(trickle.forkwork(vms, count, work))
"""
    first = run_job(text)
    assert first.status == -signal.SIGKILL, first.err
    second = run_job(text)
    assert second.out == "[(31, 100)]\n", second.err
    assert set(log.counts().values()) == {1} and len(log.counts()) == 100


def test_checkpoint_errors_say_what_is_wrong(run_job, log):
    result = run_job("""
def f(what):
    try:
        if what == "value":
            trickle.checkpoint(lambda: 0)
        elif what == "thread":
            found = []
            def save():
                try:
                    trickle.checkpoint(1)
                except trickle.TrickleError as error:
                    found.append(str(error))
            thread = threading.Thread(target=save)
            thread.start()
            thread.join()
            return found[0]
    except TypeError as error:
        return str(error)

vms = trickle.connect(1)
for text in trickle.forkwork(vms, f, ["value", "thread"]):
    print(text)
""")
    assert result.status == 0, result.err
    value, thread = result.out.splitlines()
    assert "cannot be pickled" in value and "the thread that runs the element" in thread
