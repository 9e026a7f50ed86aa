# SPDX-License-Identifier: MIT
"""The verdict of chaos/live bites: each run folder here is that of a run in which all was well,
with one thing in it that must not be, and the check that is there for it has to say so."""
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "chaos"))

from live import checker, evidence, leftovers, times, workloads  # noqa: E402

START = 1000.0      # monotonic seconds at which the run began
SEED, COUNT = 7, 8
STEP = 0.1          # seconds between elements
PIDS = (11, 12)     # of the VMs of machine m0
DEAD_AFTER = 2.0
LIMIT = 60.0


def ns(t):
    return int((START + t) * 1e9)


class Folder:
    """A run of one stage: its elements run in turn on two VMs; the program is killed at 0.55 and
    goes on at 0.95, and has what was recorded at once then. Element 5 is lost with its VM at 0.55
    and runs again."""

    def __init__(self, path, kind="trivial"):
        self.path = path
        for name in ("attempts", "output", "recorded"):
            (path / name).mkdir()
        self.stage, = workloads.stages(SEED, kind, 0, COUNT)
        self.notes = {pid: [] for pid in PIDS}
        self.values = {}
        self.outputs = [[], []]  # of the two runs
        self.had = []
        self.events = [{"t": 0.0, "event": "program", "what": "start", "pid": 5, "number": 0},
                       {"t": 0.55, "event": "fault", "kind": "initiator.kill", "id": 1, "pid": 5},
                       {"t": 0.56, "event": "program", "what": "end", "pid": 5, "status": -9,
                        "number": 0},
                       {"t": 0.95, "event": "program", "what": "resume", "pid": 6, "number": 1},
                       {"t": 0.96, "event": "healed", "kind": "initiator.kill", "id": 1},
                       {"t": 1.4, "event": "program", "what": "end", "pid": 6, "status": 0,
                        "number": 1}]
        self.make()

    def make(self):
        for output in self.outputs:
            output.append(f"S {self.stage.name} {COUNT}")
        for index in range(COUNT):
            begun = STEP * index + (0.5 if index >= 5 else 0)
            if index == 5:
                self.attempt(PIDS[1], index, 0.5, None)
            self.attempt(PIDS[index % 2], index, begun, begun + 0.05)
            self.give(PIDS[index % 2], index, begun)
        self.outputs[1] += [f"T {self.stage.name}", "D 1"]

    def attempt(self, pid, index, begun, ended):
        self.notes[pid].append(f"B {self.stage.name} {index} {pid} {ns(begun)}")
        if ended is not None:
            self.notes[pid].append(f"E {self.stage.name} {index} {pid} {ns(ended)}")

    def give(self, pid, index, begun):
        """Records a result, and gives it to the program."""
        value = workloads.answer(self.stage.kind, self.stage.seed, index)
        self.values[index] = (index, value, pid, ns(begun))
        line = f"R {self.stage.name} {index} {workloads.digest(value)} {pid} {ns(begun)}"
        if index < 5:
            self.outputs[0].append(f"{line} {ns(begun + 0.06)}")
        self.outputs[1].append(f"{line} {ns(max(begun, 1.0) + 0.06)}")

    def line(self, index, run=1):
        return next(at for at, line in enumerate(self.outputs[run])
                    if line.startswith(f"R {self.stage.name} {index} "))

    def write(self):
        (self.path / "run.json").write_text(json.dumps(
            {"start_monotonic": START, "options": {"dead_after": DEAD_AFTER}}))
        self.events.sort(key=lambda it: it["t"])
        (self.path / "events.jsonl").write_text("".join(json.dumps(it) + "\n"
                                                        for it in self.events))
        for pid, lines in self.notes.items():
            lines.sort(key=lambda line: int(line.split()[4]))
            (self.path / f"attempts/m0-{pid}.log").write_text("\n".join(lines) + "\n")
        for number, lines in enumerate(self.outputs):
            (self.path / f"output/program-{number}.out").write_text(
                "".join(line + "\n" for line in lines))

    def facts(self):
        """As a store would say it; so do the next two."""
        count = len(self.values)
        return {"state": "done", "is_closed": True, "added": count, "recorded": count}

    def status(self):
        return {"stages": [{"name": self.stage.name}]}

    def results(self, stage, path):
        return self.values

    def failed(self, reason=""):
        """The names of the checks that fail."""
        self.write()
        checks = checker.Checks()
        seen = evidence.Evidence(self.path)
        known, final = checker.judge(seen, self, reason, {self.stage.name: self.stage}, checks)
        rows = checker.parse_results(final.lines)
        times.check(seen, known, LIMIT, checks)
        self.totals = times.totals(seen, rows)
        return [it["name"] for it in checks.done if not it["ok"]]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


