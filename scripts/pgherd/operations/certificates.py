"""The certificates of a group: what there is, what the servers show, and how new ones come in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgherd.client import NoTls, fetch_certificate
from pgherd.docker.models import Image
from pgherd.errors import DeadlinePassed, Refused, Unreachable
from pgherd.group import preconditions
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.hosts.parallel import run_all
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import lay_private
from pgherd.postgres import scripts
from pgherd.postgres.instance import Instance
from pgherd.security.authority import SOON
from pgherd.security.x509 import Details, details_of

SHOWN_SECONDS = 15.0  # for a reload to show in a new connection


@dataclass(frozen=True)
class Shown:
    """A node's certificate: as it is kept here, and as its server shows it now.

    Attributes:
        node: the node's name.
        kept: what the file here says; None where there is none.
        served: what a client is shown that connects now; None where it is shown none.
        cure: what helps where it ends soon.
        fault: why it is shown none, and what helps.
    """

    node: str
    kept: Details | None
    served: Details | None
    cure: str = "`invoke tls --renew`"
    fault: str = ""

    @property
    def warnings(self) -> list[str]:
        """What is wrong with it, each with its cure."""
        return list(self._warnings())

    def _warnings(self) -> Iterator[str]:
        name, served = self.node, self.served
        if served is None:
            yield f"{name} shows no certificate: {self.fault}"
        elif self.kept is None or served.serial != self.kept.serial:
            yield f"{name} shows another certificate than the one kept here: `invoke tls --renew`"
        last = served or self.kept
        if last and last.days <= 0:
            yield f"the certificate of {name} ended on {_day(last)}: {self.cure}"
        elif last and last.days <= SOON:
            left = f"ends on {_day(last)}, in {last.days:.0f} days"
            yield f"the certificate of {name} {left}: {self.cure}"


def _day(found: Details) -> str:
    return f"{found.ends:%Y-%m-%d}"


def look(group: Group) -> list[Shown]:
    """Look at each node's certificate, here and as its server shows it.

    Raises:
        Refused: the group has no TLS.
    """
    _refuse_without(group)
    return run_all(lambda i: _fetch_shown(group, i), list(group.instances.values()))


def trusted(group: Group) -> list[Details]:
    """Return the authorities that clients and nodes trust."""
    return group.certificates.authorities.known()


def amiss(group: Group, nodes: Sequence[Shown]) -> list[str]:
    """Return what is wrong with those that are trusted, with its cure.

    Nothing where no node has a certificate: the authority is made with the first one.
    """
    fault = group.certificates.authorities.fault()
    return [fault] if fault and any(node.kept or node.served for node in nodes) else []


def _refuse_without(group: Group) -> None:
    if not group.topology.encryption.on:
        raise Refused(
            f"{group.name} has no TLS: say `tls = true` in [group] of {group.topology.source}, "
            "then `invoke diff` names what brings it in."
        )


def _fetch_shown(group: Group, instance: Instance) -> Shown:
    kept, cure = group.certificates.known(instance.node), group.certificates.cure(instance.node)
    try:
        return Shown(instance.name, kept, details_of(fetch_certificate(instance)), cure)
    except (OSError, ValueError, Unreachable) as fault:
        return Shown(instance.name, kept, None, cure, _why_none(fault))


def _why_none(fault: Exception) -> str:
    """Say why a server shows no certificate, and what helps."""
    if isinstance(fault, Unreachable):
        return fault.sentence
    if isinstance(fault, ConnectionRefusedError):
        return "it is down, or not made yet (connection refused): `invoke start`"
    if isinstance(fault, NoTls):
        return f"{fault}: `invoke diff` names what brings it in"
    return f"{fault}: `invoke status` tells how it stands"


def renew(group: Group) -> None:
    """Give each node a new key and certificate, brought in by a reload: no connection is lost.

    Raises:
        Refused: the group has no TLS, or what signs certificates is missing or does not fit.
        Unreachable: a host cannot be reached; the nodes on the others have new ones.
        DeadlinePassed: a server does not show its new one.
    """
    _refuse_without(group)
    with group.locked(tolerant=True):
        group.certificates.authorities.check()  # before one node has what the next one cannot get
        _Round(group).renew()
        if group.away:
            raise Unreachable(f"Not renewed is what is on {', '.join(group.away)}.")


def renew_authority(group: Group) -> str:
    """Go one stage towards another authority; return what is to be done next, or that it is done.

    The first stage has both trusted; the second has the new one sign for all nodes, and the old one
    trusted no more. A stage that was cut short is gone through again. No connection is lost.

    Raises:
        Refused: the group has no TLS, an authority of the user's own, or none that can sign.
        Unreachable: a host cannot be reached: each node has to trust the new one before it signs.
    """
    _refuse_without(group)
    authorities = group.certificates.authorities
    if authorities.own:
        raise Refused(
            f"{authorities.root} is your own: put the new authority's certificate into it beside "
            "the old one's, and have that laid by what `invoke diff` names; then its key in place."
        )
    if group.trace.dry:
        raise Refused("--renew-ca cannot be shown by --dry: it goes by files that it makes.")
    with group.locked():
        authorities.check()
        authorities.check_other()
        act = _Round(group)
        if not authorities.both:
            authorities.begin()
            act.bring_in()
            authorities.trust()
            return (
                f"{authorities.root} has the old and the new authority now, and all nodes trust "
                "both. Give it to the clients; then `invoke tls --renew-ca` again."
            )
        authorities.take()
        act.renew()
        authorities.forget_old()
        act.bring_in()
        authorities.finish()
        return f"{authorities.root} has the new authority alone, and every certificate is by it."


class _Round:
    """One look at the group, and what is laid on its nodes by that."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._seen = group.observe()
        self._image = ensure_image(group, self._seen)
        self._there = [i for i in group.instances.values() if _there(group, i, self._seen)]

    def renew(self) -> None:
        """Lay new keys and certificates, and have them in force."""
        for instance in self._there:
            client = instance.encryption.client_certificates
            self._group.certificates.renew(instance.node, client=client)
        self.bring_in()

    def bring_in(self) -> None:
        """Lay keys and certificates as they are here, and have them in force."""
        run_all(lambda i: _bring_in(self._group, i, self._seen, self._image), self._there)


