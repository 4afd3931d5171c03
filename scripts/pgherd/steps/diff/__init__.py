"""The topology and what there is, compared."""
