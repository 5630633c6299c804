"""``stack_module_state``: the state of several like modules in one, for ``vmap``."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jaxtorch.errors import UsageError, explain
from jaxtorch.nn.slots import check_module


def stack_module_state(
    models: Sequence[nn.Module] | nn.ModuleList,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Stack the parameters and the buffers of ``M`` modules of one class.

    Args:
        models: the modules; their parameters of one name have one shape, and all
            modules are in training mode or none is.

    Returns:
        ``(params, buffers)``, dicts by name of tensors of shape ``[M, *shape]``. They
        are copies; where the parameters require grad the stacked ones are new leaves
        that an optimizer can take.

    Raises:
        UsageError: (a RuntimeError) for no model, and for models of different class,
            mode, shapes or ``requires_grad``.

    Examples:
        >>> import torch, jaxtorch
        >>> models = [torch.nn.Linear(3, 2) for _ in range(5)]
        >>> params, buffers = jaxtorch.stack_module_state(models)
        >>> def call(params, x):
        ...     return jaxtorch.functional_call(models[0], params, x)
        >>> jaxtorch.vmap(call, in_dims=(0, None))(params, torch.ones(4, 3)).shape
        torch.Size([5, 4, 2])

    Source: the signature and behaviour of ``torch.func.stack_module_state``.
    """
    check_alike("stack_module_state", models)
    params: list[dict[str, Tensor]] = [dict(m.named_parameters()) for m in models]
    buffers = [dict(m.named_buffers()) for m in models]
    return stack_dicts(params), stack_dicts(buffers)


def check_alike(where: str, models: Sequence[Any] | nn.ModuleList) -> None:
    """Refuse models that can't be called as one."""
    if len(models) == 0:
        raise UsageError(
            explain(where, "Expected at least one model, got 0.", "pass a model")
        )
    for model in models:
        check_module(where, model)
    if len({model.training for model in models}) > 1:
        raise UsageError(
            explain(
                where,
                "Expected all models to have the same training/eval mode.",
                "call .train() or .eval() on all of them",
            )
        )
    kinds = {type(model) for model in models}
    if len(kinds) > 1:
        raise UsageError(
            explain(
                where,
                "Expected all models to be of the same class, got "
                f"{sorted(kind.__name__ for kind in kinds)}.",
                "make one ensemble of each class",
            )
        )


def stack_dicts(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the tensors of each name."""
    for index, state in enumerate(states):
        if state.keys() != states[0].keys():
            raise UsageError(
                explain(
                    "stack_module_state",
                    f"the names of model {index} are not those of model 0: "
                    f"{sorted(state.keys() ^ states[0].keys())}.",
                    "pass models with the same submodules",
                )
            )
    return {name: stack_leaf(name, [s[name] for s in states]) for name in states[0]}


def stack_leaf(name: str, tensors: list[Tensor]) -> Tensor:
    """Stack one parameter of all models; a new leaf where it requires grad."""
    check_same("stack_module_state", "requires_grad", name, tensors)
    check_same("stack_module_state", "shape", name, tensors)
    stacked = torch.stack(tensors)
    return stacked.detach().requires_grad_() if tensors[0].requires_grad else stacked


def check_same(where: str, what: str, name: str, tensors: Sequence[Tensor]) -> None:
    """Refuse tensors whose attribute ``what`` differs."""
    found = [getattr(tensor, what) for tensor in tensors]
    if any(own != found[0] for own in found):
        raise UsageError(
            explain(
                where,
                f"Expected {name} from each model to have the same .{what}.",
                "make the models alike",
                f"it is {', '.join(map(str, found))}",
            )
        )
