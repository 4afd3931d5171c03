"""Who signs a group's certificates, and who is trusted: one authority, and two while they change.

A new authority comes in two stages. First both are trusted everywhere (`begin`, and `trust` once
that is so); then the new one signs, and the old one is trusted no more (`take`, `finish`). Between
the two clients are given the new `ca.crt`. What a killed run left, the files tell:
`ca.coming.pem` is on its way, `ca.trusted.pem` is trusted everywhere.
"""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pgherd.config.nodes import Group, Node
from pgherd.config.topology import Topology
from pgherd.config.values import LOCAL, Destination, for_others, is_everywhere
from pgherd.errors import Refused
from pgherd.hosts.commands import Secret, Trace
from pgherd.security import tls_files
from pgherd.security.tls_files import Files

if TYPE_CHECKING:
    from pgherd.security.x509 import Authority, Details


class Authorities:
    """The files of one group's authorities, or of one that the user has given it."""

    def __init__(self, files: Files, group: Group, locate: Callable[[str], Path]) -> None:
        self._files = files
        self._group = group.name
        self._printed = False
        self.own = bool(group.tls_ca)
        self.root = locate(group.tls_ca) if group.tls_ca else files.path("ca.crt")
        self.key = locate(group.tls_ca_key) if group.tls_ca_key else files.path("ca.key")
        self._coming, self._trusted = files.path("ca.coming.pem"), files.path("ca.trusted.pem")

    def trusted(self) -> Secret:
        """Return the text of `ca.crt`; make the authority where there is none.

        It is no secret, and handled like one: with `--dry` its file is made by the script, and the
        value is empty until then.
        """
        if self.own or self.root.exists():
            self._files.certificates(self.root)  # before any node is told to trust it
            return self._files.secret(self.root)
        if not self._files.trace.dry:
            self._make()
            return self._files.secret(self.root)
        if not self._printed:
            self._files.trace.shell(tls_files.authority(self._group, self.root, self.key))
        self._printed = True
        return Secret("", str(self.root))

    def _make(self) -> None:
        """Make an authority; with the key that a killed run has made, so that it may come back."""
        from pgherd.security import x509  # noqa: PLC0415

        known = self._files.read(self.key) if self.key.exists() else ""
        certificate, key = x509.new_authority(self._group, known)
        if not known:
            self._files.write(self.key, key)
        self._files.write(self.root, certificate)

    def signer(self) -> Authority:
        """Return who signs: of those that are trusted, the one whose key there is.

        Raises:
            Refused: the key is missing, or is none that could sign.
        """
        from pgherd.security import x509  # noqa: PLC0415

        if not self.key.exists():
            other = "" if self.own else f", or {self._afresh(f'move {self.root} away')}"
            raise Refused(
                f"A certificate is to be made, and {self.key} is missing, which signs it: put it "
                f"back{other}."
            )
        try:
            return x509.authority(self._files.read(self.root), self._files.read(self.key))
        except Refused as fault:
            cure = "" if self.own else f"; if they are lost, {self._afresh('move both away')}"
            raise Refused(
                f"{self.root} and {self.key}: {fault.sentence}. Put back the two that belong "
                f"together{cure}."
            ) from None

    @staticmethod
    def _afresh(first: str) -> str:
        """Say how another authority is made in one stage, where the old one can sign no more."""
        return (
            f"{first}, and `invoke tls --renew` makes another authority: give its ca.crt to the "
            "clients"
        )

    def check(self) -> None:
        """Look whether what is here can sign, before anything is changed; make nothing.

        Raises:
            Refused: it cannot, and what to do.
        """
        from pgherd.security import x509  # noqa: PLC0415

        if self.own or self.root.exists():
            self._files.certificates(self.root)
            self.signer()
        elif self.key.exists():  # its certificate is made again
            try:
                x509.new_authority(self._group, self._files.read(self.key))
            except Refused as fault:
                raise Refused(f"{self.key}: {fault.sentence}. Put {self.root} back.") from None

    def check_other(self) -> None:
        """Look whether the one that is on its way can sign and is trusted; make nothing.

        Raises:
            Refused: it cannot, and what to do.
        """
        from pgherd.security import x509  # noqa: PLC0415

        way = self._trusted if self.both else self._coming
        if not way.exists():
            return
        trusts = self._files.read(self.root) if self.both and self.root.exists() else ""
        try:
            text = self._files.read(way)
            x509.authority(trusts if self.both else text, x509.key_of(text))
        except Refused as fault:
            raise Refused(
                f"{way}, of the authority that is to come, and {self.root}: {fault.sentence}. Put "
                f"them back, or remove {way.name} to have another one made from the beginning."
            ) from None

    def known(self) -> list[Details]:
        """Return what is said of those that are trusted; make nothing."""
        from pgherd.security import x509  # noqa: PLC0415

        if not self.root.exists():
            return []
        return [x509.details(c) for c in self._files.certificates(self.root)]

    def fault(self) -> str:
        """Say what is wrong with what is trusted, with its cure; empty for nothing. Make nothing.

        A key that is kept elsewhere is no fault until it has to sign.
        """
        if not self.root.exists():
            return f"{self.root}, which clients trust, is missing: {self._brought_back()}"
        if not self.key.exists():
            return ""
        try:
            self.signer()
        except Refused as fault:
            return fault.sentence
        return ""

    def _brought_back(self) -> str:
        """Say what brings `ca.crt` back: what its key has signed stays good by one of that key."""
        if self.own:
            return "put it back"
        if self.key.exists():
            return f"put a copy back, or `invoke tls --renew` makes it again, by {self.key}"
        return (
            "put copies of it and ca.key back; if they are lost, `invoke tls --renew` makes "
            "another authority: give its ca.crt to the clients"
        )

    # --- another one ---

    @property
    def both(self) -> bool:
        """Whether a new one is trusted everywhere, and signs from the next stage on."""
        return self._trusted.exists()

    def begin(self) -> None:
        """Make a new authority where none is on its way, and trust it beside the old one.

        Raises:
            Refused: the authority is the user's own.
        """
        from pgherd.security import x509  # noqa: PLC0415

        self.trusted()
        if not self._coming.exists():
            certificate, key = x509.new_authority(self._group)
            self._files.write(self._coming, key + certificate)
        old, new = (self._files.read(path) for path in (self.root, self._coming))
        added = x509.pem(x509.read(new)[0])
        if added not in old:
            self._files.write(self.root, old + added)

    def trust(self) -> None:
        """Take note that the new authority is trusted everywhere."""
        self._coming.rename(self._trusted)

    def take(self) -> None:
        """Have the new authority sign from here on."""
        from pgherd.security import x509  # noqa: PLC0415

        key = x509.key_of(self._files.read(self._trusted))
        if self._files.read(self.key) != key:
            self._files.write(self.key, key)

    def forget_old(self) -> None:
        """Trust the new authority alone."""
        from pgherd.security import x509  # noqa: PLC0415

        new = x509.pem(x509.read(self._files.read(self._trusted))[0])
        if self._files.read(self.root) != new:
            self._files.write(self.root, new)

    def finish(self) -> None:
        """Take note that the new authority is the only one."""
        self._files.remove(self._trusted)


