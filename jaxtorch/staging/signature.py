"""Signatures: what of a call decides which staged function runs it, as a flat key."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.settings import config

Key = tuple[Any, ...]
"""The structure of the arguments, the settings, then a part for each leaf."""
PARTS = 2
"""Where the parts of the leaves begin in a key."""
LEAF = None
"""Stands for a leaf in a structure."""


class Static:
    """Marks an argument that is part of the key by its value."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is Static and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)


def key_of(args: Any, kwargs: dict[str, Any]) -> tuple[Key, list[Tensor]]:
    """Return the key and the tensors of a call; static arguments are marked.

    Tensors in nested tuples, lists and dicts are read in one walk.
    """
    tensors: list[Tensor] = []
    structure: list[Any] = []
    if read(args, tensors, structure) and (
        not kwargs or read(kwargs, tensors, structure)
    ):
        parts = [(x.shape, x.dtype, x.device) for x in tensors]
        return (tuple(structure), settings(), *parts), tensors
    leaves, spec = pytree.flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return (spec, settings(), *map(part_of, leaves)), tensors


def is_of_tensors(key: Key) -> bool:
    """Tell whether all leaves are tensors, so that keys are surely compared quickly."""
    return type(key[0]) is tuple


def read(tree: Any, tensors: list[Tensor], structure: list[Any]) -> bool:
    """Note the tensors of a tree and where they are; False where anything else is."""
    kind = type(tree)
    if kind is tuple or kind is list:
        structure.append((kind, len(tree)))
        entries = tree
    elif kind is dict:
        structure.append((kind, *tree))
        entries = tree.values()
    else:
        return False
    for entry in entries:
        if isinstance(entry, Tensor):
            tensors.append(entry)
            structure.append(LEAF)
        elif not read(entry, tensors, structure):
            return False
    return True


def settings() -> tuple[bool, torch.dtype, str]:
    """Return what the graph depends on beside the arguments."""
    return torch.is_grad_enabled(), torch.get_default_dtype(), config.kernels


def part_of(leaf: Any) -> Any:
    """Return what a leaf contributes to the key."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device
    return type(leaf), leaf
