"""How error texts name the user's function. Nothing else."""

from typing import Any


def name_of(func: Any) -> str:
    """Return the name of a callable, or its repr where it has none."""
    return getattr(func, "__name__", None) or repr(func)
