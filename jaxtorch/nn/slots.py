"""Where a module keeps its tensors, and exchanging them for the time of one call."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jaxtorch.errors import ArgumentTypeError, UsageError, explain


class Slot(NamedTuple):
    """One place of a module that holds a tensor: ``table[key]``."""

    table: dict[str, Any]
    key: str


Assignment = tuple[Slot, Any]


class Layout:
    """The slots of a module and of all modules below it.

    Attributes:
        slots: every parameter and buffer by its dotted name. A module that is reached
            on two paths has two names for each slot.
        recurrent: the modules that keep a second list of their parameters.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.slots: dict[str, Slot] = {}
        self.recurrent: list[nn.RNNBase] = []
        self.collect(module, "")

    def collect(self, module: nn.Module, prefix: str) -> None:
        """Note the slots of ``module``, then those of its children."""
        for table in (module._parameters, module._buffers):
            for key in table:
                self.slots[prefix + key] = Slot(table, key)
        if isinstance(module, nn.RNNBase):
            self.recurrent.append(module)
        for name, child in module._modules.items():
            if child is not None:
                self.collect(child, f"{prefix}{name}.")

    def find(self, name: str) -> Slot | None:
        """Return the slot called ``name``, also of a tensor that is not registered."""
        slot = self.slots.get(name)
        if slot is not None:
            return slot
        path, _, key = name.rpartition(".")
        owner: Any = self.module
        for part in path.split(".") if path else ():
            owner = owner._modules.get(part)
            if owner is None:
                return None
        if isinstance(owner.__dict__.get(key), Tensor):
            return Slot(owner.__dict__, key)
        computed = owner._modules.get("parametrizations")
        if isinstance(computed, nn.ModuleDict) and key in computed:
            return Slot(computed._modules, key)
        return None

    def groups(self, by_tensor: bool) -> list[list[str]]:
        """Group the names of one slot, or with ``by_tensor`` of one tensor."""
        found: dict[Any, list[str]] = {}
        for name, slot in self.slots.items():
            key: Any = (id(slot.table), slot.key)
            if by_tensor and slot.table[slot.key] is not None:
                key = id(slot.table[slot.key])
            found.setdefault(key, []).append(name)
        return list(found.values())


class Given(nn.Module):
    """Stands in for a parametrization: returns the value it was given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> Tensor:
        """Return the value."""
        return self.value


@contextmanager
def exchanged(layout: Layout, assignments: Sequence[Assignment]) -> Iterator[None]:
    """Put values into slots; put back what was there, whatever happens inside."""
    with held(assignments), held(flat_weights(layout.recurrent)):
        yield


@contextmanager
def held(assignments: Sequence[Assignment]) -> Iterator[None]:
    """Assign while the context is open. One slot may be named more than once."""
    kept = [(slot, slot.table[slot.key]) for slot, _ in assignments]
    try:
        for slot, value in assignments:
            if isinstance(slot.table[slot.key], nn.Module):
                value = Given(value)
            slot.table[slot.key] = value
        yield
    finally:
        for slot, value in kept:
            slot.table[slot.key] = value


def flat_weights(modules: Sequence[nn.RNNBase]) -> list[Assignment]:
    """Return the lists of parameters that recurrent modules hand to their kernels.

    Without this such a module would keep the values of the call after it, and on a
    GPU would ask for their storage.
    """
    assignments: list[Assignment] = []
    for module in modules:
        weights = [getattr(module, name, None) for name in module._flat_weights_names]
        refs = [None if w is None else weakref.ref(w) for w in weights]
        assignments.append((Slot(module.__dict__, "_flat_weights"), weights))
        assignments.append((Slot(module.__dict__, "_flat_weight_refs"), refs))
    return assignments


def check_module(where: str, module: Any) -> None:
    """Refuse what is no module, and modules that run outside of Python's reach."""
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(
            explain(
                where,
                f"expected a torch.nn.Module, got {type(module).__name__}.",
                "pass an instance of a module, not its class or a function",
            )
        )
    if isinstance(module, (torch.jit.ScriptModule, nn.DataParallel)):
        raise UsageError(
            explain(
                where,
                f"can't exchange the tensors of a {type(module).__name__}.",
                "pass the module that it was made from",
            )
        )


def check_tensors(where: str, given: Mapping[str, Any]) -> None:
    """Refuse values that can't stand for a parameter or buffer."""
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise ArgumentTypeError(
                explain(
                    where,
                    f"the value for {name!r} is of type {type(value).__name__}.",
                    "pass a tensor (or None for a buffer that is switched off)",
                )
            )
