"""Defects that are planted one at a time, to see that a test catches each: `invoke test --mutants`.

The list of them is mutants.py. The product is copied into a temporary folder, one defect is planted
there, and the test that is named for it runs on that copy: it has to fail. It is also run on a copy
without a defect, where it has to pass: a test that fails anyway catches nothing.

A defect is an edit of a few words in a function that is given by its name. Where the words are not
there any more, the code does that otherwise now: then the defect is to be planted anew.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".git", ".venv", "data", "__pycache__", ".*_cache", ".hypothesis")
BOUND_SECONDS = 1200.0  # for a test and those before it, each of which has a bound of its own
PATIENCE_SECONDS = 60.0  # for a test that is ended to take away what it made
CAUGHT, MISSED, GONE, HUNG, UNSOUND = "caught", "MISSED", "GONE", "HUNG", "UNSOUND"
ROW = "{:<34} {:<8} {:>4}  {}"
SAID_WIDTH = 160


class Gone(Exception):
    """The words that are to be edited are not in the code, or are there more than once."""


@dataclass(frozen=True)
class Edit:
    """A few words of a file that are replaced.

    Attributes:
        file: from the project's root.
        function: `name` or `Class.name`, which the words are looked for in; empty: all of the file.
        old: the words as they are; they must be there once.
        new: what stands in their place.
    """

    file: str
    function: str
    old: str
    new: str

    def applied(self, text: str) -> str:
        """Return the file's text with the edit.

        Raises:
            Gone: the function is not there, or has the words not once.
        """
        first, last = self._lines(text)
        lines = text.splitlines(keepends=True)
        within = "".join(lines[first:last])
        where = f"{self.function} of {self.file}" if self.function else self.file
        if (found := within.count(self.old)) != 1:
            raise Gone(f"{where} has {found} times, not once: {self.old!r}")
        return "".join([*lines[:first], within.replace(self.old, self.new), *lines[last:]])

    def _lines(self, text: str) -> tuple[int, int]:
        """Return the first line of the function, counted from 0, and the one after its last."""
        if not self.function:
            return 0, len(text.splitlines())
        for name, node in _functions(ast.parse(text)):
            if name == self.function:
                return node.lineno - 1, node.end_lineno or node.lineno
        raise Gone(f"{self.file} has no function {self.function}")


@dataclass(frozen=True)
class Mutant:
    """A defect, and the test that has to fail with it.

    Attributes:
        name: by which it is chosen.
        breaks: what goes wrong with it, in a sentence.
        test: its node id.
        edits: what plants it.
        in_turn: the tests of that file follow each other: those before run as well.
    """

    name: str
    breaks: str
    test: str
    edits: tuple[Edit, ...]
    in_turn: bool = False

    def plant(self, tree: Path) -> None:
        """Plant it in a copy of the product.

        Raises:
            Gone: an edit does not apply any more, or leaves what cannot be read.
        """
        for edit in self.edits:
            file = tree / edit.file
            if not file.exists():
                raise Gone(f"there is no {edit.file}")
            text = edit.applied(file.read_text(encoding="utf-8"))
            if file.suffix == ".py":
                try:
                    ast.parse(text)
                except SyntaxError as fault:
                    raise Gone(f"{edit.file} is no Python with it: {fault}") from None
            file.write_text(text, encoding="utf-8")


def _functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield f"{within}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{within}{node.name}.")


def has_test(test: str) -> bool:
    """Tell whether a file has the test of a node id; which parameters it takes is not seen."""
    file, _, name = test.partition("::")
    return (ROOT / file).exists() and name.partition("[")[0] in _tests_of(file)


def _tests_of(file: str) -> list[str]:
    """Return the tests of a file in their order."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return [name for name, _ in _functions(ast.parse(text)) if name.startswith("test_")]


# --- running ---


@dataclass(frozen=True)
class Outcome:
    """What came of a test: whether it failed, whether it ended by itself, what it said."""

    failed: bool
    hung: bool
    said: str

    @property
    def passed(self) -> bool:
        """It ran and passed."""
        return not self.failed and not self.said


def copied(place: Path) -> Path:
    """Copy the product without what it makes; return where."""
    tree = place / "product"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    (tree / "data").mkdir()
    return tree


