"""What an example is and where it lives: prompts, triplets (x, y_w, y_l), encoded triplets. No models."""
