# SPDX-License-Identifier: MIT
"""The C extension under the trickle package: a thin skin over include/trickle/.

Payloads are bytes; those of work elements and results are pickles. Every method that waits
releases the GIL, looks at signals (KeyboardInterrupt comes out of it) and, when given
`timeout`, takes seconds (None: no limit). Errors of the C API raise TrickleError subclasses
set by `set_exceptions`. After fork, everything raises RuntimeError("... used after fork ...").
"""
from collections.abc import Callable, Iterator
from typing import Any

VERSION: str
OP_INJECT: int
OP_CALL: int
OP_GETATTR: int
OP_SETATTR: int
OP_DELETE: int
OP_FETCH: int
STATUS_OK: int
STATUS_EXCEPTION: int
STATUS_ERROR: int
NOTE_JOB: int
NOTE_ONCE: int
NOTE_TELEMETRY: int

class TrickleError(RuntimeError):
    """What is raised for classes that set_exceptions() was not given."""

def set_exceptions(table: dict[str, type[BaseException]]) -> None:
    """Which class to raise for which TRK_E* ("EVMLOST": VMLost, ...); "": for all others."""

def encode(obj: Any, dumps: Callable[[Any], bytes]) -> bytes:
    """A pickle of obj. Exact None/bool/int/float/str/bytes of moderate size, and short lists and
    tuples of them, are encoded here, in C, as canonical protocol-5 pickles without calling dumps;
    all else by dumps(obj)."""

def decode(data: Any, loads: Callable[[Any], Any]) -> Any:
    """The inverse: what encode's fast path wrote is decoded in C, all else by loads(memoryview)."""

class Farm:
    def __init__(self, *, program: str | None = None, runtime_dir: str | None = None,
                 lan: bool = False, insecure: bool = False, hosts: str | None = None,
                 multicast: str | None = None, dead_after_ms: int = 0,
                 suspect_after_ms: int = 0, job: Job | None = None,
                 listen: str | None = None) -> None: ...
    @property
    def listening(self) -> str | None:
        """"ADDR:PORT" where VMs can join, or None."""
    def connect(self, max: int = 0, need_all: bool = False, wait_ms: int = 0,
                timeout: float | None = None) -> VMList: ...
    def vms(self, timeout: float = 2.0) -> list[dict[str, Any]]:
        """trk_vm_info as dicts: incarnation, supervisor (bytes), index, state (str: "starting",
        "idle", "leased", "failing", "stopping", "lost", "finishing"), pid, cores, memory_bytes,
        dropped, host, module, version, owner, note, address."""
    def order(self, verb: str, pid: int, host: str | None = None, timeout: float = 5.0) -> str:
        """"drain" or "stop" to the supervisor of a VM; the sentence it answers. vms() comes first:
        it finds the supervisors."""
    def notice(self, timeout: float | None = 0.0) -> tuple[str, str, int, int, bytes] | None:
        """(kind, host, pid, index, text), kind one of "output", "vm_lost", "vm_joined",
        "vm_leaving", "message"; None: nothing within timeout. Raises EOFError when the farm is
        closed and none is left."""
    def work(self, name: str, function: bytes, *, list: VMList | None = None,
             vms: list[VM] | None = None, ordered: bool = False, ahead_elements: int = 0,
             ahead_bytes: int = 0, retries: int = 0, retry_after_ms: int = 0,
             timeout_ms: int = 0, speculate: bool = False, lazy: bool = False,
             key: str | None = None, fingerprint: bytes | None = None,
             keep_elements: bool = False) -> Work:
        """keep_elements: a work with a key records the elements themselves: Job.elements()."""
    def inject(self, target: VMList | VM, name: str, payload: bytes) -> list[Call]: ...
    def close(self, timeout: float = 1.0) -> None: ...

class VMList:
    """One connect(): see trk_vmlist. Not a sequence of the user's: trickle.VMList wraps it."""
    def refresh(self) -> int: ...
    def __len__(self) -> int: ...
    def get(self, i: int) -> VM:
        """The same incarnation gives the same VM object as long as that object lives."""
    def close(self) -> None: ...

class VM:
    is_lost: bool
    lost_reason: str
    def info(self) -> dict[str, Any]: ...
    def request(self, op: int, object: int, name: str, payload: Any, reply: bool = True,
                ) -> Call | None:
        """payload: bytes-like, copied."""

class Call:
    """Its buffer (memoryview(call)) is the reply's payload once it has been waited for."""
    is_done: bool
    def wait(self, timeout: float | None = None) -> int | None:
        """The status (STATUS_*), or None when timeout passed."""

def wait_any(calls: list[Call], timeout: float | None = None) -> int | None: ...

class Work:
    """trk_work with the hot loops in C."""
    def feed(self, iterator: Iterator[Any], chunksize: int | None,
             dumps: Callable[[Any], bytes], limit: int = ..., leave_open: bool = False) -> bool:
        """Pulls elements (chunksize None) or lists of up to chunksize elements, encodes and adds
        them until the window is full or limit were added. True: the iterator is exhausted (the
        work is then closed, as close(leave_open) does). An exception of the iterator or of dumps
        comes out after the elements pulled before it were added; a chunk under way is kept for the
        next feed."""
    def turn(self) -> int: ...
    def next(self, timeout: float | None, loads: Callable[[Any], Any],
             ) -> tuple[int, int, Any, int] | None:
        """(index, status, value, attempts); value is decoded when status is STATUS_OK, else bytes.
        None: timeout. Raises StopIteration at the end."""
    def collect(self, results: list[Any], loads: Callable[[Any], Any], timeout: float | None,
                ) -> tuple[int, int, bytes, int] | bool | None:
        """Takes all results that are ready (waits for one at most timeout): results[index] = value,
        growing the list. True: the end; None: more to come; a tuple: this result is not
        STATUS_OK (the caller decides, then calls again)."""
    def flush(self) -> None: ...
    def close(self, leave_open: bool = False) -> None:
        """leave_open: this run of the program adds no more, but that is not the end of the list."""
    def progress(self) -> dict[str, Any]:
        """added, done, failed, reissued, vms, is_closed."""
    def attempts(self, index: int) -> list[dict[str, Any]]:
        """All ended runs of an element that are still known: attempt, outcome (str: "done",
        "exception", "died", "timeout", "memory", "oom", "lost"), host, index, pid, started_ms,
        duration_ns, signal, exit_status, rss_max_bytes, output (bytes; of an exception: the
        payload as dump_exception made it, its last 4 KiB). Any thread."""
    def cancel(self, interrupt: bool = False) -> None: ...

