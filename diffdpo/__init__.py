"""Preference tuning for image and text models: one family of losses over two kinds of likelihood."""

__version__ = "0.1.0"
