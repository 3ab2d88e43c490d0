"""One loop, checkpoints, metrics; and a short recipe per method."""
