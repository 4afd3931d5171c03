"""Where commands run: this machine, and others over SSH."""
