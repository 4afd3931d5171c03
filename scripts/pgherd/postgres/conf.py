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

SEGMENT_SIZE = 16 * 2**20  # initdb's default (--wal-segsize)
HEAD = (
    "# written by pgherd: changes here are overwritten;\n"
    "# put yours into the topology's settings or conf/postgresql.conf\n"
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


def conninfo(**pairs: str | int | None) -> str:
    """Write a libpq connection string; what is None is left out. Raises Refused for NUL.

    Whether libpq knows the keywords is not checked.
    """
    return " ".join(
        f"{_no_nul(key)}={_conninfo_value(str(int(value) if isinstance(value, bool) else value))}"
        for key, value in pairs.items()
        if value is not None
    )


def sql_literal(text: str) -> str:
    """Write text as an SQL literal, whatever standard_conforming_strings says. Raises Refused."""
    quoted = "'" + _no_nul(text).replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def sql_identifier(text: str) -> str:
    """Write a name in double quotes, so that its case is kept. Raises Refused if it is empty."""
    if not text:
        raise Refused("an SQL name cannot be empty")
    return '"' + _no_nul(text).replace('"', '""') + '"'


def escape_pgpass(text: str) -> str:
    """Escape one field of a password file. Raises Refused for what cannot stand on one line.

    A field that is only ``*`` keeps meaning every value (libpq, passwordFromFile in fe-connect.c).
    """
    if re.search(r"[\r\n]", _no_nul(text)):
        raise Refused("a field of a password file cannot hold the end of a line")
    return text.replace("\\", r"\\").replace(":", r"\:")


def passfile_line(host: str, port: int | str, database: str, user: str, password: str = "") -> str:
    """Write a line of a password file, without its end; without password, the line's beginning.

    Replication connections have the database ``replication``. Raises Refused as `escape_pgpass`.
    """
    return ":".join(map(escape_pgpass, (host, str(port), database, user, password)))


def lsn_to_int(text: str) -> int:
    """Read a WAL position as the number of its byte. Raises Refused for other text."""
    match = _LSN.fullmatch(text)
    if not match:
        raise Refused(f"{text!r} is no WAL position like 16/B374D848")
    return int(match[1], 16) << 32 | int(match[2], 16)


def int_to_lsn(position: int) -> str:
    """Write a WAL position as PostgreSQL 14 to 18 do (LSN_FORMAT_ARGS). Raises Refused."""
    if not 0 <= position < 2**64:
        raise Refused(f"{position} is outside of the WAL's 64 bits")
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def wal_file_name(timeline: int, lsn: int | str, segment_size: int = SEGMENT_SIZE) -> str:
    """Name the file that holds the byte at `lsn` (XLogFileName in xlog_internal.h).

    On the very border of two files PostgreSQL's pg_walfile_name() named the earlier one before 17.
    Raises Refused for a timeline or a segment size that cannot be.
    """
    position = lsn_to_int(lsn if isinstance(lsn, str) else int_to_lsn(lsn))
    if not 1 <= timeline < 2**32:
        raise Refused(f"{timeline} is no timeline: they count from 1")
    if not 2**20 <= segment_size <= 2**30 or segment_size & (segment_size - 1):
        raise Refused(f"{segment_size} is no WAL segment size: a power of 2 from 1 MB to 1 GB")
    high, low = divmod(position // segment_size, 2**32 // segment_size)
    return f"{timeline:08X}{high:08X}{low:08X}"


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
