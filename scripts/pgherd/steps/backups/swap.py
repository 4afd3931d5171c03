"""The renaming by which a directory that was set aside comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgherd.errors import Error
from pgherd.host import Host
from pgherd.shell import Script, Tool, assignments
from pgherd.steps import aside
from pgherd.steps.backups.copies import Copy

PUT_BACK = "put back"  # the end of the journal's line
_LAST_WORD = r"""
[ ! -r "$journal" ] || awk -F '\t' -v path="$path" '
  $2 == path { why = $3 }
  END { print why }' "$journal"
"""


class Swap(NamedTuple):
    """A copy of a place of tablespaces, where it belongs, and by what name what is there goes.

    Without a copy nothing comes back there. Where the copy is not there any more, what is in its
    place came from it, before an earlier run was killed.
    """

    copy: str
    there: str
    target: str


def swap(
    host: Host,
    copy: Copy,
    there: str,
    who: str,
    why: str,
    stamp: str,
    more: Sequence[Swap] = (),
) -> str:
    """Rename a copy to where it was; what is there is set aside first, by that time.

    `more` is what comes back, and is set aside, as one with it.

    Returns:
        As what; empty where nothing was there.

    Raises:
        Error: it could not be renamed.
    """
    target = f"{there}_bk_{stamp}"
    script = script_of(host, copy.path, there, target, who=who, why=why, more=more)
    result = host.run(Tool("sh")["-eus"], stdin=Script((script,), ("put-back",)))
    if not result.ok:
        raise Error(f"{copy.path} cannot be put back as {there}: {result.err.strip()}")
    return target if "moved" in result.out else ""


def script_of(
    host: Host,
    copy: str,
    there: str,
    target: str,
    *,
    who: str,
    why: str,
    more: Sequence[Swap] = (),
) -> str:
    """Return the shell text for it, which ends with the line `moved`, or an empty one.

    The data directory goes first and comes back last: nothing runs without it.
    """
    left = aside.entry(host, target, f"{who}: {why}")
    back = aside.entry(host, copy, f"{who}: {PUT_BACK}")
    # An empty directory gives way; `mv` alone would move the copy into one that is there.
    # Nothing is said before the end: where nobody hears it any more, a word ends a script. Nor does
    # a signal end it between the two renamings.
    return (
        assignments(there=there, target=target)
        + f"""\
trap '' HUP INT TERM
moved=
if [ -e "$there" ] && ! rmdir -- "$there" 2>/dev/null; then
  [ ! -e "$target" ]
  mv -- "$there" "$target"
  moved=moved
  {left}fi
"""
        + "".join(_with(host, other, who, why) for other in more)
        + assignments(copy=copy, there=there)
        + f"""\
mv -- "$copy" "$there"
{back}echo "$moved"
"""
    )


def _with(host: Host, other: Swap, who: str, why: str) -> str:
    """Return the part of the script for a place of tablespaces.

    One that is empty is kept as well, and one stands for it where it is not there: see
    `aside.move_aside`.
    """
    left = aside.entry(host, other.target, f"{who}: {why}")
    back = aside.entry(host, other.copy, f"{who}: {PUT_BACK}")
    return (
        assignments(copy=other.copy, there=other.there, target=other.target)
        + f"""\
if [ -e "$there" ] && {{ [ -z "$copy" ] || [ -e "$copy" ]; }}; then
  [ ! -e "$target" ]
  mv -- "$there" "$target"
  {left}elif [ -n "$moved" ]; then
  [ ! -e "$target" ]
  mkdir -p -- "$target"
fi
if [ -n "$copy" ] && [ -e "$copy" ]; then
  mv -- "$copy" "$there"
  {back}fi
"""
    )


def was_last_put_back(host: Host, path: str) -> bool:
    """Tell whether the last that the journal knows of a copy is that it was put back."""
    text = assignments(journal=aside.journal(host), path=path) + _LAST_WORD
    said = host.run(Tool("sh")["-s"], stdin=Script((text,)), reads=True).out
    return said.strip().endswith(PUT_BACK)