AGAIN = "nothing recorded runs again"
SAME = "the same before and after a resume"
STORE = "the store holds what the program saw"


def test_a_run_in_which_all_was_well(folder):
    assert folder.failed() == []
    assert folder.totals["elements"] == COUNT and folder.totals["attempts"] == COUNT + 1
    assert folder.totals["finished_twice"] == 0


def test_the_program_has_not_ended(folder):
    assert folder.failed("status 1") == ["the job ends"]


def test_a_missing_result(folder):
    del folder.outputs[1][folder.line(6)]
    assert folder.failed() == ["each element has a result", STORE]


def test_a_doubled_result(folder):
    folder.outputs[1].insert(-2, folder.outputs[1][folder.line(6)])
    assert folder.failed() == ["no element has two"]


def test_a_wrong_value_also_when_the_store_agrees(folder):
    at = folder.line(6)
    words = folder.outputs[1][at].split(" ")
    folder.outputs[1][at] = " ".join([*words[:3], "77", *words[4:]])
    folder.values[6] = (6, 0x77, *folder.values[6][2:])
    assert folder.failed() == ["results are right"]


def test_a_result_that_is_not_the_stores(folder):
    folder.values[6] = (*folder.values[6][:3], 1)
    assert folder.failed() == [STORE]


def test_a_result_that_is_only_in_the_store(folder):
    folder.values[COUNT] = folder.values[6]
    assert folder.failed() == [STORE]


def test_a_job_that_does_not_say_that_it_is_done(folder):
    folder.facts = lambda: {"state": "stopped", "is_closed": True, "added": 8, "recorded": 8}
    assert folder.failed() == [STORE]


def test_another_attempt_seen_after_the_resume(folder):
    at = folder.line(2, run=0)
    folder.outputs[0][at] = folder.outputs[0][at].replace(" 11 ", " 12 ")
    assert folder.failed() == [SAME]


def test_more_seen_before_the_resume_than_after_it(folder):
    folder.outputs[0] += [f"T {folder.stage.name}", "D 1", "S more-1 8"]
    assert SAME in folder.failed()


def test_a_program_that_is_killed_when_its_job_is_done_has_given_its_output(folder):
    folder.outputs.append([])
    assert folder.failed() == []


def test_a_program_that_gives_nothing_though_its_job_was_not_done(folder):
    folder.outputs[1].pop()
    folder.outputs.append([])
    assert "each element has a result" in folder.failed()


def damage(folder, t):
    folder.events.append({"t": t, "event": "fault", "kind": "disk.damage", "id": 8, "pid": 5})


def test_what_was_seen_before_a_damage_may_be_another_attempts(folder):
    at = folder.line(2, run=0)
    folder.outputs[0][at] = folder.outputs[0][at].replace(" 11 ", " 12 ")
    damage(folder, 0.6)
    assert folder.failed() == []


def test_but_is_the_same_in_all_runs_before_it(folder):
    folder.outputs.insert(1, list(folder.outputs[0]))
    folder.outputs[0] = folder.outputs[0][:4]
    for it in folder.events:
        it["number"] = it.get("number", 0) * 2  # the last run is number 2 now
    folder.events += [
        {"t": 0.58, "event": "program", "what": "resume", "pid": 7, "number": 1},
        {"t": 0.59, "event": "program", "what": "end", "pid": 7, "status": -9, "number": 1}]
    damage(folder, 0.6)
    assert folder.failed() == []
    at = folder.line(2, run=0)
    folder.outputs[0][at] = folder.outputs[0][at].replace(" 11 ", " 12 ")
    assert folder.failed() == [SAME]


def test_results_out_of_order(tmp_path):
    folder = Folder(tmp_path, "poison")  # one that gives a list
    for index, how in ((2, "died"), (4, "ValueError"), (6, "timeout")):
        folder.outputs[1][folder.line(index)] = f"F {folder.stage.name} {index} {how}"
        if index < 5:
            folder.outputs[0][folder.line(index, 0)] = f"F {folder.stage.name} {index} {how}"
        folder.values[index] = ValueError()
    assert folder.failed() == []
    lines = folder.outputs[1]
    lines[6], lines[8] = lines[8], lines[6]
    assert folder.failed() == ["order is kept"]


