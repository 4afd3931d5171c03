"""The grammar of synchronous_standby_names, as PostgreSQL has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pgherd.config.sync_names import Sync
from pgherd.errors import Refused

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@st.composite
def syncs(draw: st.DrawFn) -> Sync:
    names = draw(st.lists(NAMES | st.sampled_from(["*", "any", "First", "a"]), min_size=1))
    different = len({name.encode().lower() for name in names})
    most = 2**31 - 1 if "*" in names else different
    method = draw(st.sampled_from(["FIRST", "ANY"]))
    count = draw(st.integers(1, most))
    return Sync.model_validate({"method": method, "count": count, "names": tuple(names)})


@given(syncs())
def test_what_is_rendered_is_read_as_the_same(sync: Sync) -> None:
    assert Sync.parse(sync.render()) == sync
    assert Sync.parse(sync.render()).render() == sync.render()


@given(st.text(st.sampled_from(list('aAnyfirst12*,() "\n\0é-'))) | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        sync = Sync.parse(text)
    except Refused:
        return
    assert sync.count >= 1
    assert sync.names


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("a", "FIRST 1 (a)"),
        ("a, b", "FIRST 1 (a, b)"),
        ("*", "FIRST 1 (*)"),
        ('"*"', "FIRST 1 (*)"),
        ("2 (a, b)", "FIRST 2 (a, b)"),
        ("first 1 ( a ,b )", "FIRST 1 (a, b)"),
        ("aNy 2(a,b,c)", "ANY 2 (a, b, c)"),
        ('FIRST 1 ("standby-1")', 'FIRST 1 ("standby-1")'),
        ('"say ""hi"""', 'FIRST 1 ("say ""hi""")'),
        ('"any", "First"', 'FIRST 1 ("any", "First")'),
        ("S1", 'FIRST 1 ("S1")'),
        ("1", 'FIRST 1 ("1")'),
        ("a$1, é", 'FIRST 1 ("a$1", "é")'),
        ("FIRST 007 (*)", "FIRST 7 (*)"),
        ("anyone", "FIRST 1 (anyone)"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    assert Sync.parse(text).render() == canonical


@pytest.mark.parametrize(
    "text",
    # tried on PostgreSQL 15: it refuses all of these but the empty text
    [
        *(
            "",
            " ",
            "standby-1",
            "1standby",
            "a b",
            "a,",
            ",a",
            "any",
            "any (a)",
            "ANY 1 a",
            "first a",
        ),
        *("1 (a", "1 ()", "1 (a))", '"a', "(a)", "1 (1 (a))", "a, any", "a (b)", "ANY FIRST 1 (a)"),
        *('a "," b', "1 (a) b"),
    ],
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        Sync.parse(text)
    assert str(caught.value) == (
        f"{text!r} is no list of standbys: write names like a, b or FIRST 1 (a, b) or ANY 2 (a, b),"
        ' and a name of other characters than letters, digits and _ in double quotes: "a-1"'
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("FIRST 0 (a)", "the number of standbys must be from 1 to 2147483647, not 0"),
        ("2147483648 (*)", "the number of standbys must be from 1 to 2147483647, not 2147483648"),
        (
            "FIRST 2 (a)",
            "waits for 2 standbys but 1 name is listed, so every commit would hang",
        ),
        (
            "ANY 3 (a, A, b)",
            "waits for 3 standbys but 2 different names are listed, so every commit would hang",
        ),
    ],
)
def test_counts_that_cannot_be(text: str, sentence: str) -> None:
    with pytest.raises(Refused) as caught:
        Sync.parse(text)
    assert str(caught.value) == sentence


def test_a_number_of_many_digits_is_refused() -> None:
    with pytest.raises(Refused, match="the number of standbys must be"):
        Sync.parse("9" * 10_000 + " (*)")


def test_a_count_that_hangs_cannot_be_built_either() -> None:
    with pytest.raises(ValidationError, match="every commit would hang"):
        Sync(method="ANY", count=2, names=("a", "A"))


def test_it_is_frozen_and_strict() -> None:
    sync = Sync.parse("a")
    with pytest.raises(ValidationError, match="frozen"):
        sync.count = 2
    with pytest.raises(ValidationError):
        Sync.model_validate({"method": "FIRST", "count": True, "names": ("a",)})


def test_matching_ignores_the_case_of_ascii_letters_only() -> None:
    sync = Sync.parse('S1, "Ä", "k"')
    assert sync.matches("s1")
    assert sync.matches("K")
    assert not sync.matches("ä")
    assert not sync.matches("\N{KELVIN SIGN}")
    assert not sync.matches("*")
    assert Sync.parse("*").matches("anyone at all")


@pytest.mark.parametrize(
    ("text", "old", "new", "wanted"),
    [
        ("FIRST 1 (s1)", "S1", "pmaster", "FIRST 1 (pmaster)"),
        ("ANY 2 (s1, s2, s3)", "s2", "p", "ANY 2 (s1, p, s3)"),
        ("FIRST 1 (s1)", "s2", "p", "FIRST 1 (s1)"),
        ("FIRST 1 (*)", "s1", "p", "FIRST 1 (*)"),
        ("ANY 2 (s1, p)", "s1", "p", "ANY 1 (p)"),
        ("ANY 2 (p, s1, s2)", "s1", "P", "ANY 2 (p, s2)"),
    ],
)
def test_replaced(text: str, old: str, new: str, wanted: str) -> None:
    assert Sync.parse(text).replaced(old, new).render() == wanted
