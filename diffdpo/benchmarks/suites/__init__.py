"""One file per suite: `load(options)` gives its prompts and how they are judged. `registry.SUITES` names them.

A suite with arithmetic of its own also has `figures(rows, scorers, settings)`, kept in a run's `summary.json`, and
`table(figures)`, which prints them.
"""
