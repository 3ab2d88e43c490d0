"""Several models on one suite: reward against drift from a reference, as a table, as numbers and as a plot."""
