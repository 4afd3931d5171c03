"""Commands as values: argument lists, what goes into stdin, what came out, and how to show them.

Nothing here starts a process; `host/` does. A command is a Plumbum expression, so arguments are
never joined into a string and never quoted before the edge where a shell really reads them::

    docker = Tool("docker")
    docker["exec", "-i", "pmaster", "psql"].formulate()   # ['docker', 'exec', '-i', …]
"""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from string import Template, ascii_letters
from typing import ClassVar, TextIO

from plumbum.commands.base import BaseCommand, ConcreteCommand

from pgherd.errors import Refused, printable, quoted

SCRIPT_HEAD = """\
#!/bin/sh
# Printed by pgherd with --dry: valid from the state that was seen then.
set -eu"""
_NOUNS = {"network", "volume", "image", "container"}  # docker's, which have a verb after them
SHOWN_LINES = 20  # of a failed command's output
SHOWN_WIDTH = 500  # characters of each


class Tool(ConcreteCommand):
    """A program by its bare name, to be found on the host that runs it.

    `plumbum.local["docker"]` would look it up on this machine and put this machine's path into
    the argument list of a command that may run elsewhere.
    """

    __slots__ = ()
    QUOTE_LEVEL: ClassVar[int] = 2

    def __init__(self, name: str) -> None:
        super().__init__(name, "utf-8")


@dataclass(frozen=True)
class Secret:
    """A password and the file that holds it: the value goes to stdin only, the path may be shown.

    Attributes:
        value: the password; kept out of `repr`.
        path: a file with the value as its first line, for the script that `--dry` prints.
    """

    value: str = field(repr=False)
    path: str


@dataclass(frozen=True)
class Script:
    """What a command reads from stdin: whole lines of text, with secrets on lines of their own.

    Attributes:
        parts: the texts and the secrets, in order.
        names: what it does, in words that stay the same where its text changes: see `act`.
    """

    parts: tuple[str | Secret, ...] = ()
    names: tuple[str, ...] = field(default=(), compare=False)

    def __add__(self, other: Script | str) -> Script:
        if isinstance(other, str):
            return Script((*self.parts, other), self.names)
        return Script((*self.parts, *other.parts), (*self.names, *other.names))

    def text(self) -> str:
        """Return what is really sent, secrets included."""
        return "".join(p if isinstance(p, str) else f"{p.value}\n" for p in self.parts)

    def secrets(self) -> Iterator[Secret]:
        """Yield the secrets in the script, so that output can be cleaned of them."""
        return (p for p in self.parts if isinstance(p, Secret))


class Output(Iterator[bytes]):
    """What a command prints, in pieces as it comes, to be read once; another command's stdin.

    Nothing runs before the first piece is asked for. Whoever drops it ends the command.

    Attributes:
        shown: the command as shell text, for the script that `--dry` prints.
    """

    def __init__(self, shown: str, pieces: Generator[bytes, None, None]) -> None:
        self.shown = shown
        self._pieces = pieces

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """End the command if it runs."""
        self._pieces.close()


