"""PostgreSQL: texts, one server, what it tells, the group."""
