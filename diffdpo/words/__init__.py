"""The text world: small reviews and plain texts, a reward that a program knows exactly, a tiny language model.

Everything that tunes a real language model can be run here in minutes on two CPU cores, against a ground truth that
no real text has.
"""
