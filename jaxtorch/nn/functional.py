"""``functional_call``: call a module with parameters and buffers given as dicts."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from jaxtorch.errors import ArgumentError, UsageError, explain
from jaxtorch.nn.slots import (
    Assignment,
    Layout,
    Slot,
    check_module,
    check_tensors,
    exchanged,
)

StateDict = dict[str, Tensor]


def functional_call(
    module: nn.Module,
    parameter_and_buffer_dicts: StateDict | Sequence[StateDict],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call ``module`` with other tensors in place of its parameters and buffers.

    The module itself keeps its own tensors, also where its ``forward`` raises. What
    ``forward`` writes into a given tensor lands in that tensor; where it assigns a new
    tensor to a buffer (``self.mean = self.mean * 0.9``) the new one replaces the given
    one in the dict.

    Args:
        module: the module to call.
        parameter_and_buffer_dicts: tensors by their names in ``named_parameters`` and
            ``named_buffers``; one dict, or several without a common name. A tensor that
            isn't given is taken from the module. The name of a tensor that a
            parametrization computes replaces its result.
        args: the positional arguments; anything but a tuple is one argument.
        kwargs: the keyword arguments.
        tie_weights: a value given for one of several tied names is used for all.
        strict: raise where a name is missing or unknown, instead of using the module's
            tensor or ignoring the value.

    Returns:
        What the module returns.

    Raises:
        ArgumentError: (a ValueError) for a name in two dicts, and for different values
            given to tied names.
        UsageError: (a RuntimeError) with ``strict`` for missing and unknown names, and
            for a scripted or data-parallel module.
        ArgumentTypeError: (a TypeError) for a value that is not a tensor.

    Examples:
        >>> import torch, jaxtorch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> params = {"weight": torch.tensor([[1.0, 2.0]])}
        >>> def loss(params, x):
        ...     return jaxtorch.functional_call(model, params, x).sum()
        >>> jaxtorch.grad(loss)(params, torch.tensor([3.0, 4.0]))
        {'weight': tensor([[3., 4.]])}

    Source: the signature and behaviour of ``torch.func.functional_call``.
    """
    where = f"functional_call({type(module).__name__})"
    check_module(where, module)
    dicts = separate_dicts(where, parameter_and_buffer_dicts)
    given = {name: value for own in dicts for name, value in own.items()}
    check_tensors(where, given)
    layout = Layout(module)
    if args is None:
        args = ()
    elif not isinstance(args, tuple):
        args = (args,)
    assignments = assign(where, layout, given, tie_weights, strict)
    named = [(own, name, layout.find(name)) for own in dicts for name in own]
    with exchanged(layout, assignments):
        try:
            return module(*args, **(kwargs or {}))
        finally:
            keep_new_tensors(named)


def separate_dicts(where: str, dicts: Any) -> Sequence[StateDict]:
    """Return the dicts as a sequence; refuse a name that is in two of them."""
    several: Any = [dicts] if isinstance(dicts, Mapping) else dicts
    if not isinstance(several, Sequence) or not all(
        isinstance(own, Mapping) for own in several
    ):
        raise ArgumentError(
            explain(
                where,
                "Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of "
                f"dicts, but got {type(dicts).__name__}.",
                "pass dict(module.named_parameters()), or several such dicts",
            )
        )
    names = [name for own in several for name in own]
    if len(set(names)) != len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ArgumentError(
            explain(
                where,
                f"{repeated} appeared in multiple dictionaries.",
                "give each name in one dict only",
            )
        )
    return list(several)


def assign(
    where: str,
    layout: Layout,
    given: Mapping[str, Any],
    tie_weights: bool,
    strict: bool,
) -> list[Assignment]:
    """Return what goes into which slot; a value for one name serves all tied names."""
    assignments: list[Assignment] = []
    missing = []
    for names in layout.groups(by_tensor=tie_weights):
        own = [name for name in names if name in given]
        if own:
            check_tied(where, own, given)
            assignments += [(layout.slots[name], given[own[0]]) for name in names]
        elif layout.slots[names[0]].table[layout.slots[names[0]].key] is not None:
            missing += names
    unknown = [name for name in given if name not in layout.slots]
    if strict and (missing or unknown):
        raise UsageError(different_names(where, missing, unknown))
    for name in unknown:
        slot = layout.find(name)
        if slot is not None:
            assignments.append((slot, given[name]))
    return assignments


def check_tied(where: str, names: list[str], given: Mapping[str, Any]) -> None:
    """Refuse different values for names of one tensor."""
    first = given[names[0]]
    if any(given[name] is not first for name in names[1:]):
        raise ArgumentError(
            explain(
                where,
                f"got multiple values for keys {sorted(names)}, which are tied.",
                "pass one of them only, or tie_weights=False where they are different "
                "attributes that share a tensor",
            )
        )


def different_names(where: str, missing: list[str], unknown: list[str]) -> str:
    """Word the error for names that ``strict`` does not let pass."""
    details = []
    if unknown:
        details.append(f"Unexpected key(s): {', '.join(map(repr, unknown))}.")
    if missing:
        details.append(f"Missing key(s): {', '.join(map(repr, missing))}.")
    return explain(
        where,
        "strict=True, and the names are not those of the module.",
        "pass every parameter and buffer by its name, or drop strict=True",
        *details,
    )


def keep_new_tensors(named: Sequence[tuple[StateDict, str, Slot | None]]) -> None:
    """Store in the user's dicts the tensors that ``forward`` assigned to the module."""
    for own, name, slot in named:
        if slot is None:
            continue
        value = slot.table.get(slot.key)
        if value is not own[name] and isinstance(value, Tensor):
            own[name] = value