def _there(group: Group, instance: Instance, seen: Observation) -> bool:
    """Tell whether a node has been made, so that it has a place for a certificate."""
    if instance.node.host in group.away:
        return False
    preconditions.check_name(group, instance, seen)
    state = preconditions.directory_state(instance.host, instance.places.private)
    if state == preconditions.ABSENT:
        group.trace.note(f"{instance.name}: is not made yet, and gets its certificate then")
    return state != preconditions.ABSENT


def _bring_in(group: Group, instance: Instance, seen: Observation, image: Image) -> None:
    node = seen.nodes[instance.name]
    runs = bool(node.container and node.container.running)
    lay_private(group, instance, image, "certificates", runs=runs)
    if not runs:
        group.trace.note(f"{instance.name}: is down, and has it when it starts")
        return
    if node.facts and node.facts.certificate is None:
        group.trace.note(f"{instance.name}: its server has no TLS yet: `invoke diff`")
        return
    instance.execute(scripts.compose("reload"))
    if group.trace.dry:
        return
    end = time.monotonic() + SHOWN_SECONDS
    while (shown := _fetch_shown(group, instance)).kept != shown.served:
        if time.monotonic() > end:
            what = shown.fault or "it shows the one before"
            said = f"{instance.name} does not show its new certificate: {what}"
            raise DeadlinePassed(f"{said}\n{instance.log_tail()}")
        time.sleep(0.05)
    serial = shown.kept.serial if shown.kept else ""
    group.trace.note(f"{instance.name}: new connections see its certificate, serial {serial}")
