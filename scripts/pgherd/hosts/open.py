"""Which host a name means."""

from __future__ import annotations

from pgherd.config.values import LOCAL
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Trace
from pgherd.hosts.local import LocalHost


def open_host(
    name: str, trace: Trace, root: str = "~/pgherd", config_file: str | None = None
) -> Host:
    """Return the host of that name; it is not connected to before something is asked of it.

    Args:
        name: "local", or an SSH destination.
        trace: shows commands, or takes them with `--dry`.
        root: where relative paths of another machine lie.
        config_file: read instead of the user's and the system's ssh_config.
    """
    if name == LOCAL:
        return LocalHost(trace)
    from pgherd.hosts.ssh import SshHost  # noqa: PLC0415 (paramiko takes a while to be imported)

    return SshHost(name, trace, root=root, config_file=config_file)