def test_an_element_that_failed_though_it_can_be_computed(folder):
    folder.outputs[1][folder.line(6)] = f"F {folder.stage.name} 6 lost"
    folder.values[6] = ValueError()
    assert folder.failed() == ["results are right"]


def test_a_result_out_of_nowhere(folder):
    folder.notes[11] = [line for line in folder.notes[11] if not line.startswith(
        f"E {folder.stage.name} 6 ")]
    assert folder.failed() == ["each result comes from an attempt"]


def test_a_wrong_call(folder):
    folder.outputs[1].insert(-1, "C right:3 lost:0 wrong:1")
    assert folder.failed() == ["calls beside the work are right"]


# --- what was recorded and ran again ---------------------------------------------------------


def test_a_recorded_element_runs_again_later(folder):
    folder.attempt(11, 7, 1.6, 1.65)
    assert folder.failed() == [AGAIN]


def test_a_recorded_element_runs_again_at_once_in_the_resumed_program(folder):
    folder.attempt(12, 4, 0.97, 0.98)  # recorded by 0.46
    assert folder.failed() == [AGAIN]
    assert folder.totals["finished_twice"] == 1


def test_what_only_a_look_from_outside_has_shown_was_recorded(folder):
    folder.attempt(11, 5, 1.04, 1.05)
    assert folder.failed() == []
    (folder.path / f"recorded/1-{folder.stage.name}").write_bytes(pickle.dumps({5: None}))
    folder.events.append({"t": 0.9, "event": "recorded", "number": 1})
    assert folder.failed() == [AGAIN]


def stop(folder, pid, since, until):
    folder.events += [{"t": since, "event": "fault", "kind": "vm.stop", "id": 9, "pid": pid},
                      {"t": until, "event": "healed", "kind": "vm.stop", "id": 9}]


def test_a_stopped_vm_may_begin_what_it_had_when_it_goes_on(folder):
    stop(folder, 11, 0.3, 2.0)
    folder.attempt(11, 4, 2.1, 2.2)  # recorded by 0.46
    assert folder.failed() == []


def test_another_vm_may_not(folder):
    stop(folder, 11, 0.3, 2.0)
    folder.attempt(12, 4, 2.1, 2.2)
    assert folder.failed() == [AGAIN]


def test_and_neither_may_it_much_later(folder):
    stop(folder, 11, 0.3, 2.0)
    folder.attempt(11, 4, 2.1 + checker.AWAKE_SECONDS, 5.0)
    assert folder.failed() == [AGAIN]


def test_nor_what_was_recorded_before_it_was_stopped(folder):
    stop(folder, 11, 1.3, 1.8)
    folder.attempt(11, 0, 1.9, 2.0)
    assert folder.failed() == [AGAIN]


# --- the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status, is_done, fails", [(1, False, False), (0, True, False),
                                                    (0, False, True), (-9, False, True)])
def test_of_two_resumes_one_is_refused(folder, status, is_done, fails):
    folder.events += [{"t": 1.0, "event": "fault", "kind": "initiator.twice", "id": 3, "pid": 6,
                       "detail": "while it runs"},
                      {"t": 1.1, "event": "rivals", "id": 3, "status": status, "is_done": is_done}]
    assert folder.failed() == (["one of two resumes is refused"] if fails else [])


def test_one_of_two_that_dies_as_planned_had_the_job(folder):
    folder.events += [{"t": 1.0, "event": "fault", "kind": "initiator.twice", "id": 3, "pid": 6,
                       "detail": "while it runs"},
                      {"t": 1.1, "event": "rivals", "id": 3, "status": -9, "is_done": False,
                       "is_ended": True}]
    assert folder.failed() == []


def test_nobody_was_refused(folder):
    folder.events.append({"t": 1.0, "event": "fault", "kind": "initiator.twice", "id": 3, "pid": 6,
                          "detail": "while it runs"})
    assert folder.failed() == ["one of two resumes is refused"]


@pytest.mark.parametrize("status, is_disk_bad, fails", [(75, False, False), (-15, False, False),
                                                        (1, False, True), (1, True, False)])
def test_a_program_that_is_sent_sigterm_ends_in_order(folder, status, is_disk_bad, fails):
    folder.events += [{"t": 1.0, "event": "fault", "kind": "initiator.term", "id": 3, "pid": 8,
                       "detail": "SIGTERM"},
                      {"t": 1.05, "event": "program", "what": "end", "pid": 8, "status": status,
                       "number": 0},
                      {"t": 1.06, "event": "program", "what": "resume", "pid": 7, "status": None,
                       "number": 1}]
    if is_disk_bad:
        folder.events.append({"t": 0.9, "event": "fault", "kind": "disk.full", "id": 4, "pid": 6,
                              "detail": ""})
    assert folder.failed() == (["SIGTERM ends the program in order"] if fails else [])


