"""Measuring a model: fixed prompts and seeds, scorers that did not label, paired intervals, one page that says it.

suite -> a run folder (`results`) -> two of them compared (`compare`) -> a page (`report`). Nothing here trains.
"""
