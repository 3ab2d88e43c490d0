"""Denoisers and language models behind one small protocol: load, encode, predict, reference, save, export."""
