"""Structured linear operators: apply, transpose, compose. Nothing of the package above."""
