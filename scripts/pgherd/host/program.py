"""The programs of this machine: nothing else of pgherd starts a process."""

from __future__ import annotations

import subprocess
from typing import Any, cast

from plumbum import CommandNotFound, local
from plumbum.machines.local import LocalCommand

from pgherd.errors import Unreachable

Program = subprocess.Popen[bytes]
PIPE, NO_STREAM = subprocess.PIPE, subprocess.DEVNULL


def start_program(argv: list[str], **streams: Any) -> Program:
    """Start a program that this machine's PATH has.

    Raises:
        Unreachable: it is not there.
    """
    try:
        started = LocalCommand(local.which(argv[0]), "utf-8").popen(argv[1:], **streams)
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
