"""Language models: how likely an answer is, what a reward model gives it."""
