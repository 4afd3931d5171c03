"""Which directories are no place for a server's data, whatever lies in them."""

from __future__ import annotations

# What a system lives in (hier(7)), with all that is in it but what is the administrator's own;
# and the places where everybody has something.
_SYSTEM = frozenset(["bin", "boot", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "usr"])
_OWN = ("/usr/local/", "/run/media/")
_SHARED = frozenset({
    "/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr/local", "/var",  # noqa: S108
    "/var/lib", "/var/lib/postgresql", "/var/log", "/var/tmp",  # noqa: S108
    "/Users", "/Volumes", "/private",
})  # fmt: skip
_ENGINE = ("/var/lib/docker/", "/var/lib/containerd/", "/var/lib/containers/")


def no_place(path: str) -> str:
    """Say why an absolute, normal path is no place for data; empty if it is one."""
    first = path.strip("/").partition("/")[0]
    if first.removesuffix("64").removesuffix("32") in _SYSTEM and not path.startswith(_OWN):
        return f"is the system's (/{first})"
    if path in _SHARED:
        return "is not one node's alone"
    return "is the container engine's" if f"{path}/".startswith(_ENGINE) else ""
