"""Measuring a language model: against a fixed baseline by a judge, and on questions with known answers."""
