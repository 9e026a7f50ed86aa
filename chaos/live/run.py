# SPDX-License-Identifier: MIT
"""Carries a plan out: starts what is due, takes back what is over, starts the program again, and
notes all of it in events.jsonl and samples.jsonl. Judges nothing."""
import json
import os
import signal
import subprocess
import time

from live import faults, machine

TICK_SECONDS = 0.003
LOOK_SECONDS = 0.05      # between looks at which VMs there are
SAMPLE_SECONDS = 0.5     # between samples of memory and descriptors
RECORDED_SECONDS = 6.0   # between looks at what is recorded, at least
RETRY_SECONDS = 0.02     # a fault that could not be done is tried again
CHOSEN = 1_000_000       # ids of kills at chosen instants, which are no items of the plan
PAGE = os.sysconf("SC_PAGE_SIZE")


class Ended(Exception):
    """The run is over, with a sentence; "" when the program has ended well."""


class Progress:
    """How many elements have ended, from what they note themselves."""

    def __init__(self, folder):
        self.folder = folder / "attempts"
        self.sizes = {}
        self.ended = 0

    def look(self):
        for entry in os.scandir(self.folder):
            seen = self.sizes.get(entry.name, 0)
            if entry.stat().st_size > seen:
                with open(entry.path, "rb") as file:
                    file.seek(seen)
                    data = file.read()
                data = data[:data.rfind(b"\n") + 1]
                self.ended += data.count(b"\nE") + data.startswith(b"E")
                self.sizes[entry.name] = seen + len(data)
        return self.ended


