# SPDX-License-Identifier: MIT
"""A look at a job from outside: what its store holds, who runs it, and what that one answers.

A program loads this only when it finds old jobs to remove; the commands of jobs.py are made of it.
"""
from __future__ import annotations

import os

from . import _trickle
from ._job import EXIT_STOPPED, TROUBLE, find_fsck

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ASK_SECONDS = 1.0


class Look:
    """A job as it is now."""

    def __init__(self, name: str) -> None:
        find_fsck()
        self.name = name
        self.view = _trickle.View(name)
        self.info = self.view.info()
        readable = self.info["has_store"]
        self.run: dict[str, Any] = self._note("run") if readable else {}
        self.end: dict[str, Any] = self._note("end") if readable else {}
        self.all_stages = self.view.stages() if readable else []
        self.stages = [stage for stage in self.all_stages if not stage["replaced_by"]]
        self.failed = sum(stage["failed"] for stage in self.stages)
        self.recorded = sum(stage["recorded"] for stage in self.stages)
        self.added = sum(stage["added"] for stage in self.stages)
        self.is_closed = all(stage["is_closed"] for stage in self.stages)

    def _note(self, name: str) -> dict[str, Any]:
        data = self.view.note(_trickle.NOTE_JOB, name)
        if data is None:
            return {}
        import json
        note = json.loads(data)
        return note if isinstance(note, dict) else {}

    @property
    def state(self) -> str:
        if self.info["is_running"]:
            return "running"
        if self.info["is_damaged"]:
            return "damaged"
        if self.end.get("epoch") != self.info["epoch"]:
            return "stopped"  # its last run did not get so far as to say how it ended
        status = self.end.get("status")
        if status is None:  # a program that ended in order, outside of the command
            return "done" if self.is_closed and self.recorded >= self.added else "stopped"
        return {0: "done", EXIT_STOPPED: "stopped"}.get(status, "failed")

    @property
    def is_program(self) -> bool:
        """Of a program that is not Python's (job.h), whose results are just bytes."""
        return self.run.get("kind") == "program"

    @property
    def is_real(self) -> bool:
        """Else it is a directory where nothing has begun yet."""
        return self.info["has_store"] or self.info["is_running"] or self.info["is_damaged"]

    def holder(self) -> str:
        host = self.info["host"]
        where = f" on {host}" if host and host != os.uname().nodename else ""
        since = f" since {self.info['since']}" if self.info["since"] else ""
        return f"process {self.info['pid']}{where}{since}"

    def ask(self, verb: str, argument: str = "") -> Any:
        """The answer of the program that runs it, decoded; None: it has none."""
        if not self.info["is_running"]:
            return None
        try:
            answer = self.view.ask(verb, argument, ASK_SECONDS)
        except TROUBLE:
            return None
        if answer is None or verb == "cancel":
            return answer
        import json
        return json.loads(answer.decode("utf-8", "replace"))

    def facts(self) -> dict[str, Any]:
        """What is printed as JSON."""
        info = self.info
        return {
            "name": self.name, "state": self.state, "pid": info["pid"] or None,
            "host": info["host"] or None, "since": info["since"] or None, "runs": info["epoch"],
            "program": self.run.get("program"), "argv": self.run.get("argv"),
            "started": self.run.get("first_started"), "ended": self.end.get("ended"),
            "exit_status": self.end.get("status") if self.state in ("done", "failed") else None,
            "added": self.added, "is_closed": self.is_closed, "recorded": self.recorded,
            "failed": self.failed, "bytes": info["bytes"], "uuid": info["uuid"].hex(),
            "directory": info["dir"], "text": info["text"]}

    def stage(self, wanted: str | None) -> dict[str, Any]:
        """The one that is meant; LookupError says what there is."""
        names = ", ".join(f"{s['number']} ({s['name']})" for s in self.stages)
        if not self.stages:
            raise LookupError(f"the job {self.name} has recorded no work yet")
        if wanted is None:
            if len(self.stages) > 1:
                raise LookupError(f"the job {self.name} has several works; say --stage and one of "
                                 f"{names}")
            return self.stages[0]
        found = [s for s in self.stages if wanted in (str(s["number"]), s["key"])] or [
            s for s in self.stages if s["name"] == wanted]
        if len(found) != 1:
            many = "several works" if found else "no work"
            raise LookupError(f"the job {self.name} has {many} {wanted!r}; it has {names}")
        return found[0]

    def remove(self) -> bool:
        """With what VMs on this machine still hold for it."""
        self.view.close()
        is_removed = _trickle.job_remove(self.name)
        if is_removed and any(self.info["uuid"]):
            import shutil
            held = f"{_trickle.job_home()[0]}/held/{self.info['uuid'].hex()}"
            shutil.rmtree(held, ignore_errors=True)
        return is_removed
