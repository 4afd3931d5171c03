"""The private keys of a group, to be looked for where they should not be."""

from __future__ import annotations

import re
from pathlib import Path

from pgherd.shell import Secret

_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)-----END", re.DOTALL)
_TELLING = 40  # characters: a shorter line of base64 may stand anywhere


def private_keys(directory: Path) -> dict[str, Secret]:
    """Return the lines of the keys in a directory's files, by the file's name; make nothing.

    What cannot be read is left out: whoever uses it says so.
    """
    found: dict[str, Secret] = {}
    for path in sorted([*directory.glob("*.pem"), *directory.glob("*.key")]):
        try:
            text = path.read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        lines = [line for block in _BLOCK.findall(text) for line in block.splitlines()]
        if telling := [line for line in lines if len(line) >= _TELLING]:
            found[path.name] = Secret("\n".join(telling), str(path))
    return found
