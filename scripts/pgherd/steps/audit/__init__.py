"""Where secrets of a group can be seen, and who may come in that need not. Nothing is changed."""