def late(folder, t):
    folder.events[-1]["t"] = t


def test_nothing_happens_for_long(folder):
    late(folder, 30.0)
    assert folder.failed() == ["work goes on where it can"]


def test_what_is_given_once_more_is_progress(folder):
    late(folder, 30.0)
    for at in range(2, 30, 4):
        line = folder.outputs[1][folder.line(0)].rpartition(" ")[0]
        folder.outputs.append(["S steady-0 10", f"{line} {ns(float(at))}"])
    assert "work goes on where it can" not in folder.failed()


def test_while_a_fault_is_there_that_is_no_fault_of_ours(folder):
    late(folder, 30.0)
    stop(folder, 11, 1.0, 26.0)
    assert folder.failed() == []


def test_the_job_ends_too_late(folder):
    late(folder, LIMIT + 1)
    stop(folder, 11, 1.0, LIMIT)
    assert folder.failed() == ["the job ends in time"]


def test_times_are_measured(folder):
    """Element 7 is lost with VM 11 at 1.21 and begins on the other one 30 ms later."""
    folder.attempt(11, 7, 1.2, None)
    folder.notes[12] = [line.replace(f" 7 12 {ns(1.2)}", f" 7 12 {ns(1.24)}")
                        for line in folder.notes[12]]
    folder.outputs[1] = [line.replace(f" 12 {ns(1.2)} ", f" 12 {ns(1.24)} ")
                         for line in folder.outputs[1]]
    folder.values[7] = (*folder.values[7][:3], ns(1.24))
    folder.events.append({"t": 1.21, "event": "fault", "kind": "vm.kill", "id": 2, "pid": 11})
    assert folder.failed() == []
    assert folder.totals["detection_ms"] == {"median": 30.0, "p99": 30.0, "count": 1}
    assert folder.totals["recovery_ms"] == {"median": 50.0, "p99": 50.0, "count": 1}
    # 10 ms of what was 8 times 50 ms, less 40 ms; element 5's first attempt has no known end.
    assert 0 < folder.totals["wasted_percent"] < 60


# --- leftovers -----------------------------------------------------------------------------------


def found(check, *arguments):
    checks = checker.Checks()
    check(*arguments, checks)
    return [it["name"] for it in checks.done if not it["ok"]]


def test_a_process_is_left(tmp_path):
    process = subprocess.Popen(["sleep", "60"], env={"CHAOS_RUN": str(tmp_path)},
                               executable="/bin/sleep")
    try:
        left = leftovers.wait_processes(tmp_path, 0.05)
        assert list(left) == [process.pid]
        assert found(leftovers.check_processes, left) == ["no process is left"]
    finally:
        process.kill()
        process.wait()
    assert leftovers.wait_processes(tmp_path) == {}


def test_a_socket_is_left(tmp_path):
    assert found(leftovers.check_sockets, [tmp_path]) == []
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(os.path.relpath(tmp_path / "s"))
    assert found(leftovers.check_sockets, [tmp_path]) == ["no socket is left"]


def test_shared_memory_and_descriptors_are_left():
    before = leftovers.shared_memory()
    assert found(leftovers.check_own, before, (5, 5)) == []
    assert found(leftovers.check_own, before, (5, 6)) == ["no descriptor is left"]
    path = leftovers.SHARED_MEMORY / f"trickle-test-{os.getpid()}"
    path.touch()
    try:
        assert found(leftovers.check_own, before, (5, 5)) == ["no shared memory is left"]
    finally:
        path.unlink()


@pytest.mark.parametrize("memory, descriptors, fails", [
    (lambda at: 50 << 20, lambda at: 20, False),
    (lambda at: (50 << 20) + at * (1 << 18), lambda at: 20, True),
    (lambda at: 50 << 20, lambda at: 20 + at // 8, True),
    (lambda at: (300 if at % 10 == 0 else 50) << 20, lambda at: 20, False),  # large results
])
def test_memory_and_descriptors_that_grow(memory, descriptors, fails):
    samples = [{"t": at / 2, "processes": [["initiator", 5, memory(at), descriptors(at)]]}
               for at in range(400)]
    assert bool(found(leftovers.check_growth, samples)) == fails
