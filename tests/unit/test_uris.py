"""Connection strings in every form: what is put in comes out of the client's own reader."""

from __future__ import annotations

import ast
import shlex
import subprocess
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from fakes import topology
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from pgherd.config.topology import Topology
from pgherd.errors import Refused
from pgherd.report import uris
from pgherd.report.uris import FORMATS, ROLES, Wanted

PAIR = topology("s1")
ODD = topology("s1", "s2", pa={"listen": "::1"}, s1={"listen": "fe80::1%eth0"}, s2={"listen": "::"})
HOSTS, PORTS = "::1,fe80::1%eth0,::1", "5432,5433,5434"
NAMES = [
    "postgres",
    "o'brien",
    'a "b"',
    "a b",
    "me@home",
    "a/b?c=d&e#f",
    "50%",
    "back\\slash",
    "é+1",
]

names = st.text(min_size=1, max_size=20).filter(str.isprintable)


def whole(asked: Topology, **wanted: str) -> str:
    """Return the one string for all nodes, of whichever is primary unless another role is said."""
    [line] = uris.lines(asked, Wanted(**{"role": "primary", **wanted}))
    return line


def of_psycopg(line: str) -> dict[str, object]:
    """Return what psycopg would be given, by Python's own reader."""
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    assert ast.unparse(call.func) == "psycopg.connect"
    return dict(conninfo_to_dict(ast.literal_eval(call.args[0])))


def of_shell(text: str) -> dict[str, str]:
    """Return the variables that a shell has after it read the lines."""
    script = f"{text}\nenv -0"
    done = subprocess.run(
        ["/bin/sh"], input=script.encode(), env={}, capture_output=True, check=True
    )
    pairs = (pair.partition("=") for pair in done.stdout.decode().split("\0"))
    return {name: value for name, _, value in pairs if name.startswith("PG")}


def of_jdbc(line: str) -> dict[str, object]:
    """Return what pgJDBC reads: the hosts, and the parts that it decodes."""
    url = urlsplit(line.removeprefix("jdbc:"))
    query = {name: values[0] for name, values in parse_qs(url.query, strict_parsing=True).items()}
    return {"hosts": url.netloc, "database": unquote(url.path.removeprefix("/")), **query}


# --- as they are written ---


@pytest.mark.parametrize(
    ("role", "libpq", "jdbc"),
    [
        ("primary", "read-write", "primary"),
        ("standby", "prefer-standby", "preferSecondary"),
        ("any", "any", "any"),
    ],
)
def test_roles(role: str, libpq: str, jdbc: str) -> None:
    places = "127.0.0.1:5432,127.0.0.1:5433"
    assert uris.lines(PAIR, Wanted(role)) == [
        f"postgresql://postgres@{places}/postgres?target_session_attrs={libpq}"
    ]
    assert uris.lines(PAIR, Wanted(role, "jdbc")) == [
        f"jdbc:postgresql://{places}/postgres?user=postgres&targetServerType={jdbc}"
    ]
    assert uris.lines(PAIR, Wanted(role, "psycopg"))[0] == (
        'psycopg.connect("host=127.0.0.1,127.0.0.1 port=5432,5433 user=postgres dbname=postgres '
        f'target_session_attrs={libpq}")'
    )
    file = "/a b/p"
    assert uris.lines(PAIR, Wanted(role, "env", password_file=file))[0].splitlines() == [
        "export PGHOST=127.0.0.1,127.0.0.1",
        "export PGPORT=5432,5433",
        "export PGUSER=postgres",
        "export PGDATABASE=postgres",
        f"export PGTARGETSESSIONATTRS={libpq}",
        "export PGPASSWORD=\"$(cat '/a b/p')\"",
    ]


def test_without_a_role_it_is_each_and_then_whichever_is_primary() -> None:
    assert uris.lines(PAIR, Wanted(form="jdbc")) == [
        "jdbc:postgresql://127.0.0.1:5432/postgres?user=postgres",
        "jdbc:postgresql://127.0.0.1:5433/postgres?user=postgres",
        whole(PAIR, form="jdbc"),
    ]
    *single, both = uris.lines(PAIR, Wanted(form="psycopg"))
    assert [of_psycopg(line)["port"] for line in single] == ["5432", "5433"]
    assert both == whole(PAIR, form="psycopg")
    assert uris.lines(PAIR, Wanted(form="env")) == [whole(PAIR, form="env")]


def test_env_without_a_known_password() -> None:
    assert "PASS" not in whole(PAIR, form="env", user="app")


def test_every_format_has_every_role() -> None:
    for form in FORMATS:
        for role in ROLES:
            assert len(uris.lines(PAIR, Wanted(role, form))) == 1


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (Wanted(role="master"), "--role is primary, standby or any, not 'master'."),
        (Wanted(form="odbc"), "--format is libpq, jdbc, psycopg or env, not 'odbc'."),
        (Wanted(database=""), "--database is a name of 1 to 63 bytes, all printable, not ''."),
        (Wanted(user="a\nb"), "--user is a name of 1 to 63 bytes, all printable, not 'a\\nb'."),
        (Wanted(user="\udcff"), "--user is a name of 1 to 63 bytes, all printable, not '\\udcff'."),
    ],
)
def test_what_is_none_is_refused(wanted: Wanted, sentence: str) -> None:
    with pytest.raises(Refused) as caught:
        wanted.check()
    assert caught.value.sentence == sentence


# --- as they are read ---


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_and_addresses(name: str) -> None:
    wanted = {"user": name, "database": name[::-1]}
    Wanted(**wanted).check()
    expected = {
        "host": HOSTS, "port": PORTS, "user": name, "dbname": name[::-1],
        "target_session_attrs": "read-write",
    }  # fmt: skip
    assert dict(conninfo_to_dict(whole(ODD, **wanted))) == expected
    assert of_psycopg(whole(ODD, form="psycopg", **wanted)) == expected
    assert of_shell(whole(ODD, form="env", **wanted)) == {
        "PGHOST": HOSTS, "PGPORT": PORTS, "PGUSER": name, "PGDATABASE": name[::-1],
        "PGTARGETSESSIONATTRS": "read-write",
    }  # fmt: skip
    assert of_jdbc(whole(ODD, form="jdbc", **wanted)) == {
        "hosts": "[::1]:5432,[fe80::1%25eth0]:5433,[::1]:5434", "database": name[::-1],
        "user": name, "targetServerType": "primary",
    }  # fmt: skip


@given(user=names, database=names, role=st.sampled_from(sorted(ROLES)))
@settings(max_examples=200)
def test_any_name_comes_out_as_it_went_in(user: str, database: str, role: str) -> None:
    wanted = {"user": user, "database": database, "role": role}
    expected = {
        "host": "127.0.0.1,127.0.0.1", "port": "5432,5433", "user": user, "dbname": database,
        "target_session_attrs": ROLES[role][0],
    }  # fmt: skip
    assert dict(conninfo_to_dict(whole(PAIR, **wanted))) == expected
    assert of_psycopg(whole(PAIR, form="psycopg", **wanted)) == expected
    said = [
        shlex.split(line)[1].partition("=")[2]
        for line in whole(PAIR, form="env", **wanted).split("\n")
    ]
    assert said == list(expected.values())
    jdbc = of_jdbc(whole(PAIR, form="jdbc", **wanted))
    assert (jdbc["user"], jdbc["database"]) == (user, database)
    assert jdbc["targetServerType"] == ROLES[role][1]
