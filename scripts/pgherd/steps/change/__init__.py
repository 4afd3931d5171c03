"""Another primary: switchover, failover, rejoin, and what they share."""
