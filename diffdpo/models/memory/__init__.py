"""What a model takes of memory, told before it is loaded."""