def outcome(tree: Path, mutant: Mutant) -> Outcome:
    """Run its test on a copy, be it a long one; take away what it leaves."""
    tests = [mutant.test]
    if mutant.in_turn:
        file, _, name = mutant.test.partition("::")
        names = _tests_of(file)
        tests = [f"{file}::{before}" for before in names[: names.index(name) + 1]]
    report = tree / "report.xml"
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    path = os.pathsep.join([str(tree / "scripts"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PGHERD_LONG": "1", "PYTHONPATH": path.rstrip(os.pathsep)}
    with (tree / "said.txt").open("w") as said:
        run = subprocess.Popen(
            [*words, f"--junitxml={report}", *tests], cwd=tree, env=environment,
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            run.wait(BOUND_SECONDS)
            hung = False
        except subprocess.TimeoutExpired:
            hung = True
        finally:
            _end(run)
            _clear(tree)
    if hung:
        return Outcome(failed=False, hung=True, said=f"it did not end in {BOUND_SECONDS:.0f} s")
    if not report.exists():
        return Outcome(failed=False, hung=False, said=_last_line(tree / "said.txt"))
    return _read(report, mutant.test.rpartition("::")[2])


def _read(report: Path, test: str) -> Outcome:
    root = ET.parse(report).getroot()  # noqa: S314 (pytest has written it)
    cases = [case for case in root.iter("testcase") if case.get("name") == test]
    for case in cases:
        for kind in ("error", "failure", "skipped"):
            if (found := case.find(kind)) is not None:
                said = " ".join((found.get("message") or kind).split())[:SAID_WIDTH]
                hung = said.startswith("Failed: Timeout")
                return Outcome(kind == "failure" and not hung, hung, f"{kind}: {said}")
    return Outcome(failed=False, hung=False, said="" if cases else "there is no such test")


def _last_line(file: Path) -> str:
    return (file.read_text(errors="replace").splitlines() or ["it said nothing"])[-1]


def _end(run: subprocess.Popen[bytes]) -> None:
    """End a test that goes on; first by Ctrl-C, upon which it takes away what it made."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        if run.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(PATIENCE_SECONDS)


def _clear(tree: Path) -> None:
    """Remove the groups of a test that was ended; see e2e/leftovers.py."""
    words = [sys.executable, "-c", "import leftovers; leftovers.clear()"]
    subprocess.run(words, cwd=tree / "tests" / "e2e", timeout=180, check=False)


def tried(mutant: Mutant, sound: dict[str, str]) -> tuple[str, str]:
    """Plant one and run its test; return what came of it, and what the test said.

    `sound` keeps what the test says without a defect: nothing where it passes.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        tree = copied(Path(place))
        try:
            mutant.plant(tree)
        except Gone as why:
            return GONE, str(why)
        if mutant.test not in sound:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as other:
                sound[mutant.test] = outcome(copied(Path(other)), mutant).said
        if sound[mutant.test]:
            return UNSOUND, f"without it, {sound[mutant.test]}"
        found = outcome(tree, mutant)
    if found.hung:
        return HUNG, found.said
    if found.failed:
        return CAUGHT, found.said
    return MISSED, found.said or f"{mutant.test} passes: {mutant.breaks}"


def main(chosen: str = "") -> int:
    """Try those whose name begins so; 1 unless all are caught."""
    from mutants import MUTANTS  # noqa: PLC0415 (it is made of what is above)

    mutants = [mutant for mutant in MUTANTS if mutant.name.startswith(chosen)]
    if not mutants:
        names = ", ".join(mutant.name for mutant in MUTANTS)
        print(f"No mutant's name begins with {chosen!r}: there are {names}.", file=sys.stderr)
        return 2
    found: dict[str, str] = {}
    sound: dict[str, str] = {}
    print(ROW.format("mutant", "", "s", "what its test said"), flush=True)
    for mutant in mutants:
        begun = time.monotonic()
        found[mutant.name], said = tried(mutant, sound)
        took = f"{time.monotonic() - begun:.0f}"
        print(ROW.format(mutant.name, found[mutant.name], took, said), flush=True)
    bad = [name for name, what in found.items() if what != CAUGHT]
    print(f"{len(found) - len(bad)} of {len(found)} mutants caught", *bad, sep="\n  ")
    return int(bool(bad))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(*sys.argv[1:]))
