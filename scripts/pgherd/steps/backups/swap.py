"""The renaming by which a directory that was set aside comes back."""

from __future__ import annotations

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


def swap(host: Host, copy: Copy, there: str, who: str, why: str) -> str:
    """Rename a copy to where it was; what is there is set aside first.

    Returns:
        As what; empty where nothing was there.

    Raises:
        Error: it could not be renamed.
    """
    target = aside.name_aside(there)
    script = script_of(host, copy.path, there, target, who=who, why=why)
    result = host.run(Tool("sh")["-eus"], stdin=Script((script,)))
    if not result.ok:
        raise Error(f"{copy.path} cannot be put back as {there}: {result.err.strip()}")
    return target if "moved" in result.out else ""


def script_of(host: Host, copy: str, there: str, target: str, *, who: str, why: str) -> str:
    """Return the shell text for it, which ends with the line `moved`, or an empty one."""
    left = aside.entry(host, target, f"{who}: {why}")
    back = aside.entry(host, copy, f"{who}: {PUT_BACK}")
    # An empty directory gives way; `mv` alone would move the copy into one that is there.
    # Nothing is said before the end: where nobody hears it any more, a word ends a script. Nor does
    # a signal end it between the two renamings.
    return (
        assignments(copy=copy, there=there, target=target)
        + f"""\
trap '' HUP INT TERM
moved=
if [ -e "$there" ] && ! rmdir -- "$there" 2>/dev/null; then
  [ ! -e "$target" ]
  mv -- "$there" "$target"
  moved=moved
  {left}fi
mv -- "$copy" "$there"
{back}echo "$moved"
"""
    )


def was_last_put_back(host: Host, path: str) -> bool:
    """Tell whether the last that the journal knows of a copy is that it was put back."""
    text = assignments(journal=aside.journal(host), path=path) + _LAST_WORD
    said = host.run(Tool("sh")["-s"], stdin=Script((text,)), reads=True).out
    return said.strip().endswith(PUT_BACK)
