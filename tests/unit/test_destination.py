"""What is an SSH destination: in a topology, behind `invoke on`, and as a jump host."""

from __future__ import annotations

import re

import pytest

from pgherd.config.values import Destination, host_name
from pgherd.errors import Refused


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("box", ["box"]),
        ("user@box", ["user@box"]),
        ("user@box:2222", ["-p", "2222", "user@box"]),
        ("[2001:db8::1]:2222", ["-p", "2222", "2001:db8::1"]),
        ("[2001:db8::1]", ["2001:db8::1"]),
        ("user@[::1]", ["user@::1"]),
        ("2001:db8::1", ["2001:db8::1"]),
        ("user@2001:db8::1", ["user@2001:db8::1"]),
        ("user@::1:2222", ["user@::1:2222"]),  # an address as a whole, for ssh as well
        ("fe80::1%eth0", ["fe80::1%eth0"]),
        ("a@corp@box", ["a@corp@box"]),
        ("CORP\\ada@box", ["CORP\\ada@box"]),
    ],
)
def test_a_destination_is_a_command_line(text: str, argv: list[str]) -> None:
    assert Destination.parse(text).argv() == argv
    assert host_name(text) == text


def test_a_jump_host_may_have_the_form_of_the_web() -> None:
    assert Destination.parse("ssh://user@box:33").argv("-v") == ["-v", "-p", "33", "user@box"]
    with pytest.raises(ValueError, match="an alias of ssh_config, ada@box, ada@box:2222"):
        host_name("ssh://user@box:33")


@pytest.mark.parametrize(
    "text",
    ["", "user@", "@box", "two words", "-oProxyCommand=x", "-l@box", "box:", "box:ssh", "box:0",
     "box:65536", "ada@box:99999", "[::1", "[::1]:x", "[]", "b\nox", "box:22:23", "user@box/x",
     "ada:secret@box", "a,b", "$(id)", "`id`@box", "box:٢٢", "ssh://"],
)  # fmt: skip
def test_what_is_no_destination_is_refused(text: str) -> None:
    with pytest.raises(Refused, match=re.escape(repr(text))):
        Destination.parse(text)
    with pytest.raises(ValueError, match=r"must be .local. or an SSH destination"):
        host_name(text)
