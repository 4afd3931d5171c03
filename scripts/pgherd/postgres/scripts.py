"""Shell scripts for inside a node's container: fragments of `sh/`, put together for one run.

Several edits go in one container, as one script on stdin. The fragments are plain shell, may be
read by themselves, and are what `--dry` prints.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from pgherd.docker.engine import LIST
from pgherd.hosts.commands import Script, Secret, assignments, heredoc
from pgherd.postgres import conf

FUNCTIONS = (
    "until_true",
    "this_directory",
    "unarchived",
    "unfinished",
    "begin",
    "lay",
    "block",
    "auto_conf",
    "gateways",
    "wal_records",
    "passline",
    "in_passfile",
    "logs_in",
    "other_database",
)  # each before those that call it
CHANGED = "changed "  # what a fragment says of something that was not so before


@cache
def _text(folder: str, name: str) -> str:
    return resources.files(__package__).joinpath(folder, name).read_text(encoding="utf-8")


def sql(name: str) -> str:
    """Return the query `sql/<name>.sql`."""
    return _text("sql", f"{name}.sql")


def fragment(name: str) -> str:
    """Return the fragment `sh/<name>.sh`."""
    return _text("sh", f"{name}.sh")


def function(name: str) -> str:
    """Return the function `sh/functions/<name>.sh`."""
    return _text("sh/functions", f"{name}.sh")


def compose(*pieces: str | Script, **values: str | int) -> Script:
    """Return one script: the head, the values as variables, and the pieces in their order.

    A piece without a newline names a file of `sh/`. Functions of `sh/functions/` come along where
    they are called. The shell reads the script from the stdin that its commands share: the braces
    make it read all before it runs any.
    """
    body = Script()
    for piece in pieces:
        if isinstance(piece, str) and "\n" not in piece:
            body += Script((fragment(piece),), (piece,))
        else:
            body += piece
    called = "".join(part for part in body.parts if isinstance(part, str))
    head = fragment("head").replace("$session\n", session(), 1)
    head += _functions(called) + assignments(**values)
    return _merge_texts(Script(("{\n" + head,)) + body + "exit 0\n}\n")


def session() -> str:
    """Return the lines that set what a session of ours begins with, as PGOPTIONS has it.

    $session_options is for any role, $superuser_options what a superuser's has besides. Both know
    the major version by $major, which is empty where nobody knows.
    """
    options = conf.session_options(conf.SESSION)
    superuser = conf.session_options(conf.SUPERUSER_SESSION)
    return (
        assignments(session_options=options, superuser_options=superuser)
        + "case $major in\n"
        + "  1[7-9] | [2-9][0-9])\n"
        + '    session_options="$session_options -c transaction_timeout=0"\n'
        + '    superuser_options="$superuser_options -c event_triggers=off" ;;\n'
        + "esac\n"
    )


def _functions(text: str) -> str:
    """Return the functions that a script calls, and those that these call, defined before them."""
    found: dict[str, str] = {}

    def take(text: str) -> None:
        for name in FUNCTIONS:
            if name not in found and re.search(rf"\b{name}\b", text):
                found[name] = function(name)
                take(found[name])

    take(text)
    return "".join(found[name] for name in FUNCTIONS if name in found)


def password(variable: str, secret: Secret) -> Script:
    """Return a fragment that sets a shell variable to a secret.

    The end's word begins as no password is likely to: see `shell.heredoc` for dash's fault.
    """
    end = "|END-OF-SECRET|"
    while end == secret.value:
        end += "|"
    return Script((f"{variable}=$(cat <<'{end}'\n", secret, f"{end}\n)\n"))


def lay(path: str, text: str) -> str:
    """Return a fragment that makes `text` the file's contents; the path may have variables."""
    return f'lay "{path}" {heredoc(text, "END-OF-FILE")}\n'


def block(path: str, name: str, text: str) -> str:
    """Return a fragment that makes `text` the managed block `name` of a file."""
    return f'block "{path}" {name} {heredoc(text, "END-OF-BLOCK")}\n'


def auto_conf(names: tuple[str, ...], text: str) -> str:
    """Return a fragment that replaces settings in postgresql.auto.conf of a stopped server."""
    return f"auto_conf '{'|'.join(names)}' {heredoc(text, 'END-OF-CONF')}\n"


def query(name: str) -> str:
    """Return a fragment that prints the answer to the query `sql/<name>.sql`.

    It sees the settings as they are that are ours only where we write.
    """
    return f'PGOPTIONS="$session_options $superuser_options"\n{statements(sql(name))}'


def statements(text: str) -> str:
    """Return a fragment that runs SQL, with psql's own commands in it, to the first error."""
    return f"as_postgres psql -XAtqw -v ON_ERROR_STOP=1 {heredoc(text, 'END-OF-SQL')}\n"


def look(group: str, home: str, database: str = "") -> Script:
    """Return the script that looks at a host: its containers, and what the group's servers say."""
    answer = fragment("answer").replace("$facts\n", sql("facts"), 1)
    question = compose(answer, "examine", "running", "beyond", 'exit "$code"\n').text()
    asked = assignments(PGHERD_DATABASE=database) if database else ""
    text = fragment("look").replace("$question\n", asked + question, 1)
    return Script((assignments(group=group, home=home) + LIST + text,))


def changes(out: str) -> list[str]:
    """Return what a script says that it changed."""
    return [line.removeprefix(CHANGED) for line in out.splitlines() if line.startswith(CHANGED)]


def _merge_texts(script: Script) -> Script:
    """Join neighbouring texts, so that the script shows as few pieces as it has secrets."""
    parts: list[str | Secret] = []
    for part in script.parts:
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return Script(tuple(parts), script.names)