# --- the group's certificates ---

# The files lie beside the passwords, on the machine that runs invoke, each of mode 0600: `ca.crt`
# and `ca.key`, `NODE.pem` with a node's key and certificate and, where they are asked for,
# `NODE.client.pem` for the replication role. What is there is used again; what is missing, about to
# expire, for other names or of another authority is made anew, for which alone `ca.key` is needed.

SOON = 30.0  # days before its end in which a certificate is renewed, and warned of
REPLICATOR = "replicator"  # the role, which a client certificate names (clientcert=verify-full)


class Certificates:
    """The certificates of one group, on the machine that runs invoke."""

    def __init__(
        self, directory: Path, topology: Topology, trace: Trace, locate: Callable[[str], Path]
    ) -> None:
        """Take where they lie; `locate` makes a path of the topology file absolute."""
        self._unit = f"pgherd {topology.group.name}"
        self._on = topology.encryption.on
        self._files = Files(directory, trace)
        self.authorities = Authorities(self._files, topology.group, locate)
        self._making = threading.RLock()  # nodes are brought up side by side
        self._printed: set[Path] = set()
        self._renewed: set[Path] = set()

    @property
    def root(self) -> Path:
        """The file with the authorities that are trusted, whether it is there or not."""
        return self.authorities.root

    @property
    def for_clients(self) -> str:
        """The file with what clients trust; empty without TLS."""
        return str(self.root) if self._on else ""

    # --- what is laid ---

    def trusted(self) -> Secret:
        """Return the text of `ca.crt`; make the authority where there is none."""
        with self._making:
            return self.authorities.trusted()

    def of_server(self, node: Node) -> Secret:
        """Return a node's key and certificate; make them where they are not as they ought to be."""
        return self._of(self.path(node), node.name, names(node), client=False)

    def of_client(self, node: Node) -> Secret:
        """Return the key and the certificate by which a node logs in as the replication role."""
        return self._of(self._client_path(node), REPLICATOR, (), client=True)

    def path(self, node: Node) -> Path:
        """Return the file with a node's key and certificate, whether it is there or not."""
        return self._files.path(f"{node.name}.pem")

    def _client_path(self, node: Node) -> Path:
        return self._files.path(f"{node.name}.client.pem")

    def renew(self, node: Node, *, client: bool) -> None:
        """Have a node's certificates made anew when they are asked for next."""
        self._renewed |= {self.path(node)} | ({self._client_path(node)} if client else set())

    def forget(self, node: Node) -> None:
        """Delete the keys and certificates of a node that is no more."""
        for path in (self.path(node), self._client_path(node)):
            self._files.remove(path)

    # --- what there is ---

    def known(self, node: Node) -> Details | None:
        """Return what a node's certificate says, if there is one; make nothing."""
        from pgherd.security import x509  # noqa: PLC0415

        path = self.path(node)
        return x509.details(self._files.certificates(path)[0]) if path.exists() else None

    def known_digest(self, node: Node) -> str | None:
        """Return the digest of what is to be laid for a node, if it is there; make nothing."""
        path = self.path(node)
        return digest(self._files.secret(path)) if path.exists() else None

    def good(self, node: Node) -> bool:
        """Tell whether a node's certificate is there and would be used as it is; make nothing."""
        if not self.root.exists():
            return False
        return self._usable(self.path(node), names(node), self._files.read(self.root))

    def cure(self, node: Node) -> str:
        """Return what helps against a certificate that ends soon."""
        limited = self.good(node)  # it would be used all the same: its authority ends then, too
        return f"`invoke tls --renew{'-ca' if limited else ''}`"

    def _of(self, path: Path, common: str, wanted: tuple[str, ...], *, client: bool) -> Secret:
        with self._making:
            trusted = self.trusted()
            there = path not in self._renewed and self._usable(path, wanted, trusted.value)
            if not there and self._files.trace.dry:
                self._print_making(path, common, wanted, client=client)
                return Secret("", str(path))
            if not there:
                self._make(path, common, wanted, client=client)
        return self._files.secret(path)

    def _usable(self, path: Path, wanted: tuple[str, ...], trusted: str) -> bool:
        from pgherd.security import x509  # noqa: PLC0415

        if not path.exists() or not trusted:  # with --dry, where nothing is made
            return False
        try:
            mine, *chain = x509.read(self._files.read(path))
        except Refused:
            return False
        found = x509.details(mine)
        by = x509.trusted_signer(mine, x509.read(trusted), chain)
        if by is None or found.days <= 0 or not set(wanted) <= set(found.names):
            return False
        return found.days > SOON or found.ends >= x509.details(by).ends  # a new one ends then too

    # --- making ---

    def _make(self, path: Path, common: str, wanted: tuple[str, ...], *, client: bool) -> None:
        from pgherd.security import x509  # noqa: PLC0415

        text = x509.issue(
            self.authorities.signer(), common=common, unit=self._unit, names=wanted, client=client,
        )  # fmt: skip
        self._files.write(path, text)
        self._renewed.discard(path)

    def _print_making(
        self, path: Path, common: str, wanted: tuple[str, ...], *, client: bool
    ) -> None:
        if path not in self._printed:
            purpose = "clientAuth" if client else "serverAuth"
            self._files.trace.shell(
                tls_files.signed_certificate(
                    path, self.root, self.authorities.key, common, self._unit, wanted, purpose
                )
            )
        self._printed.add(path)


def names(node: Node) -> tuple[str, ...]:
    """Return by which names and addresses a node is reached: those that its certificate is for."""
    found = [node.name, node.address, "localhost", "127.0.0.1", "::1"]
    found += [] if is_everywhere(node.listen) else [node.listen]
    if node.host != LOCAL:
        found.append(_host(node.host))
    elif is_everywhere(node.listen) or for_others(node.listen):
        found.append(platform.node())
    return tuple(dict.fromkeys(name for name in found if name and name.isascii()))


def digest(text: Secret) -> str:
    """Return the SHA-256 of what is laid for this text: it has a line's end."""
    return hashlib.sha256(f"{text.value}\n".encode()).hexdigest()


def _host(destination: str) -> str:
    """Return the machine's name of an SSH destination: `box` of `ada@box:2222`."""
    return Destination.parse(destination).host
