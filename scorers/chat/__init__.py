"""Asking a model questions in words: what a judge of images and a judge of texts share. Knows neither."""
