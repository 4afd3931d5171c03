"""One PostgreSQL server: its data directory, its settings, what it is."""
