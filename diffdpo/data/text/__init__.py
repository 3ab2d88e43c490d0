"""Text to learn from: records as people keep them, read from files, and tokenised for a model that is handed in."""