@dataclass(frozen=True)
class Result:
    """A finished command: exit code, output and how long it took, in seconds."""

    argv: tuple[str, ...]
    host: str
    code: int
    out: str
    err: str
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the command exited with 0."""
        return self.code == 0

    def complaint(self) -> str:
        """Say what failed, where, and with which words: the last lines of its output."""
        said = (self.err.strip() or self.out.strip() or "(it said nothing)").splitlines()
        lines = "\n".join(f"  | {line[:SHOWN_WIDTH]}" for line in said[-SHOWN_LINES:])
        return f"{shlex.join(self.argv)}\n  on {self.host}, exit status {self.code}:\n{lines}"


class Trace:
    """Shows commands (`--echo`) or prints them instead of running them (`--dry`).

    With `--dry`, commands that only read still run and are not printed, and stdout becomes a
    shell script; see `note` for its comments.

    None of this ever raises. What is said is no part of what is done: a line that cannot be
    written is dropped, and the act goes on.

    Attributes:
        acted: a command was run that changes something.
    """

    def __init__(
        self, *, echo: bool = False, dry: bool = False, on: str = "", whole: bool = False
    ) -> None:
        """Take what Invoke was asked for; `on` is the host that the group was placed on.

        `echo` shows what a person would type; with `whole`, everything as it is sent.
        """
        self.echo = echo
        self.whole = whole
        self.on = on
        self.dry = dry
        self.acted = False
        self._begun = False
        self._explainer = Explainer()
        self._lock = threading.Lock()

    def wants(
        self,
        argv: list[str],
        stdin: Script | Iterable[bytes],
        *,
        reads: bool,
        over: Sequence[str] = (),
    ) -> bool:
        """Show the command as the mode asks; return whether it is to be run.

        Args:
            argv: its arguments.
            stdin: what it reads.
            reads: it changes nothing, so that it runs with `--dry` too.
            over: the command that carries it to another host, as `ssh user@box` does.
        """
        if self.dry and not reads:
            self._print(render(argv, stdin, over), sys.stdout)
            return False
        if self.echo:
            told = render if self.whole else partial(self._explainer.explain, reads=reads)
            self.show(told(argv, stdin, over))
        self.acted = self.acted or not reads
        return True

    def show(self, text: str) -> None:
        """Print what is run, or what was said to a server, on stderr."""
        if text:
            shown = text.replace("\n", "\n  ")
            self._print(f"+ {printable(shown)}", sys.stderr)

    def note(self, text: str) -> None:
        """Print a line for the operator: on stderr, or as a comment of the dry script."""
        text = printable(qualify_commands(text, self.on))
        if self.dry:
            self._print("\n".join(f"# {line}" for line in text.splitlines()), sys.stdout)
        else:
            self._print(text, sys.stderr)

    def shell(self, text: str) -> None:
        """Print shell text that stands for an act that is no command (only with `--dry`)."""
        self._print(text, sys.stdout)

    def _print(self, text: str, stream: TextIO | None) -> None:
        # ValueError: it is closed, or has no such characters.
        with self._lock, suppress(OSError, ValueError):
            if stream is None:  # it was closed; print() would take another one
                return
            if self.dry and not self._begun:
                self._begun = True
                print(SCRIPT_HEAD, file=stream, flush=True)
            print(text, file=stream, flush=True)


def render(
    argv: Sequence[str],
    stdin: Script | Iterable[bytes] | None = None,
    over: Sequence[str] = (),
) -> str:
    """Return the command as POSIX shell text; a secret stands there as a read of its file.

    `over` is the command that carries it to another host: it is given the whole as one argument,
    which the shell over there takes apart.
    """
    command = command_line(argv, over)
    if isinstance(stdin, Output):
        return f"{stdin.shown} | {command}"
    parts = stdin.parts if isinstance(stdin, Script) else ()
    if not parts:  # what carries it would read the script itself, where a shell is fed with that
        return f"{command} </dev/null" if over else command
    if len(parts) == 1 and isinstance(parts[0], str):
        return f"{command} {heredoc(parts[0])}"
    pieces = [
        f"cat {heredoc(p)}"
        if isinstance(p, str)
        else f"printf '%s\\n' \"$(cat {shlex.quote(p.path)})\""
        for p in parts
    ]
    return "{\n" + "\n".join(pieces) + f"\n}} | {command}"


class Explainer:
    """Tells commands as a person would read them: what `--echo` prints.

    An act is one line, and below it what its script does: the lines that it has for people (`#> …`,
    where $NAME is what the script has in that variable), SQL, and what is written into a file, with
    its path: of that what was not told for the same path before. A secret is `…`. Of the looks by
    one program the first is told, as one line: there are many, and `--debug` tells all.
    """

    _FOR_PEOPLE = re.compile(r"#>( *)(.*)")
    _VARIABLE = re.compile(r"""^([a-z_]+)=((?:'[^']*'|"'"|[^\s'"])*)$""", re.MULTILINE)
    _FILE = re.compile(r"""\s*(?:lay|block) "([^"]+)"[^<]*<<'([^']+)'|auto_conf [^<]*<<'([^']+)'""")
    _SQL = re.compile(r"as_postgres psql [^<]*<<'([^']+)'")
    _WIDTH = 220

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def explain(
        self,
        argv: Sequence[str],
        stdin: Script | Iterable[bytes] | None = None,
        over: Sequence[str] = (),
        *,
        reads: bool = False,
    ) -> str:
        """Return what is to be told of a command; nothing of a look of a kind that was told."""
        line = command_line(["…" if "\n" in word else word for word in argv], over)
        if reads:
            kind = ("looks", argv[0])
            if kind in self._known:
                return ""
            self._known.add(kind)
            return f"{line}  # looks"
        if isinstance(stdin, Output):
            return f"{stdin.shown} | {line}"
        if not isinstance(stdin, Script):
            return line
        text = "".join(part if isinstance(part, str) else "…\n" for part in stdin.parts)
        names = f"  # {', '.join(stdin.names)}" if stdin.names else ""
        return "\n".join([f"{line}{names}", *(f"  {told}" for told in self._new(text))])

    def _new(self, text: str) -> Iterator[str]:
        """Yield the lines of a script for people; of a file's those that are new for its path."""
        for path, lines in self._blocks(text):
            if not path:
                yield from lines
            elif new := [line for line in lines if (path, line) not in self._known]:
                self._known |= {(path, line) for line in new}
                yield from (f"{path}:", *(f"  {line}" for line in new))

    def _blocks(self, text: str) -> Iterator[tuple[str, list[str]]]:
        """Yield each file's path with the lines written into it; no path where there is no file."""
        known = {name: _unquoted(value) for name, value in self._VARIABLE.findall(text)}
        lines, path = iter(text.splitlines()), ""
        for line in lines:
            if told := self._FOR_PEOPLE.match(line):
                said = Template(told[2]).safe_substitute(known).splitlines()
                if said and said[0].endswith(":"):
                    path = said[0].removesuffix(":")
                else:
                    yield (path if len(told[1]) > 1 else ""), said
            elif written := self._FILE.match(line):
                body = self._body(lines, written[2] or written[3])
                path = written[1] or "$PGDATA/postgresql.auto.conf"
                if path.endswith("/pgherd.conf"):  # a dozen settings, the same for each node
                    whole = "; ".join(line.replace(" ", "\0") for line in body)
                    body = [line.replace("\0", " ") for line in textwrap.wrap(whole, self._WIDTH)]
                yield path, body
            elif (sql := self._SQL.match(line)) and len(
                body := self._body(lines, sql[1])
            ) <= SHOWN_LINES:
                yield "", [f"psql: {part}" for part in body]

    @staticmethod
    def _body(lines: Iterator[str], end: str) -> list[str]:
        """Return a here-document's lines, without comments, up to its end."""
        body = takewhile(lambda line: line != end, lines)
        return [line for line in body if line.strip() and not line.startswith(("#", "--"))]


