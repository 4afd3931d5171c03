"""New passwords for the group's two roles, while everything streams."""
