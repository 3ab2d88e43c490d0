"""Recipes that tune a language model, on the one training loop and the losses that image models are tuned with."""
