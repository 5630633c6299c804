"""functorch's ``make_functional`` family: modules as functions of tuples of tensors."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from jaxtorch.errors import UsageError, explain
from jaxtorch.nn.ensemble import check_alike, check_same
from jaxtorch.nn.slots import Layout, check_module, exchanged

Tensors = tuple[Tensor, ...]
Kind = TypeVar("Kind", bound="Stateless")


class Stateless(nn.Module):
    """A module whose tensors were taken out; what the two public classes share.

    Attributes:
        stateless_model: the module; its tensors are on the meta device.
        param_names: the name of each parameter, in the order of ``params``.
        buffer_names: the name of each buffer, in the order of ``buffers``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stateless_model = model
        self.param_names = [name for name, _ in model.named_parameters()]
        self.buffer_names = [name for name, _ in model.named_buffers()]
        groups = Layout(model).groups(by_tensor=True)
        self.tied_names = {name: names for names in groups for name in names}

    def call(
        self,
        params: Sequence[Tensor],
        buffers: Sequence[Tensor],
        args: Any,
        kwargs: Any,
    ) -> Any:
        """Put the tensors into the module, call it, and take them out again."""
        self.check_count("parameters", params, self.param_names)
        self.check_count("buffers", buffers, self.buffer_names)
        layout = Layout(self.stateless_model)
        assignments = [
            (layout.slots[tied], tensor)
            for name, tensor in zip(
                [*self.param_names, *self.buffer_names],
                [*params, *buffers],
                strict=True,
            )
            for tied in self.tied_names[name]
        ]
        with exchanged(layout, assignments):
            return self.stateless_model(*args, **kwargs)

    def check_count(
        self, what: str, tensors: Sequence[Tensor], names: Sequence[str]
    ) -> None:
        """Refuse a number of tensors that is not that of the module."""
        if len(tensors) != len(names):
            raise UsageError(
                explain(
                    f"make_functional({type(self.stateless_model).__name__})",
                    f"got {len(tensors)} {what}, the module has {len(names)}.",
                    f"pass the {what} in the order in which they were returned",
                )
            )


