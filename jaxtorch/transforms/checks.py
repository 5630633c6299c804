"""Argument checks that several transforms share; all run before a level is pushed."""

from typing import Any, SupportsIndex

from torch import Tensor, nn

from jaxtorch import pytree
from jaxtorch.errors import (
    ArgumentError,
    ArgumentTypeError,
    InputError,
    UsageError,
    explain,
)

Argnums = int | tuple[int, ...]

TENSORS = "pass a tensor, or leave the argument out of argnums"
FUNCTIONAL = (
    "pass params = dict(module.named_parameters()) instead, and in the function call "
    "jaxtorch.functional_call(module, params, x)"
)


def check_argnums(where: object, argnums: Any, count: int) -> tuple[int, ...]:
    """Return ``argnums`` as a tuple of positions counted from the front."""
    if type(argnums) is int and 0 <= argnums < count:
        return (argnums,)
    if not isinstance(argnums, (int, tuple)) or isinstance(argnums, bool):
        raise UsageError(
            explain(
                where,
                "argnums must be int or Tuple[int, ...], got "
                f"{type(argnums).__name__}.",
                "pass argnums=0, or argnums=(0, 1)",
            )
        )
    several = argnums if isinstance(argnums, tuple) else (argnums,)
    if not several:
        raise UsageError(
            explain(where, "argnums must be non-empty.", "name at least one argument")
        )
    for num in several:
        if not isinstance(num, int) or isinstance(num, bool):
            raise UsageError(
                explain(
                    where,
                    f"argnums must be int, got {num!r}.",
                    "pass positions of arguments",
                )
            )
        if not -count <= num < count:
            raise UsageError(
                explain(
                    where,
                    f"argnums={num} is out of range: got argnum={num}, but only "
                    f"{count} positional inputs were passed.",
                    "pass the argument by position, or another argnum",
                )
            )
    positions = tuple(num % count for num in several)
    if len(set(positions)) != len(positions):
        raise UsageError(
            explain(
                where,
                f"argnums elements must be unique, got {argnums}.",
                "name each argument once",
            )
        )
    return positions


def split_aux(where: object, out: Any) -> tuple[Any, Any]:
    """Split the ``(output, aux)`` pair that a function with has_aux=True returns."""
    if not (isinstance(out, tuple) and len(out) == 2):
        raise UsageError(
            explain(
                where,
                "output of function should be a tuple: (output, aux) if has_aux is "
                f"True, got {type(out).__name__}.",
                "return exactly two values, or drop has_aux=True",
            )
        )
    return out


def check_complex(where: object, leaves: list[Any], what: str) -> None:
    """Refuse real inputs or outputs of a function that is said to be holomorphic."""
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and not leaf.is_complex():
            raise UsageError(
                explain(
                    where,
                    f"holomorphic=True requires all {what} to be complex: flattened "
                    f"tensor {index} has dtype {leaf.dtype}.",
                    "convert it with .to(torch.complex64), or drop holomorphic=True",
                )
            )


def check_differentiable_inputs(where: object, leaves: list[Any], tree: Any) -> None:
    """Refuse inputs that have no derivative: not tensors, or integers."""
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            raise InputError(
                explain(
                    where,
                    f"expected every differentiated input to be a tensor; "
                    f"{pytree.paths(tree, 'args')[index]} is of type "
                    f"{type(leaf).__name__}.",
                    FUNCTIONAL if isinstance(leaf, nn.Module) else TENSORS,
                )
            )
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise InputError(
                explain(
                    where,
                    f"{pytree.paths(tree, 'args')[index]} has dtype {leaf.dtype}: only "
                    "tensors of floating point and complex dtype have derivatives.",
                    "convert it with .to(torch.float32), or leave it out of argnums",
                )
            )


def check_chunk_size(where: object, chunk_size: Any) -> None:
    """Refuse a chunk size that is no int, or below one."""
    whole = isinstance(chunk_size, SupportsIndex)
    if chunk_size is None or (whole and chunk_size > 0):
        return
    error = ArgumentError if whole else ArgumentTypeError
    raise error(
        explain(
            where,
            f"chunk_size should be None or an int greater than 0, got {chunk_size!r}.",
            "pass a positive int, or None for one chunk",
        )
    )
