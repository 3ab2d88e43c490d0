"""A judge's own training."""