class FunctionalModule(Stateless):
    """A module without tensors: ``func(params, *args, **kwargs)``.

    ``make_functional`` returns it.

    Args:
        model: the module to copy; it has no buffers.

    Raises:
        UsageError: (a RuntimeError) when it is called with another number of tensors.

    Examples:
        >>> import torch, jaxtorch
        >>> func, params = jaxtorch.make_functional(torch.nn.Linear(2, 1, bias=False))
        >>> func((torch.tensor([[1.0, 2.0]]),), torch.tensor([3.0, 4.0]))
        tensor([11.])
    """

    def forward(self, params: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        """Call the module with these parameters."""
        return self.call(params, (), args, kwargs)


class FunctionalModuleWithBuffers(Stateless):
    """A module without tensors: ``func(params, buffers, *args, **kwargs)``.

    ``make_functional_with_buffers`` returns it.

    Args:
        model: the module to copy.

    Raises:
        UsageError: (a RuntimeError) when it is called with another number of tensors.

    Examples:
        >>> import torch, jaxtorch
        >>> norm = torch.nn.BatchNorm1d(1, affine=False, momentum=None, eps=1e-9).eval()
        >>> func, params, buffers = jaxtorch.make_functional_with_buffers(norm)
        >>> func(params, (*[torch.ones(1)] * 2, buffers[2]), torch.tensor([[3.0]]))
        tensor([[2.]])
    """

    def forward(
        self,
        params: Sequence[Tensor],
        buffers: Sequence[Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call the module with these parameters and buffers."""
        return self.call(params, buffers, args, kwargs)


def make_functional(
    model: nn.Module, disable_autograd_tracking: bool = False
) -> tuple[FunctionalModule, Tensors]:
    """Split a module without buffers into a function and its parameters.

    Args:
        model: the module; it is copied and stays as it is.
        disable_autograd_tracking: return parameters that do not require grad.

    Returns:
        ``(func, params)``: ``func(params, *args, **kwargs)`` calls the module. A tied
        parameter is one entry of ``params``.

    Raises:
        UsageError: (a RuntimeError) where the module has buffers.

    Examples:
        >>> import torch, jaxtorch
        >>> func, params = jaxtorch.make_functional(torch.nn.Linear(3, 1))
        >>> grads = jaxtorch.grad(lambda p, x: func(p, x).sum())(params, torch.ones(3))
        >>> grads[0]
        tensor([[1., 1., 1.]])

    Source: the signature and behaviour of ``functorch.make_functional``.
    """
    where = f"make_functional({type(model).__name__})"
    check_module(where, model)
    if any(True for _ in model.buffers()):
        raise UsageError(
            explain(
                where,
                "the module has buffers.",
                "use make_functional_with_buffers, or functional_call",
            )
        )
    func, params, _ = take_apart(model, FunctionalModule, disable_autograd_tracking)
    return func, params


def make_functional_with_buffers(
    model: nn.Module, disable_autograd_tracking: bool = False
) -> tuple[FunctionalModuleWithBuffers, Tensors, Tensors]:
    """Split a module into a function, its parameters and its buffers.

    What the module writes into a buffer lands in the tensor that was passed for it.

    Args:
        model: the module; it is copied and stays as it is.
        disable_autograd_tracking: return parameters that do not require grad.

    Returns:
        ``(func, params, buffers)``: ``func(params, buffers, *args, **kwargs)`` calls
        the module. A tied parameter is one entry of ``params``.

    Raises:
        ArgumentTypeError: (a TypeError) where ``model`` is no module.
        UsageError: (a RuntimeError) for a scripted or data-parallel module.

    Examples:
        >>> import torch, jaxtorch
        >>> model = torch.nn.BatchNorm1d(2)
        >>> func, params, buffers = jaxtorch.make_functional_with_buffers(model)
        >>> func(params, buffers, torch.ones(4, 2)).shape, len(params), len(buffers)
        (torch.Size([4, 2]), 2, 3)

    Source: the behaviour of ``functorch.make_functional_with_buffers``.
    """
    check_module(f"make_functional_with_buffers({type(model).__name__})", model)
    kind = FunctionalModuleWithBuffers
    return take_apart(model, kind, disable_autograd_tracking)


def combine_state_for_ensemble(
    models: Sequence[nn.Module] | nn.ModuleList,
) -> tuple[FunctionalModuleWithBuffers, Tensors, Tensors]:
    """Stack the state of ``M`` modules of one class, with the function that takes it.

    Args:
        models: the modules; all in training mode or none.

    Returns:
        ``(func, params, buffers)`` as ``make_functional_with_buffers``, the tensors
        with a leading dim of size ``M`` and cut off from the modules' own.

    Raises:
        UsageError: (a RuntimeError) for no model, and for models of different class,
            mode or size.

    Examples:
        >>> import torch, jaxtorch
        >>> models = [torch.nn.Linear(3, 2) for _ in range(5)]
        >>> func, params, buffers = jaxtorch.combine_state_for_ensemble(models)
        >>> x = torch.ones(4, 3)
        >>> jaxtorch.vmap(func, in_dims=(0, 0, None))(params, buffers, x).shape
        torch.Size([5, 4, 2])

    Source: the behaviour of ``functorch.combine_state_for_ensemble``.
    """
    check_alike("combine_state_for_ensemble", models)
    parts = [make_functional_with_buffers(model) for model in models]
    func = parts[0][0]
    params = stack(func.param_names, [own for _, own, _ in parts])
    buffers = stack(func.buffer_names, [own for _, _, own in parts])
    return func, params, buffers


def stack(names: Sequence[str], states: Sequence[Tensors]) -> Tensors:
    """Stack the tensors of each position; ``names`` says what they are."""
    columns = list(zip(*states, strict=True))
    for name, column in zip(names, columns, strict=True):
        check_same("combine_state_for_ensemble", "shape", name, column)
    return tuple(torch.stack(column).detach() for column in columns)


def take_apart(
    model: nn.Module, kind: type[Kind], disable_autograd_tracking: bool
) -> tuple[Kind, Tensors, Tensors]:
    """Copy a module and take its tensors out of the copy."""
    skeleton = copy.deepcopy(model)
    params = tuple(skeleton.parameters())
    buffers = tuple(skeleton.buffers())
    func = kind(skeleton)
    empty: dict[int, Tensor] = {}
    for slot in Layout(skeleton).slots.values():
        tensor = slot.table[slot.key]
        if tensor is not None:
            if id(tensor) not in empty:
                empty[id(tensor)] = placeholder(tensor)
            slot.table[slot.key] = empty[id(tensor)]
    if disable_autograd_tracking:
        for param in params:
            param.requires_grad_(False)
    return func, params, buffers


def placeholder(tensor: Tensor) -> Tensor:
    """Return a tensor of the same description that holds no numbers."""
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