def _unquoted(value: str) -> str:
    """Return what a shell makes of a word; the word itself where that cannot be told."""
    try:
        return "".join(shlex.split(value))
    except ValueError:  # it ends with a backslash
        return value


def heredoc(text: str, word: str = "EOF") -> str:
    """Return text as a here-document, which ends with a word that is no line of it.

    dash loses a byte of a line that begins like the end's word and goes on in non-ASCII characters
    (seen with 0.5.12), so such text gets a word that none of its lines begins like.
    """
    begun = {line[:1] for line in text.split("\n")}
    if not text.isascii() and word[0] in begun:
        word = next((f"{letter}{word}" for letter in ascii_letters if letter not in begun), word)
    while re.search(rf"^{word}$", text, re.MULTILINE):
        word += "_"
    end = "" if text.endswith("\n") or not text else "\n"
    return f"<<'{word}'\n{text}{end}{word}"


def command_line(argv: Sequence[str], over: Sequence[str] = ()) -> str:
    """Return a command as shell text, carried by `over` to another host."""
    return shlex.join([*over, shlex.join(argv)] if over else argv)


def qualify_commands(text: str, on: str) -> str:
    """Return a text whose `invoke …` are to be typed for a group that was placed on a host."""
    placed = f"`invoke on {shlex.quote(on)} "
    return re.sub(r"`invoke (?!on[ `])", lambda _: placed, text) if on else text


def act(argv: Sequence[str], stdin: Script | Iterable[bytes] | None = None) -> str:
    """Return the name of what a command changes: its script's words, else what docker is told.

    Whoever watches a run knows by that where it is, whatever its commands look like: the tests
    that cut a task short do.
    """
    if isinstance(stdin, Script) and stdin.names:
        return " ".join(stdin.names)
    words = list(argv[1:]) if argv[0] == "docker" else list(argv)
    return " ".join(words[:2] if words[0] in _NOUNS else words[:1])


def assignments(**values: str | int) -> str:
    """Return `NAME='value'` lines for the head of a shell script, quoted for a POSIX shell."""
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


def argv_of(command: BaseCommand) -> list[str]:
    """Return a command's argument list.

    Raises:
        Refused: an argument holds a NUL byte, which no program can be given.
    """
    argv: list[str] = command.formulate()
    if bad := [word for word in argv if "\0" in word]:
        raise Refused(f"{quoted(bad[0])} holds a NUL byte, which no program can be given.")
    return argv
