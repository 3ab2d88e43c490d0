"""A comparison as a page to read, and as a model card."""
