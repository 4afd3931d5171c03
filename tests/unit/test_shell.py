"""Commands as values: nothing is quoted early, and what is printed does what would be run."""

from __future__ import annotations

import io
import shlex
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgherd.errors import Refused
from pgherd.hosts.commands import (
    Output,
    Result,
    Script,
    Secret,
    Tool,
    Trace,
    act,
    argv_of,
    assignments,
    render,
)
from pgherd.postgres import scripts

CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
AWKWARD = st.lists(st.sampled_from(["EOF", "EOF_", "", "$HOME `id`", "it's", "\\", "\t<<'EOF'"]))
TEXT = st.text(CHARACTERS) | AWKWARD.map("\n".join)


def sh(script: str) -> str:
    """Run POSIX shell text; return what it printed."""
    done = subprocess.run(["sh", "-s"], input=script.encode(), capture_output=True, check=True)
    return done.stdout.decode()


# --- argument lists ---


def test_arguments_stay_as_they_are() -> None:
    words = ["", "a b", "it's", '"', "$HOME; x", "`id`", "\\", "*", "-n", "ü\n"]
    assert argv_of(Tool("docker")["exec", *words]) == ["docker", "exec", *words]


def test_a_tool_is_not_looked_up() -> None:
    assert argv_of(Tool("no-such-program")["x"][["y", "z"]]) == ["no-such-program", "x", "y", "z"]


def test_nul_is_refused() -> None:
    with pytest.raises(Refused, match="holds a NUL byte"):
        argv_of(Tool("psql")["a\0b"])


# --- what goes into stdin ---


def test_a_script_has_its_secrets_on_lines_of_their_own() -> None:
    secret = Secret("s3cret", "/s/p")
    script = Script(("a\n",)) + Script((secret,)) + "b\n"
    assert script.text() == "a\ns3cret\nb\n"
    assert list(script.secrets()) == [secret]


def test_a_secret_does_not_show_its_value() -> None:
    script = Script(("a\n", Secret("s3cret", "/s/p")))
    assert "s3cret" not in f"{script!r} {script}"
    assert "s3cret" not in render(["psql"], script)


# --- as shell text ---


@pytest.mark.parametrize(
    ("stdin", "text"),
    [
        (None, "cat 'a b'"),
        (Script(), "cat 'a b'"),
        (Script(("x\n",)), "cat 'a b' <<'EOF'\nx\nEOF"),
        (Script(("EOF\nEOF_\n",)), "cat 'a b' <<'EOF__'\nEOF\nEOF_\nEOF__"),
        (Script(("EOFX\n EOF\n",)), "cat 'a b' <<'EOF'\nEOFX\n EOF\nEOF"),
        (
            Script(("x\n", Secret("s3cret", "/it's"), "y\n")),
            """{
cat <<'EOF'
x
EOF
printf '%s\\n' "$(cat '/it'"'"'s')"
cat <<'EOF'
y
EOF
} | cat 'a b'""",
        ),
    ],
)
def test_rendered(stdin: Script | None, text: str) -> None:
    assert render(["cat", "a b"], stdin) == text


OVER = ["ssh", "user@box"]


@pytest.mark.parametrize(
    ("stdin", "text"),
    [
        (None, """ssh user@box 'cat '"'"'a b'"'"'' </dev/null"""),
        (Script(("x\n",)), """ssh user@box 'cat '"'"'a b'"'"'' <<'EOF'\nx\nEOF"""),
        (
            Script(("x\n", Secret("s3cret", "/s"))),
            """{
cat <<'EOF'
x
EOF
printf '%s\\n' "$(cat /s)"
} | ssh user@box 'cat '"'"'a b'"'"''""",
        ),
        (Output("echo x", (_ for _ in ())), """echo x | ssh user@box 'cat '"'"'a b'"'"''"""),
    ],
)
def test_rendered_for_another_host(stdin: Script | Output | None, text: str) -> None:
    assert render(["cat", "a b"], stdin, OVER) == text


def test_what_carries_a_command_has_it_as_one_argument() -> None:
    words = ["it's", "$HOME", "a\nb", ""]
    carried = render(["printf", "%s|", *words], over=["sh", "-c"])
    assert sh(carried) == "it's|$HOME|a\nb||"


@settings(max_examples=50)
@given(TEXT)
@example("E\x80")  # dash loses a byte after the beginning of the end's word
def test_rendered_text_gives_the_same_stdin(text: str) -> None:
    """A here-document that holds anything ends with a line end, so such a text gets it."""
    ended = text if text.endswith("\n") or not text else f"{text}\n"
    assert sh(render(["cat"], Script((text,)))) == ended


