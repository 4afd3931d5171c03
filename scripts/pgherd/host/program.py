"""The programs of this machine: nothing else of pgherd starts a process."""

from __future__ import annotations

import subprocess
from typing import Any, cast

from plumbum import CommandNotFound, local
from plumbum.machines.local import LocalCommand

from pgherd.errors import Unreachable

Program = subprocess.Popen[bytes]
ACT = "PGHERD_ACT"
PIPE, NO_STREAM = subprocess.PIPE, subprocess.DEVNULL


def start_program(argv: list[str], act: str = "", **streams: Any) -> Program:
    """Start a program that this machine's PATH has.

    One that changes something has the name of that `act` in its environment.

    Raises:
        Unreachable: it is not there.
    """
    environment = {ACT: act} if act else None  # beside this process's own
    try:
        command = LocalCommand(local.which(argv[0]), "utf-8")
        started = command.popen(argv[1:], env=environment, **streams)
        return cast("Program", started)  # what Plumbum hands on, with additions
    except CommandNotFound:
        raise Unreachable(
            f"The program '{argv[0]}' is not on this machine's PATH; "
            "./scripts/bootstrap installs what is missing on Debian and Ubuntu."
        ) from None


def ended_within(program: Program, seconds: float) -> bool:
    """Wait so long for a program's end; tell whether it came."""
    try:
        program.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
