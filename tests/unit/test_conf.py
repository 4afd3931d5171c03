"""Texts for PostgreSQL, read back by small models of its own readers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from pgherd.config import loader
from pgherd.errors import Refused
from pgherd.group import node_config
from pgherd.postgres import conf

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
LSNS = st.integers(0, 2**64 - 1)


def unquoted(value: str) -> str:
    """Read a quoted value as GUC_scanstr and guc-file.l do; an assertion fails on a bad token."""
    assert re.fullmatch(r"'(?:[^'\\\n]|\\.|'')*'", value)
    letters = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
    return re.sub(
        r"''|\\([0-7]{1,3}|.)",
        lambda found: "'" if found[1] is None else letters.get(found[1], found[1]),
        value[1:-1],
        flags=re.DOTALL,
    )


@given(TEXT)
def test_quoted_text_is_read_back(text: str) -> None:
    assert unquoted(conf.quote_value(text)) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_back(number: float) -> None:
    written = conf.quote_value(number)
    assert float(written.strip("'")) == number
    assert written.startswith("'") or re.fullmatch(r"-?[0-9]+\.[0-9]+", written)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "on"),
        (False, "off"),
        (-5, "-5"),
        (0.5, "0.5"),
        (1e-07, "'1e-07'"),
        ("", "''"),
        ("it's", "'it''s'"),
        ("C:\\x", "'C:\\\\x'"),
        ("a\nb\r", "'a\\nb\\r'"),
        # the form that PostgreSQL reads as the conninfo password='rp w\'x'
        (r"password='rp w\'x'", r"'password=''rp w\\''x'''"),
    ],
)
def test_values(value: str | float, written: str) -> None:
    assert conf.quote_value(value) == written


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "a\0b"])
def test_values_that_cannot_be(value: str | float) -> None:
    with pytest.raises(Refused):
        conf.quote_value(value)


NAMES = st.from_regex(r"[a-z_][a-z0-9_.]{0,20}", fullmatch=True).filter(
    lambda name: not name.startswith("include")
)


@given(st.dictionaries(NAMES, TEXT))
def test_settings_are_read_back_by_us(pairs: dict[str, str]) -> None:
    assert conf.read_settings(conf.render_settings("", pairs)) == pairs


def test_settings_as_people_write_them() -> None:
    text = "a = 1 # one\n  B='x''y\\'z'\nc on\n#d = 2\ninclude 'e.conf'\nbad line'\na=2\n"
    assert conf.read_settings(text) == {"a": "2", "b": "x'y'z", "c": "on", "bad": "line"}


KEYWORDS = st.sampled_from(
    ["host", "user", "password", "dbname", "passfile", "application_name", "options"]
)


@given(st.dictionaries(KEYWORDS, TEXT))
def test_conninfo_is_read_back_by_libpq(pairs: dict[str, str]) -> None:
    assert conninfo_to_dict(conf.conninfo(**pairs)) == pairs


def test_conninfo() -> None:
    assert conf.conninfo(host="a", port=5432, user=None, keepalives=True) == (
        "host=a port=5432 keepalives=1"
    )
    assert conf.conninfo(host="", options=r"a'b \c") == r"host='' options='a\'b \\c'"
    with pytest.raises(Refused, match="cannot hold the character NUL"):
        conf.conninfo(host="a\0")


@given(TEXT)
def test_sql_literals_are_read_back(text: str) -> None:
    written = conf.sql_literal(text)
    inner = written.removeprefix("E")[1:-1].replace("''", "'")
    assert (inner.replace("\\\\", "\\") if written.startswith("E") else inner) == text
    assert written.startswith("E") == ("\\" in text)


def test_sql() -> None:
    assert conf.sql_literal("it's") == "'it''s'"
    assert conf.sql_literal("a\\'b") == "E'a\\\\''b'"
    with pytest.raises(Refused, match="text for PostgreSQL cannot hold the character NUL"):
        conf.sql_literal("\0")


def test_settings_follow_the_base_in_order() -> None:
    assert conf.render_settings("a = 1", {"my.x": "y", "b": True, "max_wal_senders": 40}) == (
        "# written by pgherd: changes here are overwritten;\n"
        "# put yours into the topology's settings or conf/postgresql.conf\n"
        "a = 1\nb = on\nmax_wal_senders = 40\nmy.x = 'y'\n"
    )
    assert conf.render_settings("", {}) == conf.HEAD
    with pytest.raises(Refused, match="'a b' is no name of a PostgreSQL setting"):
        conf.render_settings("", {"a b": 1})


@given(LSNS)
def test_lsns_are_read_back(position: int) -> None:
    high, low = divmod(position, 2**32)
    assert conf.lsn_to_int(f"{high:X}/{low:X}") == position


def test_lsns() -> None:
    assert conf.lsn_to_int("16/B374D848") == 0x16B374D848
    assert conf.lsn_to_int("0/0") == 0


@pytest.mark.parametrize("text", ["", "16", "16/", "1/2/3", "x/1", "1/123456789", " 1/2", "1/2\n"])
def test_bad_lsns(text: str) -> None:
    with pytest.raises(Refused) as caught:
        conf.lsn_to_int(text)
    assert str(caught.value) == f"{text!r} is no WAL position like 16/B374D848"


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1)


@given(st.dictionaries(WORDS.filter(lambda word: ":" not in word), WORDS))
def test_control_data_is_read_back(pairs: dict[str, str]) -> None:
    text = "".join(f"{key + ':':<40}{value}\n" for key, value in pairs.items())
    assert conf.parse_controldata(text) == pairs


def test_control_data() -> None:
    text = (
        "pg_control version number:            1300\n"
        "Database cluster state:               shut down\n"
        "pg_control last modified:             Mon 23 Nov 2026 14:00:01 UTC\n"
        "Latest checkpoint's REDO WAL file:    000000010000000000000001\n"
        "not a line of it\n"
    )
    read = conf.parse_controldata(text)
    assert read["Database cluster state"] == "shut down"
    assert read["pg_control last modified"] == "Mon 23 Nov 2026 14:00:01 UTC"
    assert len(read) == 4
    assert conf.parse_controldata("") == {}


@pytest.mark.parametrize("line", ["allow_alter_system = off", "Allow_Alter_System 'F'"])
def test_settings_of_every_node_that_no_node_can_have(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "conf_file", lambda _: f"work_mem = 8MB\n{line}\n")
    with pytest.raises(Refused, match=r"conf/postgresql\.conf: allow_alter_system cannot be off"):
        node_config.base_settings()
    monkeypatch.setattr(loader, "conf_file", lambda _: "allow_alter_system = on\n")
    assert node_config.base_settings() == "allow_alter_system = on\n"
