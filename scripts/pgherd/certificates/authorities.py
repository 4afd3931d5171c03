"""Who signs a group's certificates, and who is trusted: one authority, and two while they change.

A new authority comes in two stages. First both are trusted everywhere (`begin`, and `trust` once
that is so); then the new one signs, and the old one is trusted no more (`take`, `finish`). Between
the two clients are given the new `ca.crt`. What a killed run left, the files tell:
`ca.coming.pem` is on its way, `ca.trusted.pem` is trusted everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pgherd.certificates import script
from pgherd.certificates.files import Files
from pgherd.errors import Refused
from pgherd.shell import Secret
from pgherd.topology import Group

if TYPE_CHECKING:
    from pgherd.certificates.reading import Details
    from pgherd.certificates.x509 import Authority


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
            self._files.trace.shell(script.authority(self._group, self.root, self.key))
        self._printed = True
        return Secret("", str(self.root))

    def _make(self) -> None:
        """Make an authority; with the key that a killed run has made, so that it may come back."""
        from pgherd.certificates import x509  # noqa: PLC0415

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
        from pgherd.certificates import x509  # noqa: PLC0415

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
        from pgherd.certificates import x509  # noqa: PLC0415

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
        from pgherd.certificates import x509  # noqa: PLC0415

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
        from pgherd.certificates import reading  # noqa: PLC0415

        if not self.root.exists():
            return []
        return [reading.details(c) for c in self._files.certificates(self.root)]

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
        from pgherd.certificates import reading, x509  # noqa: PLC0415

        self.trusted()
        if not self._coming.exists():
            certificate, key = x509.new_authority(self._group)
            self._files.write(self._coming, key + certificate)
        old, new = (self._files.read(path) for path in (self.root, self._coming))
        added = reading.pem(reading.read(new)[0])
        if added not in old:
            self._files.write(self.root, old + added)

    def trust(self) -> None:
        """Take note that the new authority is trusted everywhere."""
        self._coming.rename(self._trusted)

    def take(self) -> None:
        """Have the new authority sign from here on."""
        from pgherd.certificates import x509  # noqa: PLC0415

        key = x509.key_of(self._files.read(self._trusted))
        if self._files.read(self.key) != key:
            self._files.write(self.key, key)

    def forget_old(self) -> None:
        """Trust the new authority alone."""
        from pgherd.certificates import reading  # noqa: PLC0415

        new = reading.pem(reading.read(self._files.read(self._trusted))[0])
        if self._files.read(self.root) != new:
            self._files.write(self.root, new)

    def finish(self) -> None:
        """Take note that the new authority is the only one."""
        self._files.remove(self._trusted)
