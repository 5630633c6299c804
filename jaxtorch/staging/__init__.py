"""Staged calls: trace, optimize, run. Nothing of the transforms."""
