"""Making triplets: prompts -> images -> scores -> pairs -> a triplet store. Knows nothing of training."""
