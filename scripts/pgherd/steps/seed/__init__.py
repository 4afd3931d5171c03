"""Standbys: seeded, connected, and brought to stream."""