@pytest.mark.parametrize("value", ["p w", "it's", "$HOME", "a\\nb", "-n", " x ", "ü%s"])
def test_rendered_secrets_are_read_from_their_files(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a secret"
    path.write_text(f"{value}\n", encoding="utf-8")
    script = Script(("EOF\n", Secret(value, str(path)), "$x\n"))
    assert sh(render(["cat"], script)) == script.text()


@settings(max_examples=30)
@given(st.lists(TEXT, min_size=1))
def test_assigned_values_are_read_back(values: list[str]) -> None:
    named = {f"v{n}": value for n, value in enumerate(values)}
    shown = " ".join(f'"${name}"' for name in named)
    out = sh(assignments(**named) + f"printf '%s\\0' {shown}\n")
    assert out.split("\0")[:-1] == values


def test_assignments() -> None:
    assert assignments(a=1, b="x", c="it's\n$x") == "a=1\nb=x\nc='it'\"'\"'s\n$x'\n"


# --- results ---


def test_a_complaint_has_the_command_the_host_and_the_last_words() -> None:
    err = "".join(f"line {n}\n" for n in range(1, 31))
    result = Result(("docker", "rm", "a b"), "local", 3, "out\n", err)
    first, second, *lines = result.complaint().splitlines()
    assert (first, second) == ("docker rm 'a b'", "  on local, exit status 3:")
    assert (len(lines), lines[0], lines[-1]) == (20, "  | line 11", "  | line 30")
    assert not result.ok


@pytest.mark.parametrize(
    ("out", "err", "said"), [("o", "", "o"), ("o", "e", "e"), ("", " \n", "(it said nothing)")]
)
def test_a_complaint_takes_what_there_is(out: str, err: str, said: str) -> None:
    assert Result(("x",), "local", 1, out, err).complaint().endswith(f":\n  | {said}")


# --- echo and dry ---


def test_echo_shows_on_stderr_and_runs(capsys: pytest.CaptureFixture[str]) -> None:
    trace = Trace(echo=True, whole=True)
    assert trace.wants(["psql", "a b"], Script(("x\n",)), reads=False)
    trace.note("done")
    assert capsys.readouterr() == ("", "+ psql 'a b' <<'EOF'\n  x\n  EOF\ndone\n")


EXPLAINED = """\
#> psql: SELECT $what
  #> no
what='1;
2'
lay "$PGDATA/a.conf" <<'END'
# a comment
a = 1
END
as_postgres psql -X <<'END'
SELECT 3
END
"""


def test_echo_ends_no_act_whatever_a_script_has(capsys: pytest.CaptureFixture[str]) -> None:
    """A word that no shell would take, and a variable that nobody set."""
    Trace(echo=True).wants(["sh"], Script(("at=a\\\n#> cat $at $none\n",)), reads=False)
    assert capsys.readouterr().err == "+ sh\n    cat a\\ $none\n"


def test_echo_explains_what_a_script_does(capsys: pytest.CaptureFixture[str]) -> None:
    """What was written into a file is told once; of the looks by one program the first."""
    trace, secret = Trace(echo=True), Secret("s3cret", "/s")
    for _ in range(2):
        script = Script((EXPLAINED, "lay \"/p\" <<'END'\n", secret, "END\n"), ("one", "two"))
        trace.wants(["docker", "exec", "pa", "sh", "-s"], script, reads=False)
        trace.wants(["sh", "-c", "a\nb"], script, reads=True)
    said = capsys.readouterr().err.splitlines()
    act = "+ docker exec pa sh -s  # one, two"
    looks = ["    psql: SELECT 1;", "    2"]
    assert said == [
        act, *looks, "    $PGDATA/a.conf:", "      a = 1", "    psql: SELECT 3", "    /p:",
        "      …",
        "+ sh -c '…'  # looks", act, *looks, "    psql: SELECT 3",
    ]  # fmt: skip


def test_dry_prints_a_script_with_one_head(capsys: pytest.CaptureFixture[str]) -> None:
    trace = Trace(dry=True)
    assert not trace.wants(["docker", "stop", "x"], Script(), reads=False)
    assert trace.wants(["docker", "ps"], Script(), reads=True)
    trace.note("two\nlines")
    trace.shell("mkdir x")
    assert capsys.readouterr().out.splitlines() == [
        "#!/bin/sh",
        "# Printed by pgherd with --dry: valid from the state that was seen then.",
        "set -eu",
        "docker stop x",
        "# two",
        "# lines",
        "mkdir x",
    ]


def test_without_a_mode_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert Trace().wants(["docker", "stop", "x"], Script(), reads=False)
    assert capsys.readouterr() == ("", "")


@given(st.text(CHARACTERS))
def test_notes_of_a_dry_script_stay_comments(text: str) -> None:
    with redirect_stdout(io.StringIO()) as shown:
        Trace(dry=True).note(text)
    lines = shown.getvalue().split("\n")[3:]
    assert [line for line in lines if line and not line.startswith("# ")] == []


def test_shell_text_is_quoted_once() -> None:
    assert shlex.split(render(["a", "it's", ""])) == ["a", "it's", ""]


def test_an_act_is_named_by_its_script_or_by_what_docker_is_told() -> None:
    assert act(["docker", "stop", "--time", "9", "a"]) == "stop"
    assert act(["docker", "network", "create", "n"]) == "network create"
    assert act(["rm", "-rf", "x"]) == "rm"
    both = scripts.compose("role", "v=1\n", scripts.compose("slot"))
    assert act(["docker", "exec", "a", "sh", "-s"], both + "more\n") == "role slot"
