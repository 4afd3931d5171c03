"""What is asked for: TOML and environment become a Topology."""
