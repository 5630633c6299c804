"""Branches and loops that are differentiated, batched and staged as a whole."""
