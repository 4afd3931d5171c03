"""The secrets that are looked for, in the forms that files, logs and commands have them in."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from pgherd.shell import Script, Secret

LEAST = 8  # characters; a shorter password stands in too many places by chance
COMMON = frozenset({"password", "passw0rd", "postgres", "postgresql", "replicator", "12345678"})

COMING = frozenset({"ca.coming.pem", "ca.trusted.pem"})  # of the authority that is to be


@dataclass(frozen=True)
class Sought:
    """One secret of the group.

    Attributes:
        label: a word for it in scripts, of lower case letters and `_`.
        name: what it is, for people.
        secret: its value, and the file that holds it.
        places: where it belongs in a node's container; of a key, the node is said before a colon.
    """

    label: str
    name: str
    secret: Secret
    places: tuple[str, ...] = ()

    @property
    def weak(self) -> bool:
        """Whether it is too common to be looked for, or to be a password."""
        value = self.secret.value
        return len(value) < LEAST or value.lower() in COMMON

    @property
    def anew(self) -> str:
        """How it is made worthless."""
        if not self.label.startswith("key_"):
            return "`invoke rotate-passwords` makes it worthless"
        if self.secret.path.rpartition("/")[2] in COMING:  # another authority is on its way
            return "`invoke tls --renew-ca` until it is the only one, then twice more, replaces it"
        if self.secret.path.endswith(".key"):
            return "`invoke tls --renew-ca` replaces it"
        return "`invoke tls --renew` replaces it"

    def belongs(self, node: str, path: str) -> bool:
        """Tell whether a file of a node's container is where it has to be."""
        return path in self.places or f"{node}:{path}" in self.places

    @property
    def forms(self) -> tuple[str, ...]:
        """How it may be written: as it is, escaped or doubled for a format, as base64.

        A key has more lines than one, of which each is looked for.
        """
        value = self.secret.value
        if "\n" in value:  # a key, of lines of base64
            return tuple(value.splitlines())
        found = [
            value,
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            re.sub(r"([\\'])", r"\\\1", value),  # a connection string
            re.sub(r"([\\:])", r"\\\1", value),  # a passfile
            value.replace("'", "''"),  # SQL
            value.replace("\\", "\\\\").replace("'", "''"),  # postgresql.conf
            value.replace("'", "'\\''"),  # a shell
            shlex.quote(value).removeprefix("'").removesuffix("'"),
            quote(value, safe=""),
            base64.b64encode(value.encode()).decode().rstrip("="),
        ]
        return tuple(dict.fromkeys(found))


def assigned(sought: list[Sought]) -> Script:
    """Return shell text that sets $labels, and $secret_LABEL to the forms of each secret."""
    script = Script((f"labels='{' '.join(s.label for s in sought)}'\n",))
    for one in sought:
        start = f"secret_{one.label}=$(cat <<'|END-OF-SECRET|'\n"
        forms = Secret("\n".join(one.forms), one.secret.path)
        script += Script((start, forms, "|END-OF-SECRET|\n)\n"))
    return script


def strings(value: object, path: str = "") -> list[tuple[str, str]]:
    """Return all texts within a JSON value, with where each is: `Config.Env[2]`; keys count."""
    if isinstance(value, str):
        return [(path, value)]
    if isinstance(value, Mapping):
        found = [(f"{path}.{key}".lstrip("."), str(key)) for key in value]
        inner = [strings(v, f"{path}.{key}".lstrip(".")) for key, v in value.items()]
    elif isinstance(value, list):
        found, inner = [], [strings(v, f"{path}[{n}]") for n, v in enumerate(value)]
    else:
        return []
    return found + [pair for pairs in inner for pair in pairs]


def held(sought: Sought, text: str) -> bool:
    """Tell whether a text has a secret in it."""
    return any(form in text for form in sought.forms)
