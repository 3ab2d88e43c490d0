"""Preference data as others publish it, and how it becomes a triplet store."""
