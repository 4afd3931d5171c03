"""TLS in a group: what each node has for it, a group half way to it, and new certificates."""
