"""What is found and done, as text and JSON."""
