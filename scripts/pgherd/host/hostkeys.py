"""Is it really that host? Its key against known_hosts, as OpenSSH decides it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import paramiko

from pgherd.errors import Refused
from pgherd.host.keyfiles import Known, about, kind_of, line_of, own_keys, shown
from pgherd.host.sshconfig import SSH_PORT, Hop

REVOKED, AUTHORITY = "@revoked", "@cert-authority"
KRL = b"SSHKRL\n"  # how OpenSSH's binary lists of revoked keys begin
NO_FILE = "/dev/null"
RSA = "ssh-rsa"  # how a key of it is named; its signatures have names of their own:
RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")


class HostKeys(paramiko.RejectPolicy):  # type: ignore[misc]
    """Refuses every host key but those that known_hosts has for this hop.

    paramiko asks it about every key, since its own tables of known keys stay empty.
    """

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self.name = known_name(hop)
        self.files = [*hop.listed("userknownhostsfile"), *hop.listed("globalknownhostsfile")]
        self.known = list(about(self.files, self.name))
        self.portless: list[Known] = []  # what is known of the host's keys counts for each port
        if not hop.value("hostkeyalias") and not own_keys(self.known):
            self.portless = list(about(self.files, hop.host))

    def preferred(self, offered: tuple[str, ...]) -> tuple[str, ...]:
        """Put the algorithms first whose keys are known: servers have keys of several types."""
        kinds = {line.kind for line in own_keys([*self.known, *self.portless])}
        asked = self.hop.value("hostkeyalgorithms").split(",")
        usable = [name for name in asked if name in offered] or offered
        return tuple(sorted(usable, key=lambda name: _kind(name) not in kinds))

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:  # noqa: ARG002
        """Accept a known key by returning.

        Raises:
            Refused: it is revoked, unknown, or another one than is known.
        """
        blob = key.asbytes()
        lines = [*self.known, *self.portless]
        revoked = [str(line) for line in lines if (line.marker, line.blob) == (REVOKED, blob)]
        if revoked := revoked or _in_revoked_list(self.hop, blob):
            raise Refused(
                f"The key of the SSH server {self.hop} is revoked ({revoked[0]}): "
                f"{shown(blob)}.\nSomebody may use a stolen key: ask the host's administrator."
            )
        if any(line.blob == blob for line in own_keys(lines)):
            return
        keys = own_keys(self.known)
        if changed := [line for line in keys if line.kind == key.get_name()]:
            raise Refused(self._changed(changed[0], blob))
        raise Refused(self._unknown(blob, keys))

    def _changed(self, line: Known, blob: bytes) -> str:
        forget = shlex.join(["ssh-keygen", "-R", self.name, "-f", line.file])
        return (
            "THE KEY OF AN SSH SERVER HAS CHANGED: somebody may be listening in.\n"
            f"{self.hop} shows {shown(blob)},\n"
            f"but {line} has    {shown(line.blob)}.\n"
            "Nothing was sent to it. Only if you know that the host was installed anew, and its "
            f"administrator confirms the new key: {forget}\nThen accept it: {self._accept()}"
        )

    def _unknown(self, blob: bytes, others: list[Known]) -> str:
        text = (
            f"The key of the SSH server {self.hop} is not known under the name {self.name}: "
            f"{shown(blob)}.\n"
        )
        if others:
            text += (
                f"Beware: {others[0]} has a key of another type, which the server does not show: "
                f"{shown(others[0].blob)}. Somebody may be listening in.\n"
            )
        signed = [line for line in self.known if line.marker == AUTHORITY]
        if signed and not others:
            return text + (
                f"{signed[0]} trusts the certificates of an authority; pgherd verifies none, so it "
                "needs the key itself. Compare it with the one that the host's administrator "
                f"gives, then accept it: {self._accept(plain=blob)}"
            )
        if self.hop.value("knownhostscommand"):
            text += "(KnownHostsCommand of ssh_config is not asked: pgherd reads the files.)\n"
        if not set(self.hop.listed("userknownhostsfile")) - {NO_FILE}:
            return text + (
                "ssh_config gives no file to keep it in (UserKnownHostsFile), and pgherd verifies "
                "every key: name a file there, then accept the key by ssh."
            )
        return text + (
            "Compare it with the one that the host's administrator gives, then accept it: "
            f"{self._accept()}"
        )

    def _accept(self, plain: bytes = b"") -> str:
        """Return the command that asks the user about the key."""
        ssh, *rest = self.hop.command
        if self.hop.value("stricthostkeychecking").lower() != "ask":
            rest[:0] = ["-o", "StrictHostKeyChecking=ask"]
        if plain:
            kind = kind_of(plain)
            algorithm = RSA_SIGNATURES[0] if kind == RSA else kind
            rest[:0] = ["-o", f"HostKeyAlgorithms={algorithm}"]
        return f"{shlex.join([ssh, *rest])} (answer yes)"


def known_name(hop: Hop) -> str:
    """Return the name that a host has in known_hosts."""
    if alias := hop.value("hostkeyalias"):
        return alias
    return hop.host if hop.port == SSH_PORT else f"[{hop.host}]:{hop.port}"


def _kind(algorithm: str) -> str:
    """Return which type of key signs by an algorithm."""
    return RSA if algorithm in RSA_SIGNATURES else algorithm


def _in_revoked_list(hop: Hop, blob: bytes) -> list[str]:
    """Return where RevokedHostKeys has a key, if it has.

    Raises:
        Refused: the list cannot be read, so that nobody knows; OpenSSH refuses then, too.
    """
    found = []
    for file in hop.paths("revokedhostkeys"):
        try:
            if Path(file).read_bytes().startswith(KRL):
                raise Refused(
                    f"{hop}: pgherd reads RevokedHostKeys as text, but {file} is binary (a KRL)."
                )
            found.append(line_of(blob, file))
        except OSError as fault:
            raise Refused(
                f"{hop}: RevokedHostKeys {file} cannot be read ({fault.strerror}), so that its key "
                "cannot be checked: correct the file, or ssh_config."
            ) from None
    return [place for place in found if place]
