"""The keeper: a shell on the remote host that lives as long as its client talks to it.

It is the first session of a connection, and stays. It tells what the host is like, holds locks, and
ends commands: all those of its client where the client or the connection is gone, which a
command cannot notice by itself. A command carries a mark in its environment, so its children are
found as well, and a process that has its number by chance is not hit.
"""

from __future__ import annotations

import math
import re
import secrets
import shlex
import time
from dataclasses import dataclass
from typing import Any

import paramiko

from pgherd.errors import Refused, Unreachable
from pgherd.hosts.base import About
from pgherd.hosts.commands import assignments

MARK = "PGHERD_RUN"
ANSWER_SECONDS = 15.0
SHOWN = 300  # characters of what a host said in place of an answer
MOST = 65536  # bytes of what a host tells of itself
PROBE = 'it\'s \\\\ "$HOME" `id` !!\n*'  # what is no POSIX shell makes something else of it

# With links resolved, also where the end of the path is not there yet; `readlink -m` is GNU's.
RESOLVE = r"""
resolve() {
    readlink -m "$1" 2>/dev/null && return
    there=$1 rest=
    until [ -e "$there" ] || [ -L "$there" ] || [ "$there" = / ]; do
        rest=/${there##*/}$rest there=${there%/*}
        there=${there:-/}
    done
    found=$(readlink -f "$there") || found=$there
    found=${found%/}$rest
    printf '%s\n' "${found:-/}"
}
"""

SCRIPT = (
    RESOLVE
    + r"""
has() { command -v "$1" >/dev/null 2>&1 && echo yes; }
# The processes with this in their environment. busybox's grep reads no further than a NUL.
if printf 'a\0b' | grep -qF -e b; then
    carry() { grep -lsF -e "$1" /proc/[0-9]*/environ; }
else
    carry() {
        for environ in /proc/[0-9]*/environ; do
            [ ! -r "$environ" ] || ! tr '\0' '\n' <"$environ" | grep -qF -e "$1" || echo "$environ"
        done
    }
fi
marked() {
    for process in $(carry "$name=$1"); do
        process=${process#/proc/}
        printf '%s\n' "${process%/*}"
    done
}
# A command may be starting now: it is looked for again.
finish() {
    quiet=0
    for sign in TERM TERM TERM TERM TERM KILL; do
        these=$(marked "$1")
        if [ "$these" ]; then kill -s "$sign" $these; else quiet=$((quiet + 1)); fi
        [ "$quiet" -lt 2 ] || return 0
        sleep 1
    done
}
# $1 a descriptor, $2 the lock's file, $3 who asks for it
lock() {
    fault=$({ (umask 077 && mkdir -p "${2%/*}") && : >>"$2"; } 2>&1) || {
        printf 'failed %s\n' "$(printf %s "$fault" | tr '\n' ' ')"
        return
    }
    eval "exec $1<>\"\$2\""
    if flock -n "$1"; then
        printf '%s\n' "$3" >"$2"
        echo held
    else
        eval "exec $1>&-"
        printf 'busy %s\n' "$(tr '\n' ' ' <"$2")"
    fi
}
# For children: a lock is held as long as anybody has its descriptor.
unlocked() { exec 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; }
hear() {
    if [ "$bounded" ]; then
        heard=$(unlocked; timeout "$patience" sh -c 'IFS= read -r heard && printf %s "$heard"')
    else
        IFS= read -r heard
    fi
}

printf 'pgherd-%s\n' "$mark"
case $root in
"~") root=$HOME ;;
"~/"*) root=$HOME/${root#"~/"} ;;
esac
bounded=
timeout -k 5 5 true 2>/dev/null && bounded=yes
[ "$1" = "$probe" ] && echo posix=yes
printf '%s\n' "system=$(uname -sm)" "home=$HOME" "root=$(resolve "$root")" "bounded=$bounded" \
    "docker=$(has docker)" "flock=$(has flock)" "clock=$(date +%s.%N)" told
exec 2>/dev/null
trap '' PIPE HUP
while hear; do
    case $heard in
    '') echo . ;;
    alive) echo yes ;;
    end\ *) { unlocked; finish "$mark-${heard#end }."; } >/dev/null & ;;
    lock\ *)
        file=${heard#lock [0-9] }
        descriptor=${heard#lock } descriptor=${descriptor%% *}
        hear && lock "$descriptor" "$file" "$heard"
        ;;
    free\ *)
        eval "exec ${heard#free }>&-"
        echo freed
        ;;
    esac
done
finish "$mark-"
exit
"""
)


