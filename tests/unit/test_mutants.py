"""The planted defects can still be planted, and the tests that are to catch them are there."""

from __future__ import annotations

import ast

import pytest
from fakes import ROOT
from mutants import MUTANTS
from planting import Edit, Gone, Mutant, has_test

SOURCE = "def f():\n    return 1\n\n\nclass C:\n    def f(self):\n        return 1\n"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_can_be_planted(mutant: Mutant) -> None:
    """Else plant it anew where the code does that now, and see it caught: `--mutants NAME`."""
    texts = {e.file: (ROOT / e.file).read_text(encoding="utf-8") for e in mutant.edits}
    for edit in mutant.edits:
        before = texts[edit.file]
        texts[edit.file] = edit.applied(before)
        assert texts[edit.file] != before
    for file, text in texts.items():
        if file.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_has_test(mutant: Mutant) -> None:
    assert has_test(mutant.test), mutant.test
    assert mutant.breaks.endswith(".")


def test_they_have_names_of_their_own() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)


def test_an_edit_is_made_in_its_function_alone() -> None:
    one = Edit("x.py", "C.f", "return 1", "return 2").applied(SOURCE)
    assert one == SOURCE[: SOURCE.rindex("1")] + "2\n"
    for function, old in (("C.g", "return 1"), ("f", "return 2"), ("", "return 1")):
        with pytest.raises(Gone):
            Edit("x.py", function, old, "").applied(SOURCE)