class Run:
    def __init__(self, world, plan, elements, limit):
        """elements: how many there are in all, for a plan that counts them. limit: seconds."""
        self.world, self.limit, self.elements = world, limit, elements
        self.classes = faults.all_kinds()[0]
        self.waiting = list(plan)
        self.pending = []   # faults that were prepared and have not happened yet
        self.active = []    # (end, fault)
        self.progress = Progress(world.dir)
        self.pids = {}      # pid of a VM: (machine's name, index)
        self.due = {"look": 0.0, "sample": 0.0, "recorded": RECORDED_SECONDS}
        self.sampler = None  # the process that asks for what is recorded
        self.samplers = 0    # how often that was asked
        self.unreadable = set()  # pids of programs whose store cannot be read in part
        self.chosen = 0      # how often the program was killed at a chosen instant
        self.unready = {}   # id: when to try again
        self.samples = open(world.dir / "samples.jsonl", "ab", buffering=0)

    def go(self):
        """Until the program has ended well and nothing is active; a sentence says why not."""
        try:
            self.world.start_program()
            while True:
                self.turn()
                time.sleep(TICK_SECONDS)
        except Ended as ended:
            return str(ended)
        finally:
            self.samples.close()

    def turn(self):
        now = self.world.now()
        if now > self.limit:
            raise Ended(f"the job has not ended after {self.limit:.0f} s")
        self.look(now)
        self.happen()
        for end, fault in sorted(self.active, key=lambda it: it[0]):
            if end <= now:
                self.heal(fault, (end, fault))
        self.begin(now)
        self.look_at_rivals()
        self.look_at_program()

    # --- faults -------------------------------------------------------------------------------

    def is_due(self, item, now):
        if "after" in item:
            return self.progress.ended >= item["after"] * self.elements
        return item["at"] <= now

    def begin(self, now):
        for item in list(self.waiting):
            if not self.is_due(item, now):
                break
            if self.unready.get(item["id"], 0) > now:
                continue
            fault = self.classes[item["kind"]](item)
            at = self.world.now()
            event = fault.start(self.world)
            if event is None:
                self.unready[item["id"]] = now + RETRY_SECONDS
                continue
            self.waiting.remove(item)
            entry = (self.world.now() + item["seconds"], fault)
            self.active.append(entry)
            if hasattr(fault, "poll"):
                self.pending.append(fault)
            else:
                self.emit_fault(fault, at, event)
            if item["seconds"] == 0:
                self.heal(fault, entry)

    def emit_fault(self, fault, at, event):
        item = fault.item
        until = at + item["seconds"] if item["seconds"] and not hasattr(fault, "poll") else None
        self.world.emit({"t": round(at, 6), "event": "fault", "id": item["id"],
                         "kind": item["kind"],
                         "until": until and round(until, 6), **event})
        if item["kind"] == "disk.damage":
            self.world.is_damaged = True
        if item["kind"] == "disk.read_error":
            self.unreadable.add(event["pid"])
        if item["kind"].startswith("initiator"):
            self.due["recorded"] = 0.0

    def happen(self):
        """Prepared faults that have happened meanwhile."""
        for fault in list(self.pending):
            event = fault.poll(self.world)
            if event is not None:
                self.pending.remove(fault)
                self.emit_fault(fault, self.world.now(), event)

    def heal(self, fault, entry):
        self.active.remove(entry)
        fault.stop(self.world)
        if fault in self.pending:
            self.happen()
        if fault in self.pending:
            self.pending.remove(fault)  # it never happened
        elif not hasattr(fault, "poll"):
            self.world.emit({"event": "healed", "id": fault.item["id"],
                             "kind": fault.item["kind"]})

    def heal_all(self):
        for entry in list(self.active):
            self.heal(entry[1], entry)

    # --- the program ----------------------------------------------------------------------------

    def look_at_program(self):
        program = self.world.program
        if program.is_noted or program.process.poll() is None or any(
                rival[1] is program for rival in self.world.rivals):
            return
        program.is_noted = True
        status = program.process.returncode
        self.world.emit({"event": "program", "what": "end", "pid": program.pid, "status": status,
                         "number": program.number})
        if program.is_counted and status != 0:
            return  # we ended it, and it goes on when that is taken back
        if self.world.disk is not None and self.world.disk.excuses(program):
            return  # it goes on when its disk does
        if program.pid in self.unreadable and status in (-signal.SIGSEGV, -signal.SIGBUS):
            self.world.start_program()  # a page that it had not looked at for a while
            return
        if status == -signal.SIGKILL and program.crash:
            self.chosen += 1
            self.world.emit({"event": "fault", "id": CHOSEN + self.chosen, "kind":
                             "initiator.kill", "machine": self.world.machines[0].name, "vm": None,
                             "pid": program.pid, "until": None, "detail": program.crash})
            self.world.start_program()
            return
        if status == 2 and program.what == "resume":  # killed before it had noted how it is run
            self.world.start_program(is_new=True)
            return
        if status != 0:
            raise Ended(f"the program ended with status {status}: see "
                        f"logs/program-{program.number}.log")
        self.heal_all()
        raise Ended("")

    def look_at_rivals(self):
        """Of two that want to run the job one goes on, whichever: it is the program from then on.
        The other one has been refused, or found the job done."""
        for rival in list(self.world.rivals):
            number, program, other = rival
            if program.process.poll() is None and other.poll() is None:
                continue
            self.world.rivals.remove(rival)
            is_ended = program.crash is not None or program.pid in self.unreadable
            if other.poll() in (None, 0) and program.process.poll() not in (None, 0):
                other = self.swap(number, program, other)
            elif other.poll() is None:
                other.wait()  # the program has done the job, which it is about to find
            # One that dies at the instant that it was given was not refused, but had the job.
            self.world.emit({"event": "rivals", "id": number, "status": other.returncode,
                             "is_done": program.process.poll() == 0,
                             "is_ended": is_ended and other.returncode < 0})

    def swap(self, number, program, other):
        """The other one is the next run of the program; the one that was refused."""
        refused, program.process, program.crash = program.process, other, None
        self.world.emit({"event": "program", "what": "end", "pid": refused.pid,
                         "status": refused.returncode, "number": program.number})
        program.number = self.world.runs
        self.world.runs += 1
        for name in ("output/{}.out", "logs/{}.log"):
            os.replace(self.world.dir / name.format(f"twice-{number}"),
                       self.world.dir / name.format(f"program-{program.number}"))
        self.world.emit({"event": "program", "what": "resume", "pid": other.pid, "status": None,
                         "number": program.number})
        return refused

    # --- looking --------------------------------------------------------------------------------

    def look(self, now):
        if now >= self.due["look"]:
            self.due["look"] = now + LOOK_SECONDS
            self.progress.look()
            self.look_at_vms()
        if now >= self.due["sample"]:
            self.due["sample"] = now + SAMPLE_SECONDS
            self.sample(now)
        if self.sampler is not None and self.sampler.poll() is not None:
            self.sampler = None
            self.world.emit({"event": "recorded", "number": self.samplers})
        if now >= self.due["recorded"] and self.sampler is None and self.world.has_job():
            self.due["recorded"] = now + RECORDED_SECONDS
            self.look_at_recorded()

    def look_at_vms(self):
        there = {}
        for own, index, pid, _ in self.world.all_vms():
            there[pid] = (own.name, index)
        for pid, (name, index) in there.items():
            if pid not in self.pids:
                self.world.emit({"event": "vm", "what": "start", "machine": name, "vm": index,
                                 "pid": pid})
        for pid, (name, index) in self.pids.items():
            if pid not in there:
                self.world.emit({"event": "vm", "what": "end", "machine": name, "vm": index,
                                 "pid": pid})
        self.pids = there
        for own in self.world.machines:
            for supervisor in list(own.supervisors):
                if not supervisor.is_alive:
                    own.forget(supervisor)

    def sample(self, now):
        """Memory and descriptors of each process."""
        who = [("supervisor", supervisor.pid) for own in self.world.machines
               for supervisor in own.supervisors]
        who += [("vm", pid) for pid in self.pids]
        if self.world.program.is_alive:
            who.append(("initiator", self.world.program.pid))
        rows = []
        for what, pid in who:
            statm = machine.read_file(f"/proc/{pid}/statm").split()
            try:
                count = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue
            if statm:
                rows.append([what, pid, (int(statm[1]) - int(statm[2])) * PAGE, count])
        self.samples.write(json.dumps({"t": round(now, 3), "processes": rows}).encode() + b"\n")

    def look_at_recorded(self):
        """What is recorded by now: asked for from outside, and read by the checker. What it says
        was true when the process ended."""
        stage = self.newest_stage()
        if stage is None or stage.startswith(("sizes", "words")):
            return
        self.samplers += 1
        self.sampler = self.world.machines[0].popen(
            [self.world.build / "trickle", "results", "--stage", stage, "--pickle",
             self.world.dir / f"recorded/{self.samplers}-{stage}", machine.JOB],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.world.beside.append(self.sampler)

    def newest_stage(self):
        """The last one that a run of the program has begun."""
        try:
            with open(self.world.dir / f"output/program-{self.world.program.number}.out",
                      "rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
                lines = file.read().split(b"\n")[1:]
        except OSError:
            return None
        found = [words[1].decode() for line in lines
                 if len(words := line.split()) > 2 and words[0] in (b"S", b"R")]
        return found[-1] if found else None
