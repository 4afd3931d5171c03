r"""PostgreSQL's texts: settings, connection strings, SQL, WAL positions. No file is touched.

>>> quote_value("it's C:\\")
"'it''s C:\\\\'"
>>> conninfo(host="pmaster", passfile="/etc/my pass")
"host=pmaster passfile='/etc/my pass'"
>>> wal_file_name(1, "16/B374D848")
'0000000100000016000000B3'
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from pgherd.errors import Refused

HEAD = (
    "# written by pgherd: changes here are overwritten;\n"
    "# put yours into the topology's settings or conf/postgresql.conf\n"
)

# What a session of ours begins with, whatever postgresql.conf, ALTER ROLE and ALTER DATABASE say: a
# client's own options outrank all of these. Only names that 14 to 18 know, since another one is
# FATAL at login. With this search_path a name without a schema is the system's.
SESSION: dict[str, str] = {
    "search_path": "pg_catalog",
    "role": "none",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "exit_on_error": "off",
    "row_security": "on",
    "client_min_messages": "error",
    "client_encoding": "UTF8",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "GMT",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "default_tablespace": "",
    "temp_tablespaces": "",
    "default_table_access_method": "heap",
    "local_preload_libraries": "",
    "jit": "off",
}
# What besides only a superuser may say. As a replica, so that event triggers leave our statements
# alone, but those that are ENABLE ALWAYS; and none of our statements gets into the server's log.
SUPERUSER_SESSION: dict[str, str] = {
    "session_preload_libraries": "",
    "session_replication_role": "replica",
    "lc_messages": "C",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_duration": "off",
}
# What is known of an application's session that we make to see what it sees: its deadlines are
# ours, and the warning of a commit that waited for no standby after all is heard.
APPLICATION_SESSION: dict[str, str] = {
    **{name: "0" for name in SESSION if name.endswith("_timeout")},
    "client_min_messages": "warning",
}

_SETTING = re.compile(
    r"^[ \t]*([A-Za-z_][\w.$]*)(?:[ \t]*=[ \t]*|[ \t]+)"
    r"(?:'((?:[^'\\\n]|''|\\.)*)'|([^\s#']+))",
    re.MULTILINE,
)
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def quote_value(value: str | float | bool) -> str:
    r"""Write a value for postgresql.conf. Raises Refused for NUL, NaN and infinity.

    Within quotes a backslash escapes there (GUC_scanstr in guc-file.l), so it is doubled, and a
    line end is written \n: the file could not hold it otherwise.
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused(f"{value} is no value for a PostgreSQL setting")
    if isinstance(value, int):
        return str(value)
    text = _no_nul(str(value))
    # 1e-07 is no bare number in guc-file.l, which wants a point in a real
    if isinstance(value, float) and re.fullmatch(r"-?[0-9]+\.[0-9]+", text):
        return text
    for plain, escaped in (("\\", r"\\"), ("'", "''"), ("\n", r"\n"), ("\r", r"\r")):
        text = text.replace(plain, escaped)
    return f"'{text}'"


def render_settings(base_text: str, extra: Mapping[str, str | int | float | bool]) -> str:
    """Write our pgherd.conf: the base text, then the extra settings by name.

    PostgreSQL takes the last of two equal settings, so `extra` wins. The base text is not checked.
    Raises Refused for a bad name or value.
    """
    base = base_text if base_text.endswith("\n") or not base_text else base_text + "\n"
    lines = []
    for name, value in sorted(extra.items()):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.$]*", name):
            raise Refused(f"{name!r} is no name of a PostgreSQL setting")
        lines.append(f"{name} = {quote_value(value)}\n")
    return HEAD + base + "".join(lines)


def read_settings(text: str) -> dict[str, str]:
    """Read the settings of a configuration file, the last of equal names; includes are none.

    It takes what guc-file.l takes, and does not judge: a line that PostgreSQL would refuse may give
    a setting as well.
    """
    found = {}
    for name, quoted, bare in _SETTING.findall(text):
        value = re.sub(r"\\(.)|''", _unescaped, quoted) if quoted else bare
        found[name.lower()] = value
    return {name: value for name, value in found.items() if not name.startswith("include")}


def _unescaped(found: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r", None: "'"}.get(found[1], found[1])


def conninfo(**pairs: str | int | None) -> str:
    """Write a libpq connection string; what is None is left out. Raises Refused for NUL.

    Whether libpq knows the keywords is not checked.
    """
    return " ".join(
        f"{_no_nul(key)}={_conninfo_value(str(int(value) if isinstance(value, bool) else value))}"
        for key, value in pairs.items()
        if value is not None
    )


def read_conninfo(text: str) -> dict[str, str]:
    """Read a connection string as libpq does, a URI too; nothing where it cannot be read.

    A password may be in it.
    """
    if text.lstrip().startswith(("postgresql://", "postgres://")):
        # libpq itself; it takes a while to load, and hardly any primary_conninfo is a URI.
        from psycopg import ProgrammingError  # noqa: PLC0415
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

        try:
            return {key: str(value) for key, value in conninfo_to_dict(text.lstrip()).items()}
        except (ProgrammingError, ValueError):  # no such URI, or no text of UTF-8
            return {}
    pairs = re.findall(r"(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)+))", text)
    return {key: re.sub(r"\\(.)", r"\1", quoted or bare) for key, quoted, bare in pairs}


def session_options(settings: Mapping[str, str]) -> str:
    r"""Write settings as PGOPTIONS has them, libpq's `options`: a backslash saves a blank there.

    >>> session_options({"default_transaction_isolation": "read committed"})
    '-c default_transaction_isolation=read\\ committed'
    """
    escaped = {name: re.sub(r"([\\\s])", r"\\\1", value) for name, value in settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in escaped.items())


def sql_literal(text: str) -> str:
    """Write text as an SQL literal, whatever standard_conforming_strings says. Raises Refused."""
    quoted = "'" + _no_nul(text).replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def lsn_to_int(text: str) -> int:
    """Read a WAL position as the number of its byte. Raises Refused for other text."""
    match = _LSN.fullmatch(text)
    if not match:
        raise Refused(f"{text!r} is no WAL position like 16/B374D848")
    return int(match[1], 16) << 32 | int(match[2], 16)


def parse_controldata(text: str) -> dict[str, str]:
    """Read the lines of pg_controldata; those without a colon are left out.

    The keys are PostgreSQL's words, translated ones too: run it with LC_ALL=C.
    """
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _conninfo_value(value: str) -> str:
    if re.fullmatch(r"[^\s'\\]+", _no_nul(value)):
        return value
    return "'" + value.replace("\\", r"\\").replace("'", r"\'") + "'"


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise Refused("text for PostgreSQL cannot hold the character NUL")
    return text
