"""What hurts of a group's TLS: what is sent in clear, and certificates that come to their end."""

from __future__ import annotations

from collections.abc import Iterator

from pgherd.certificates import SOON
from pgherd.errors import Refused
from pgherd.postgres.facts import GONE
from pgherd.steps.standing import Picture
from pgherd.steps.warning import Warning_


def of_encryption(picture: Picture) -> Iterator[Warning_]:
    """Yield who has no TLS where it is asked for, an authority amiss, and what ends soon."""
    if not picture.group.topology.encryption.on:
        return
    for name, facts in picture.facts.items():
        sender = picture.sender(name) if facts.in_recovery else None
        if facts.certificate is None:
            text = f"{name} has no TLS, and the topology asks for it: `invoke diff` has the cures"
            yield Warning_("in-clear", name, text)
        elif facts.certificate == GONE:
            text = f"the certificate of {name} has gone from under its server, as where a directory"
            yield Warning_(
                "certificate", name,
                f"{text} was put in the place of its private one: `invoke stop`, `invoke start`",
            )  # fmt: skip
        elif sender and sender.tls is None:
            text = f"{name} streams in clear from {picture.upstreams.get(name)}"
            yield Warning_("in-clear", name, f"{text}: `invoke rejoin {name}`")
    served = any(facts.certificate not in {None, GONE} for facts in picture.facts.values())
    if served and (fault := picture.group.certificates.authorities.fault()):
        yield Warning_("certificate", None, fault)
    for name in picture.group.instances:
        if told := _ending(picture, name):
            node = picture.group.topology.node(name)
            cure = picture.group.certificates.cure(node)
            yield Warning_("certificate", name, f"{told}: {cure}")


def _ending(picture: Picture, name: str) -> str:
    """Say when a node's certificate ends, if that is soon; by the file here, which is laid."""
    try:
        found = picture.group.certificates.known(picture.group.topology.node(name))
    except Refused as fault:
        return fault.sentence
    if found is None or found.days > SOON:
        return ""
    word = "ends" if found.days > 0 else "ended"
    return f"the certificate of {name} {word} on {found.ends:%Y-%m-%d}"
