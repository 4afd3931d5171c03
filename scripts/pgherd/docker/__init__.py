"""The docker CLI as nouns: engine, image, network, container, mount.

`docker inspect` comes back as frozen dataclasses; labels tell which things are ours. Nothing here
knows PostgreSQL.
"""

from __future__ import annotations
