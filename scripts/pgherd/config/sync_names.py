"""The value of ``synchronous_standby_names``: read, checked and written back.

>>> Sync.parse('any 1 (S1, "standby-2")').render()
'ANY 1 ("S1", "standby-2")'
"""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pgherd.errors import Refused, quoted

_Method = Literal["FIRST", "ANY"]
_Token = tuple[str, str]

WILDCARD = "*"

# The tokens of PostgreSQL's syncrep_scanner.l: bytes from 0x80 on count as letters there.
_TOKENS = re.compile(
    r"""(?P<space>[ \t\n\r\f\v]+)
      | "(?P<quoted>(?:[^"]|"")*)"
      | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z_\x80-\U0010ffff0-9$]*)
      | (?P<number>[0-9]+)
      | (?P<mark>[*,()])""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_COMMA, _OPEN, _CLOSE = ("mark", ","), ("mark", "("), ("mark", ")")
_KEYWORDS: tuple[_Method, ...] = ("FIRST", "ANY")
_GREATEST = 2**31 - 1  # PostgreSQL reads the number into a C int


class Sync(BaseModel):
    """Which standbys a commit waits for: the first or any `count` of `names`.

    It refuses a count greater than the number of different names, which PostgreSQL accepts and
    which would make every commit wait for ever. It does not know which standbys there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: _Method
    count: int = Field(ge=1, le=_GREATEST)
    names: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if reason := _hang(self.count, self.names):
            raise ValueError(reason)
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the whole grammar of PostgreSQL's syncrep_gram.y.

        Raises Refused for what PostgreSQL refuses, for the empty text (which means asynchronous
        there, and is no Sync here), and for a count that the names can never meet.
        """
        method, count, body = _head(_tokens(text))
        members, commas = body[::2], body[1::2]
        if len(body) % 2 == 0 or not all(map(_is_name, members)) or set(commas) - {_COMMA}:
            raise Refused(_no_list(text))
        names = tuple(word for _, word in members)
        if not 1 <= count <= _GREATEST:
            raise Refused(f"the number of standbys must be from 1 to {_GREATEST}, not {count}")
        if reason := _hang(count, names):
            raise Refused(reason)
        return cls(method=method, count=count, names=names)

    def render(self) -> str:
        """Write it in one canonical form, which PostgreSQL and `parse` read as this very value."""
        return f"{self.method} {self.count} ({', '.join(map(_quoted, self.names))})"

    def matches(self, application_name: str) -> bool:
        """Tell whether a standby of this name counts: case is ignored, ``*`` matches them all.

        PostgreSQL compares with pg_strcasecmp, even for a quoted name (syncrep.c).
        """
        return any(name == WILDCARD or same_name(name, application_name) for name in self.names)

    def replaced(self, old: str, new: str) -> Sync:
        """Put `new` where `old` stands, as after a switchover from `new` to `old`.

        Without `old` it is unchanged. Where `new` stands already, `old` is left out, and the count
        is lowered if it could not be met any more.
        """
        if same_name(old, new) or not any(same_name(name, old) for name in self.names):
            return self
        if any(same_name(name, new) for name in self.names):
            names = tuple(name for name in self.names if not same_name(name, old))
        else:
            names = tuple(new if same_name(name, old) else name for name in self.names)
        count = self.count if WILDCARD in names else min(self.count, len(set(map(fold, names))))
        return Sync(method=self.method, count=count, names=names)


def fold(name: str) -> bytes:
    """Fold case as PostgreSQL does for names: ASCII letters only."""
    return name.encode("utf-8", "surrogatepass").lower()


def same_name(one: str, other: str) -> bool:
    """Tell whether PostgreSQL takes two application names for the same."""
    return fold(one) == fold(other)


def _hang(count: int, names: tuple[str, ...]) -> str:
    """Say why these names can never satisfy that count, or nothing."""
    different = len(set(map(fold, names)))
    if WILDCARD in names or count <= different:
        return ""
    listed = "1 name is" if different == 1 else f"{different} different names are"
    return f"waits for {count} standbys but {listed} listed, so every commit would hang"


def _quoted(name: str) -> str:
    if name == WILDCARD or (_PLAIN.fullmatch(name) and name.upper() not in _KEYWORDS):
        return name
    return '"' + name.replace('"', '""') + '"'


def _no_list(text: str) -> str:
    return (
        f"{quoted(text)} is no list of standbys: write names like a, b or FIRST 1 (a, b) or "
        "ANY 2 (a, b),"
        ' and a name of other characters than letters, digits and _ in double quotes: "a-1"'
    )


def _head(tokens: list[_Token]) -> tuple[_Method, int, list[_Token]]:
    """Split into method, count and the tokens of the list: none where the text is malformed."""
    method: _Method = "FIRST"
    keyword = tokens[:1] and tokens[0][0] == "keyword"
    if keyword:
        method = "ANY" if tokens[0][1] == "ANY" else "FIRST"
        tokens = tokens[1:]
    if [kind for kind, _ in tokens[:1]] == ["number"] and tokens[1:2] == [_OPEN]:
        digits = tokens[0][1].lstrip("0")[:11]  # enough to see that it is too great
        return method, int(digits or "0"), tokens[2:-1] if tokens[-1] == _CLOSE else []
    return method, 1, [] if keyword else tokens


def _is_name(token: _Token) -> bool:
    """Tell a name: a number is one too (syncrep_gram.y, standby_name)."""
    return token[0] in {"quoted", "word", "number"} or token == ("mark", WILDCARD)


def _tokens(text: str) -> list[_Token]:
    """Cut the text into (kind, word); keywords get the kind "keyword". Raises Refused."""
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        if not match or "\0" in match[0]:
            raise Refused(_no_list(text))
        kind, at = str(match.lastgroup), match.end()
        word = match[kind].replace('""', '"') if kind == "quoted" else match[kind]
        if kind == "word" and word.upper() in _KEYWORDS:
            kind, word = "keyword", word.upper()
        if kind != "space":
            found.append((kind, word))
    return found
