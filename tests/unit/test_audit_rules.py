"""What of pg_hba.conf an audit finds fault with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgherd.checks.hba import Rule, faults, in_clear

GATEWAY = "172.24.0.1/32"
# As the image and pgherd lay them.
LAID = [
    "local all all trust",
    "host all all 127.0.0.1/32 scram-sha-256",
    "host all all ::1/128 scram-sha-256",
    "local replication all trust",
    "host replication all 127.0.0.1/32 scram-sha-256",
    "host replication all ::1/128 scram-sha-256",
    "host all all all scram-sha-256",
    "host replication replicator 172.24.0.1/32 reject",
    "host replication replicator samenet scram-sha-256",
    "host replication replicator 192.0.2.12/32 scram-sha-256",
]


def rule(number: int, text: str) -> Rule:
    kind, databases, users, *address, method = text.split()
    listed = (tuple(databases.split(",")), tuple(users.split(",")))
    return Rule(number, kind, *listed, address[0] if address else "", method)


def found(*lines: str, gateways: tuple[str, ...] = (GATEWAY,)) -> list[tuple[str, int]]:
    rules = [rule(number, text) for number, text in enumerate(lines, 1)]
    return [(f.code, f.rule.line) for f in faults(rules, [*gateways], ["postgres", "replicator"])]


def test_what_is_laid_is_no_fault() -> None:
    assert found(*LAID) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("host all all 0.0.0.0/0 scram-sha-256", "hba-wide"),
        ("host all all ::/0 scram-sha-256", "hba-wide"),
        ("hostnossl all all 0.0.0.0/0 scram-sha-256", "hba-wide"),
        ("host replication replicator 0.0.0.0/0 scram-sha-256", "hba-wide"),
        ("host replication all 192.0.2.0/24 scram-sha-256", "hba-wide"),
        ("host shop shop 192.0.2.7/32 trust", "hba-trust"),
        ("host all all 127.0.0.1/32 trust", "hba-trust"),
        ("host all all 0.0.0.0/0 trust", "hba-trust"),
        ("host shop shop 192.0.2.0/24 md5", "md5"),
        ("local shop shop md5", "md5"),
        ("hostssl shop shop 192.0.2.0/24 password", "md5"),
    ],
)
def test_one_rule_more(text: str, code: str) -> None:
    assert found(*LAID, text) == [(code, len(LAID) + 1)]


@pytest.mark.parametrize(
    "text",
    [
        "host shop shop 0.0.0.0/0 scram-sha-256",  # narrower than the image's own
        "host all all 10.0.0.0/8 scram-sha-256",
        "hostssl all all all scram-sha-256",
        "host replication backup 192.0.2.9/32 scram-sha-256",
        "local all postgres peer",
        "host all all 0.0.0.0/0 reject",
    ],
)
def test_rules_that_may_be(text: str) -> None:
    assert found(*LAID, text) == []


def test_the_first_rule_that_fits_decides_on_the_gateway() -> None:
    lets_in = "host replication replicator 172.16.0.0/12 scram-sha-256"
    assert found(lets_in, *LAID) == [("gateway", 1)]
    assert found(*LAID, lets_in) == []
    without = [text for text in LAID if "reject" not in text]
    assert found(*without) == [("gateway", without.index(LAID[8]) + 1)]
    assert found(*without, gateways=()) == []
    with_tls = [text.replace("host ", "hostssl ", 1) if "reject" in text else text for text in LAID]
    assert found(*with_tls) == [("gateway", 9)]  # without TLS it comes in


def test_the_gateway_may_be_reached_by_another_role() -> None:
    assert found(*LAID, "host replication postgres samenet scram-sha-256") == [("gateway", 11)]
    assert found(*LAID, "host replication +streamers samenet scram-sha-256") == [("gateway", 11)]
    assert found(*LAID, "host replication other samenet scram-sha-256") == []


@pytest.mark.parametrize(
    ("address", "netmask", "network"),
    [
        ("10.1.0.0", "255.255.0.0", "10.1.0.0/16"),
        ("0.0.0.0", "0.0.0.0", "0.0.0.0/0"),  # noqa: S104
        ("fd00::", "ffff::", "fd00::/16"),
        ("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1/128"),
        ("samenet", None, "samenet"),
        (None, None, ""),
    ],
)
def test_addresses_as_the_server_tells_them(
    address: str | None, netmask: str | None, network: str
) -> None:
    raw: dict[str, Any] = {
        "file": "/x", "line": 7, "type": "host", "databases": ["all"], "users": ["all"],
        "address": address, "netmask": netmask, "method": "scram-sha-256",
    }  # fmt: skip
    assert Rule.of(raw).address == network


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("/var/lib/postgresql/data/pg_hba.conf", "pg_hba.conf, line 3"),
        ("/var/lib/postgresql/data/more/team.conf", "more/team.conf, line 3"),
        ("/etc/team.conf", "/etc/team.conf, line 3"),
    ],
)
def test_where_a_rule_stands(file: str, place: str) -> None:
    raw: dict[str, Any] = {
        "file": file, "line": 3, "type": "local", "databases": ["all"], "users": ["all"],
        "address": None, "netmask": None, "method": "trust",
    }  # fmt: skip
    assert Rule.of(raw).place == place


def test_the_same_line_of_two_files_is_told_twice() -> None:
    """Since 16 a file includes others, and each counts its own lines."""
    rules = [
        replace(rule(3, f"host replication {role} samenet scram-sha-256"), file=f"{role}.conf")
        for role in ("postgres", "replicator")
    ]
    told = [f.rule.place for f in faults(rules, [GATEWAY], ["postgres", "replicator"])]
    assert told == ["postgres.conf, line 3", "replicator.conf, line 3"]


FIRST = ["hostnossl all all all reject", "hostnossl replication all all reject"]


@pytest.mark.parametrize(
    ("lines", "clear"),
    [
        ([*FIRST, *LAID], []),
        (LAID, [2, 5]),
        ([FIRST[0], *LAID], [6]),
        (["host shop shop 192.0.2.7/32 scram-sha-256", *FIRST, *LAID], [1]),
        (["hostssl shop shop 192.0.2.7/32 scram-sha-256", *FIRST, *LAID], []),
        (["hostnossl all shop all reject", *LAID], [3, 6]),
    ],
)
def test_who_comes_in_without_tls(lines: list[str], clear: list[int]) -> None:
    rules = [rule(number, text) for number, text in enumerate(lines, 1)]
    assert [fault.rule.line for fault in in_clear(rules, "step.allow-replication")] == clear
