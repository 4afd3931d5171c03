"""What `invoke show` prints."""

from __future__ import annotations

import pytest

from pgherd.operations.show import hide_passwords


@pytest.mark.parametrize(
    "line",
    [
        "primary_conninfo = 'host=a password=s3cret user=r'",
        "primary_conninfo = 'host=a password=''my s3cret'' user=r'",
        "primary_conninfo = 'postgresql://r:s3cret@a/'",
        "primary_conninfo = 'postgresql://a/?password=s3cret'",
        'host all all all ldap ldapserver=a ldapbindpasswd="s3cret"',
        'host all all all radius radiusservers="a" radiussecrets="s3cret"',
    ],
)
def test_a_password_that_somebody_wrote_is_not_shown(line: str) -> None:
    assert "s3cret" not in hide_passwords(line)
    assert "…" in hide_passwords(line)


def test_what_is_no_password_is() -> None:
    line = "primary_conninfo = 'host=a port=5432 user=r passfile=/etc/pgherd/passfile'"
    assert hide_passwords(line) == line
