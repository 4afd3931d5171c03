"""PostgreSQL streaming replication with the stock Docker image: set up, seeded, and proven."""
