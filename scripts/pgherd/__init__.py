"""PostgreSQL streaming replication with the stock Docker image."""
