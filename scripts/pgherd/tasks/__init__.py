"""What people type, a file a chapter: each task reads the words, calls one operation, prints."""
