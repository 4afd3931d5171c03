"""What the fuzz tests share: nasty words, texts that are nearly right, trees that are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pgherd.errors import Error

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))  # as many examples as usual, other ones each time
LONGEST = 40_000  # characters of what an operator is told; with --echo the queries are among it

NASTY = [
    "", " ", "-", "--", "-x", "--all", "--help", ".", "..", "/", "~", "~x", "*", "?", "local",
    "; touch X", "$(touch X)", "`touch X`", "'", '"', "''", "a'b", 'a"b', "a\nb", "\n", "a\rb",
    "\t", "\x1b[31mred", "\x1b]0;title\x07", "\x07", "\x7f", "\x80", "\x9b31m", "\u202eabc",
    "\u2028", "\ufeff", "é", "e\u0301", "日本", "🐘", "\u0661", "²", "\udcff", "a\udc80b", "\\",
    "a\\1", "%s", "{0}", "%(x)s", "a b", "a,b", ",", ",,", "a=b", "=", "a:b", ":", "::1",
    "[::1]:22", "ada@box", "ada@box:2222", "@", "volume:", "volume:vv", "x" * 64, "x" * 300,
    "x" * 5000,
    "0", "1", "-1", "1e9", "nan", "inf", "0x10", "9" * 30, "9" * 5000, "true", "null", "None",
    "FIRST 1 (s1)", "ANY 2 (*)", "first", "s1", "pa", "PA", "pa,s1", "on", "status",
]  # fmt: skip
RAW = st.text(st.characters(exclude_characters="\0", exclude_categories=[]), max_size=20)
WORDS = st.sampled_from(NASTY) | RAW.map(lambda text: os.fsdecode(text.encode("utf-8", "ignore")))
PIECES = st.sampled_from([word for word in NASTY if word.isprintable() or len(word) < 9]) | st.text(
    max_size=5
)


def fuzz(examples: int) -> settings:
    """Return settings for so many examples, or as many more as FUZZ_TIMES says."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        suppress_health_check=slow,
        derandomize=TIMES == 1,
        database=None,
        print_blob=True,
    )


def check_told(fault: Error) -> None:
    """See that an error is a sentence which can be shown: some words, bounded, no controls."""
    check_shown(fault.sentence)
    assert fault.sentence.strip()
    assert "Traceback" not in fault.sentence
    assert "not foreseen" not in fault.sentence


def check_shown(text: str) -> None:
    """See that what goes to the terminal moves no cursor and changes no colour."""
    assert len(text) <= LONGEST
    assert "".join(c for c in text if c not in "\n\t" and not c.isprintable()) == ""


@st.composite
def nearly(draw: st.DrawFn, samples: Sequence[str]) -> str:
    """Return a sample with a few edits, as it is, or any text."""
    text = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 12)))
        put = draw(PIECES | st.just(text[at:end] * 2))
        text = text[:at] + put + text[end:]
    return draw(st.sampled_from([text, text, text, draw(st.text())]))


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 70_000)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(NASTY)
)
JUNK = st.recursive(
    LEAVES,
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def changed(draw: st.DrawFn, trees: Sequence[Any], junk: st.SearchStrategy[Any] = JUNK) -> Any:
    """Return a tree of dicts and lists in which a few places are gone, twice, or something else."""
    tree = deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(0, 3))):
        holders = list(_holders(tree))
        holder = holders[draw(st.integers(0, len(holders) - 1))]
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        how = draw(st.sampled_from(["set", "set", "drop", "add"]))
        if how == "add" or not keys:
            new, value = draw(st.text(max_size=8) | st.sampled_from(NASTY)), draw(junk)
            holder.update({new: value}) if isinstance(holder, dict) else holder.append(value)
        elif how == "drop":
            del holder[draw(st.sampled_from(keys))]
        else:
            holder[draw(st.sampled_from(keys))] = draw(junk)
    return tree


def _holders(tree: Any) -> Any:
    if isinstance(tree, dict | list):
        yield tree
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _holders(part)


def toml(tree: Mapping[str, Any]) -> str:
    """Write a tree as TOML, the tables inline; JSON's texts and numbers are TOML's as well."""
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in tree.items())


def _key(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    text = json.dumps(value, ensure_ascii=False)
    return {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf", "null": "''"}.get(text, text)