@dataclass(frozen=True)
class HostFacts:
    """What a host told of itself at the beginning.

    Attributes:
        mark: what the commands of this connection carry in their environment.
        home: the user's home directory.
        root: where pgherd's files lie.
        bounded: it has a `timeout` that can be used.
        flock: it has `flock`.
    """

    mark: str
    home: str
    root: str
    bounded: bool
    flock: bool
    about: About


def start(channel: Any, destination: str, root: str, patience: int) -> HostFacts:
    """Start the keeper on a fresh session and return what it told.

    Raises:
        Unreachable: no commands can be run there, or there is no Docker.
        Refused: the login shell prints into their output.
    """
    mark = secrets.token_hex(8)
    script = assignments(mark=mark, name=MARK, root=root, patience=patience, probe=PROBE) + SCRIPT
    channel.settimeout(ANSWER_SECONDS)
    try:
        # Words that every shell understands; the rest is read from stdin.
        channel.exec_command(f"exec sh -s {shlex.quote(PROBE)}")
        sent = time.time()
        channel.sendall(script.encode())
    except (paramiko.SSHException, EOFError, OSError) as fault:
        raise Unreachable(_no_commands(destination, str(fault))) from None
    noise, said = _listen(channel, destination, mark)
    heard = time.time()
    if noise.strip():
        raise Refused(
            f"The login shell of {destination} prints {_printable(noise)} before each command; "
            "commands cannot be read apart: let its start-up files (such as ~/.bashrc) print only "
            "where the shell is interactive."
        )
    values = dict(line.split("=", 1) for line in said.split("\n") if "=" in line)
    _check(values, destination)
    middle, doubt = (sent + heard) / 2, (heard - sent) / 2
    clock, inexact = _clock(values["clock"])
    return HostFacts(
        mark,
        values["home"],
        values["root"],
        values["bounded"] == "yes",
        values["flock"] == "yes",
        About(values["system"], clock - middle, doubt + inexact),
    )


def _listen(channel: Any, destination: str, mark: str) -> tuple[str, str]:
    """Return what came before the keeper's own words, and these."""
    came, begin, end = b"", f"pgherd-{mark}\n".encode(), b"\ntold\n"
    try:
        while end not in came.partition(begin)[2]:
            piece = channel.recv(65536)
            if not piece:
                came += channel.recv_stderr(65536)
                raise Unreachable(_no_commands(destination, came.decode("utf-8", "replace")))
            came += piece
            if len(came) > MOST:
                break
    except TimeoutError:
        seconds = f"nothing of use within {ANSWER_SECONDS:g} s"
        said = came.decode("utf-8", "replace") or seconds
        raise Unreachable(_no_commands(destination, said)) from None
    noise, _, said = (text.decode("utf-8", "replace") for text in came.partition(begin))
    return noise, said


def _check(values: dict[str, str], destination: str) -> None:
    if {"posix", "home", "root", "bounded", "flock", "system", "clock"} - values.keys():
        raise Unreachable(
            f"The login shell of {destination} takes quotes and backslashes for something else "
            "than a POSIX shell does. The account needs sh, dash, bash or another of that kind: "
            "sudo chsh -s /bin/sh USER there."
        )
    if values.get("docker") != "yes":
        raise Unreachable(
            f"{destination} has no docker command: install Docker there (Debian: apt-get install "
            "docker.io), or put it on the PATH of logins without a terminal (`ssh "
            f"{destination} 'echo $PATH'` shows that)."
        )


def _no_commands(destination: str, said: str) -> str:
    return (
        f"{destination} lets you log in, but runs no commands: it answered {_printable(said)}.\n"
        "The account needs a POSIX shell as its login shell (sudo chsh -s /bin/sh USER there), and "
        "no ForceCommand of sshd_config or command= of authorized_keys in its way."
    )


def _printable(said: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return f'"{text[:SHOWN]}{"…" if len(text) > SHOWN else ""}"'


def _clock(text: str) -> tuple[float, float]:
    """Return the seconds that `date +%s.%N` printed, and by how many they may be off."""
    try:
        return float(text), 0.0
    except ValueError:  # without %N, as of busybox
        whole = text.partition(".")[0]
    return (
        (int(whole) + 0.5, 0.5) if re.fullmatch("[0-9]{1,12}", whole) else (time.time(), math.inf)
    )
