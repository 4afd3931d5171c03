"""What a script in a container ended with."""

from __future__ import annotations

from pgherd.errors import Error, room_wanted
from pgherd.shell import Result


class ScriptFailed(Error):
    """A script in a container ended with an exit code that its step may know."""

    def __init__(self, node: str, result: Result, data: str = "") -> None:
        cure = room_wanted(result.host, result.err, data)
        super().__init__(f"{cure}On {node}: {result.complaint()}")
        self.exit_code = result.code
        self.said = result.err.strip().splitlines()[-1] if result.err.strip() else ""
