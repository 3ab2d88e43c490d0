"""Preference tuning: one family of losses over log-ratios, for whatever has a likelihood or a bound on one."""

__version__ = "0.1.0"
