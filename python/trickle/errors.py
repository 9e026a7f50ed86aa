# SPDX-License-Identifier: MIT
"""What can go wrong, by name.

TrickleError is the base of all of them, so `except trickle.TrickleError` catches what Trickle
itself has to say. Exceptions of your own code that ran on a VM are not among them: they arrive
with their own type.
"""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._attempts import Attempt

__all__ = ["TrickleError", "VMLost", "NotEnoughVMs", "WorkFailed", "ResumeMismatch", "RemoteError",
           "Moved"]


class TrickleError(Exception):
    """Something that Trickle was asked for could not be done; the text says what to do next."""


class VMLost(TrickleError):
    """The VM behind a handle or proxy is gone: its process ended, or it can no longer be
    reached. A restarted VM is a new handle; what lived on the old one is gone with it."""


class Elsewhere(VMLost):
    """Within Trickle: what was asked for is on its way to another VM, or there already. Who asks
    by a proxy asks again."""


class Moved(BaseException):
    """Raised in an element by trickle.checkpoint(): the state is saved, and this VM is about to
    leave. Let it pass: the element goes on from that state on another VM, without blame, and
    without using up a retry. It is no Exception, so that `except Exception` lets it pass."""


class NotEnoughVMs(TrickleError):
    """connect() found no VM, or fewer than asked for."""


class WorkFailed(TrickleError):
    """An element of forkwork or forkgen failed; str() tells the whole story.

    With on_error="return" it takes the place of the element's result. It is raised when an element
    failed without an exception of its own: because it ended its VMs or used up its time, or because
    its result was too large.

    index      of the element (with a chunksize: of the chunk)
    reason     a sentence
    exception  what the function raised in its last run, or None
    attempts   a list of all its runs: attempt, outcome ("exception", "died", "timeout", "memory",
               "oom", "lost"), host, index and pid of the VM, started, duration, signal,
               exit_status, rss, output
    """

    def __init__(self, reason: str, index: int = -1, exception: BaseException | None = None,
                 attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(reason, index, exception, list(attempts))
        self.reason = reason
        self.index = index
        self.exception = exception
        self.attempts: list[Attempt] = self.args[3]

    def __str__(self) -> str:
        if not self.attempts:
            return self.reason
        from ._attempts import story
        return "\n".join([self.reason, *story(self.attempts)])

    def __repr__(self) -> str:
        return f"WorkFailed({self.reason!r}, index={self.index}, attempts={len(self.attempts)})"


class ResumeMismatch(TrickleError):
    """The program or its work is not what this job has recorded; str() says what differs.

    Raised by forkwork, forkgen and Results of a job that goes on, before anything runs. What was
    recorded stays. `trickle resume --on-change=keep` (or trickle.job(..., on_change="keep")) takes
    the results of equal elements whatever code made them, "redo" runs stages again whose code has
    changed.
    """


class RemoteError(TrickleError):
    """An exception raised on a VM whose own type this program cannot have here.

    Each such type becomes a subclass of RemoteError with the name and module it has on the VM,
    and with those of its base classes that are known here, so that `except ValueError` still
    catches a remote subclass of ValueError. SystemExit and its like become a RemoteError too:
    code on a VM does not end this program.
    """

    remote_text: str = ""

    def __str__(self) -> str:
        return self.remote_text or super().__str__()
