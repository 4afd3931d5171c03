"""What a group needs before it is made, and what ails it when it lives: see `examine`."""
