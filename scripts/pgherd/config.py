"""Files and environment: the only reader of conf/ and of the INVOKE_ variables.

`load` makes a Topology of a TOML file, or refuses it with every fault there is, each with its path
in the file:

    conf/pair.toml: 2 faults:
      group.imgae: unknown key (did you mean image?)
      nodes.pstandby.port: must be a whole number from 1 to 65535, not "54x"
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from pgherd import faults, placement
from pgherd.errors import Refused, escaped, quoted
from pgherd.rules import VOLUME
from pgherd.topology import Topology

ROOT = Path(__file__).resolve().parents[2]  # where tasks.py is
VARIABLE = "INVOKE_TOPOLOGY"
SSH_CONFIG_VARIABLE = "INVOKE_SSH_CONFIG"
_DEFAULT = ROOT / "conf" / "pair.toml"
_LONG_PATH = 300  # characters
_LARGEST = 1_000_000  # bytes: far more than a topology has


def load(
    path: Path | None = None, environ: Mapping[str, str] | None = None, on: str = ""
) -> Topology:
    """Read the topology: of `path`, else of INVOKE_TOPOLOGY, else of conf/pair.toml.

    A relative INVOKE_TOPOLOGY is looked for in the current directory, then in the project. Its
    `source` is the file's name as shown to the operator. `on`, or INVOKE_HOST, is the host to place
    the nodes on for which the file says none or "local". Raises Refused, and nothing else, for
    whatever is wrong with the file; it does not look at hosts, images or data directories.
    """
    variables = os.environ if environ is None else environ
    asked = variables.get(VARIABLE, "")
    host = placement.asked_host(on, variables.get(placement.VARIABLE, ""))
    if path is not None:
        found, text = _read([path], "give another file")
    elif asked:
        found, text = _read([Path.cwd() / asked, ROOT / asked], f"correct {VARIABLE}")
    else:
        found, text = _read([_DEFAULT], f"restore it, or name another file by {VARIABLE}")
    source = _shown_path(found)
    tables = _parsed(text, source)
    try:
        asked_for = placement.placed(tables, host) if host else tables
        moved = host if asked_for != tables else ""
        context = {"source": source, "locate": local_path, "placed_on": moved}
        return Topology.model_validate(asked_for, context=context)
    except ValidationError as error:
        raise Refused(faults.told(source, error)) from None


def ssh_config() -> str | None:
    """Return the file to be read in place of the user's ssh_config, if INVOKE_SSH_CONFIG says one.

    Raises:
        Refused: it cannot be read.
    """
    asked = os.environ.get(SSH_CONFIG_VARIABLE, "")
    if not asked:
        return None
    path, _text = _read([Path.cwd() / asked], f"correct {SSH_CONFIG_VARIABLE}")
    return str(path)


def password_variable(role: str) -> str:
    """Return the name of the variable that says a role's password where one is to be made."""
    return f"INVOKE_{role.upper()}_PASSWORD"


def password_asked(role: str) -> str:
    """Return the password that the environment says for a role; empty if it says none.

    Raises:
        Refused: it is more than one line, or no UTF-8 text.
    """
    value = os.environ.get(password_variable(role), "")
    if "\n" in value or "\r" in value or not value.isprintable():
        raise Refused(f"{password_variable(role)} must be one line of UTF-8 text, the password.")
    return value


def forget_libpq_variables() -> None:
    """Take libpq's variables out of this process: PGHOSTADDR would lead to another server.

    What is connected to, and how, is said in the topology and nowhere else.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def local_path(data: str) -> Path:
    """Make a data path of this machine absolute: ~ is the home, other paths begin at the project.

    Links are not followed. Raises Refused for a named volume and for an unknown home directory.
    """
    if data.startswith(VOLUME):
        raise Refused(f"{data} is a Docker volume: it has no path on this machine")
    try:
        return Path(os.path.normpath(ROOT / Path(data).expanduser()))
    except RuntimeError:
        raise Refused(f"no home directory is known for {data}: write the path in full") from None


def conf_file(name: str) -> str:
    """Read a file of conf/, such as postgresql.conf. Raises Refused if it cannot be read."""
    return _read([ROOT / "conf" / name], "restore it")[1]


def texts(topology: str) -> dict[str, str]:
    """Return the texts of a topology file, as its `source` has it, and of conf/, where they are."""
    names = [topology, "conf/postgresql.conf", "conf/pg_hba.conf"]
    paths = {name: ROOT / name for name in names if name and (ROOT / name).is_file()}
    return {name: path.read_text("utf-8", "replace") for name, path in paths.items()}


def secrets_dir(group_name: str, host: str = "local") -> Path:
    """Say where the secrets of a group lie; one placed on another host by `on` has its own.

    It makes no directory. Raises Refused for names that would lead elsewhere.
    """
    name = group_name if host == "local" else f"{group_name}@{host}"
    if re.search(r"[/\x00]", name) or name in {"", ".", ".."}:
        raise Refused(f"{quoted(name)} cannot name a directory of secrets")
    return ROOT / "data" / "secrets" / name


def _read(candidates: list[Path], cure: str) -> tuple[Path, str]:
    """Read the first file that exists."""
    path = candidates[0]
    for path in candidates:
        shown = _shown_path(path)
        try:
            return path, _bytes(path).decode("utf-8-sig")
        except FileNotFoundError:
            continue
        except IsADirectoryError as fault:
            raise Refused(f"{shown} is {fault.strerror}, not a file: {cure}") from None
        except UnicodeDecodeError as error:
            raise Refused(f"{shown} is not UTF-8 text (byte {error.start}): save it so") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its name is not valid"
            raise Refused(f"{shown} cannot be read ({reason}): {cure}") from None
    places = " and no ".join(_shown_path(path) for path in dict.fromkeys(candidates))
    raise Refused(f"there is no {places}: {cure}")


def _bytes(path: Path) -> bytes:
    """Read a file; a pipe of the shell (`<(…)`) too, but nothing else that may never end.

    Raises:
        IsADirectoryError: it is a directory, a device or the like; `strerror` says what.
        OSError: it cannot be read, or is too large to be a file of ours.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a directory")
    pipe = stat.S_ISFIFO(mode) and path.parent == Path("/dev/fd")
    if not (stat.S_ISREG(mode) or pipe):
        raise IsADirectoryError(errno.EISDIR, "a device or a pipe")
    with path.open("rb") as file:
        found = file.read(_LARGEST + 1)
    if len(found) > _LARGEST:
        raise OSError(errno.EFBIG, f"more than {_LARGEST} bytes")
    return found


def _shown_path(path: Path) -> str:
    """Name a file as the operator would: from the project if it lies there."""
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    return escaped(shown if len(shown) <= _LONG_PATH else f"{shown[:_LONG_PATH]}…")


def _parsed(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise Refused(f"{source} is nested too deeply to be a topology") from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{source} is not valid TOML: {error}; correct it there") from None
    except ValueError:  # Python's limit on the digits of a number
        raise Refused(f"{source} is not valid TOML: it has a number too long to read") from None
