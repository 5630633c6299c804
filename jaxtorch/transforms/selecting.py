"""Choosing what to differentiate: a function of the chosen arguments' leaves alone."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from jaxtorch import pytree
from jaxtorch.transforms.checks import (
    Argnums,
    check_argnums,
    check_differentiable_inputs,
)

FIRST = (0,)


def select_inputs(
    where: object,
    func: Callable[..., Any],
    argnums: Argnums,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Callable[[list[Any]], Any], list[Tensor], Any]:
    """Return ``func`` as a function of the chosen leaves; these; their structure."""
    positions = check_argnums(where, argnums, len(args))
    wanted = tuple([args[p] for p in positions])
    leaves, spec = pytree.flatten_args(wanted)
    check_differentiable_inputs(where, leaves, wanted)

    def call(inputs: list[Any]) -> Any:
        if positions == FIRST and spec is pytree.FLAT:
            return func(inputs[0], *args[1:], **kwargs)
        full = list(args)
        chosen = pytree.unflatten_args(inputs, spec)
        for position, arg in zip(positions, chosen, strict=True):
            full[position] = arg
        return func(*full, **kwargs)

    return call, leaves, spec
