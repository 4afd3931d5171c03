"""The group's certificates: an authority and one certificate per node, kept as the passwords are.

The files lie beside the passwords, on the machine that runs invoke, each of mode 0600: `ca.crt` and
`ca.key`, `NODE.pem` with a node's key and certificate and, where they are asked for,
`NODE.client.pem` for the replication role. What is there is used again; what is missing, about to
expire, for other names or of another authority is made anew, for which alone `ca.key` is needed.
"""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pgherd.certificates import script
from pgherd.certificates.authorities import Authorities
from pgherd.certificates.files import Files
from pgherd.destination import Destination
from pgherd.errors import Refused
from pgherd.rules import LOCAL, for_others, is_everywhere
from pgherd.shell import Secret, Trace
from pgherd.topology import Node, Topology

if TYPE_CHECKING:  # the library takes a fifth of a second to import: only where TLS is asked for
    from pgherd.certificates.reading import Details

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
        from pgherd.certificates import reading  # noqa: PLC0415

        path = self.path(node)
        return reading.details(self._files.certificates(path)[0]) if path.exists() else None

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
        from pgherd.certificates import reading  # noqa: PLC0415

        if not path.exists() or not trusted:  # with --dry, where nothing is made
            return False
        try:
            mine, *chain = reading.read(self._files.read(path))
        except Refused:
            return False
        found = reading.details(mine)
        by = reading.trusted_signer(mine, reading.read(trusted), chain)
        if by is None or found.days <= 0 or not set(wanted) <= set(found.names):
            return False
        return (
            found.days > SOON or found.ends >= reading.details(by).ends
        )  # a new one ends then too

    # --- making ---

    def _make(self, path: Path, common: str, wanted: tuple[str, ...], *, client: bool) -> None:
        from pgherd.certificates import x509  # noqa: PLC0415

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
                script.signed(
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
