"""The reward-KL frontier of language models: what a policy earns, and how far from its start it went for that."""
