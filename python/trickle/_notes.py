# SPDX-License-Identifier: MIT
"""TRICKLE_NOTES=PREFIX: a VM notes each element that it runs, in the file PREFIX-PID.log.

    B STAGE INDEX PID NS     it begins, at so many ns of the monotonic clock
    E STAGE INDEX PID NS     it has ended with a result
    X STAGE INDEX PID NS     it has raised something

A line is one write, so it is there whatever becomes of the process a moment later. `trickle chaos`
draws its pictures from these.
"""
from __future__ import annotations

import os
from time import monotonic_ns

from . import _trickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def noted(function: Callable[[Any], Any], prefix: str, stage: str) -> Callable[[Any], Any]:
    """The function of a work, with its notes."""
    pid = os.getpid()
    name = "_".join(stage.split()) or "_"
    fd = os.open(f"{prefix}-{pid}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
                 0o600)

    def write(what: str) -> None:
        here = _trickle.element()
        if here is not None and os.getpid() == pid:
            os.write(fd, f"{what} {name} {here[1]} {pid} {monotonic_ns()}\n".encode())

    def call(argument: Any) -> Any:
        write("B")
        try:
            result = function(argument)
        except BaseException:
            write("X")
            raise
        write("E")
        return result
    return call
