"""The servers of one topology, live: what each is, who is primary, what must hold."""