class Job:
    """A durable job, open in this process: trk_job. Close the farm that uses it before it."""
    def __init__(self, name: str, *, home: str | None = None, must_be_new: bool = False,
                 must_exist: bool = False, on_change: str = "refuse",
                 retry_failed: bool = False) -> None: ...
    def opened(self) -> dict[str, Any]:
        """What opening found: is_new, epoch, uuid (bytes), dir, text (sentences for a person)."""
    def put(self, kind: int, name: str, value: Any, wait: bool = True) -> None:
        """kind: NOTE_*, value: bytes-like. With wait it returns when that is durable, however long
        the disk is full; signals are looked at."""
    def get(self, kind: int, name: str) -> bytes | None: ...
    def stage_info(self, key: str) -> tuple[int, bool] | None:
        """(elements that are known, is the list closed) of the works of that key, or None."""
    def elements(self, key: str, start: int = 0) -> Iterator[bytes]:
        """The elements that a work of that key has kept, in order. LookupError: there was no such
        work; ENOTKEPT: the store does not have this one's bytes (the whole list is needed)."""
    def state(self) -> dict[str, Any]:
        """syncs, sync_ns, queued_bytes, is_paused, text."""
    def close(self) -> None: ...

class View:
    """A job from outside: trk_view. LookupError: there is none of that name."""
    def __init__(self, name: str, *, home: str | None = None) -> None: ...
    def info(self) -> dict[str, Any]:
        """dir, has_store, is_damaged, text, uuid (bytes), epoch, version, records, bytes,
        is_running, pid, host, since: as it is now."""
    def note(self, kind: int, name: str) -> bytes | None: ...
    def stages(self) -> list[dict[str, Any]]:
        """By number: number, key, name, added, is_closed, recorded, failed, bytes, replaced_by,
        previous."""
    def result(self, stage: int, index: int) -> tuple[int, int, int, bytes] | None:
        """(index, status, attempt, payload)."""
    def element(self, stage: int, index: int) -> bytes | None:
        """None: it is not known, or was not kept."""
    def results(self, stage: int, position: tuple[int, int] = (0, 0), recorded_order: bool = False,
                limit: int = 1000) -> tuple[list[tuple[int, int, int, bytes]], tuple[int, int]]:
        """The next results (up to limit, and about 1 MiB) and where to go on; none: no more yet."""
    def attempts(self, stage: int, index: int) -> list[dict[str, Any]]:
        """As Work.attempts, with epoch: which run of the program it was in."""
    def ask(self, verb: str, argument: str = "", timeout: float = 2.0) -> bytes | None:
        """The answer of the program that runs the job; None: nobody does."""
    def close(self) -> None: ...

def job_home() -> tuple[str, str]:
    """(directory that jobs are kept in, a sentence about it or "")."""

def job_names() -> list[str]: ...
def job_remove(name: str) -> bool:
    """False: there was none."""

def job_check(name: str) -> tuple[bool, str] | None:
    """(is_whole, sentence); None: there is no such job, or nothing in it."""

def serve(server: Any) -> None:
    """The VM side: trk_vm_serve with the python RAI module. Runs user code on the calling (main)
    thread. server has
      version: str
      request(op: int, object: int, name: str, payload: memoryview) -> tuple[int, bytes]
      moved: type[BaseException]   raised by checkpoint; from an element: it goes on elsewhere
      stage_open(function: memoryview) -> tuple[Callable[[Any], Any], Any]   the function, and what
                                   element() says of it; raises: the stage fails with it
      dumps(obj) -> bytes          result of an element
      loads(memoryview) -> Any     an element
      dump_exception(exc) -> bytes for anything raised by user code (also SystemExit)
    KeyboardInterrupt from an interrupt of the initiator is handled as an exception of the
    element."""

def is_forked() -> bool: ...

def key_path() -> str: ...

def key_do(what: str, secret: bool = False) -> tuple[list[str], str] | None:
    """what: "load", "new", "rotate" or "finish". (IDs of the keys, newest first, and their text
    or ""). None: there is no key file."""

def key_import(text: bytes, name: str, may_replace: bool) -> list[str]:
    """The IDs of the keys."""

def element() -> tuple[Any, int, int] | None:
    """(what its stage was opened with, index, attempt) of the element that runs in this process."""

def at_element_end(function: Callable[[bool], None]) -> bool:
    """Calls function(is_done) once, when the element that runs has its result or has failed. What
    it raises then is the element's failure. False: no element runs."""

def checkpoint(state: bytes) -> None:
    """Saves the state of the element that runs; waits until that is durable. Raises the server's
    `moved` when the VM is to leave."""

def restore() -> bytes | None:
    """What the element that runs has saved last."""
