"""What changes a group, one story a file."""
