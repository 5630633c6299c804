"""Structured linear operators: apply, transpose, compose. Nothing from above."""
