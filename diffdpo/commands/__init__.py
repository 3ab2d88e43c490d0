"""One file per verb of the command line: its arguments, what it calls, how its result is shown.

Here packages that know nothing of each other are put together. Heavy imports stand inside the functions.
"""
