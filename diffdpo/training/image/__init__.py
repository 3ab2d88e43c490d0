"""What image methods share and each of them: pairs of cached latents through the loop."""
