"""The docker CLI as nouns: engine, image, network, container, mount.

`docker inspect` comes back as frozen dataclasses; labels tell which things are ours. Nothing here
knows PostgreSQL.
"""

from pgherd.docker.engine import LIST, Engine, docker
from pgherd.docker.model import (
    GROUP_LABEL,
    HELPER_LABEL,
    HOME_LABEL,
    NODE_LABEL,
    SPEC_LABEL,
    Container,
    Image,
    Mount,
    label_options,
    no_volumes,
)

__all__ = [
    "GROUP_LABEL",
    "HELPER_LABEL",
    "HOME_LABEL",
    "LIST",
    "NODE_LABEL",
    "SPEC_LABEL",
    "Container",
    "Engine",
    "Image",
    "Mount",
    "docker",
    "label_options",
    "no_volumes",
]
