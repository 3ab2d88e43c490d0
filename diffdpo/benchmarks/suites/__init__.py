"""One file per suite: `load(options)` gives its prompts and how they are judged. `registry.SUITES` names them.
`sources` finds published files, `hps_table` is the arithmetic and the published figures of HPSv2.

A suite with arithmetic of its own also has `figures(rows, scorers, settings)`, kept in a run's `summary.json`, and
`table(figures)`, which prints them.
"""
