"""Pytrees: flattening nested containers of tensors. A thin layer over torch's own."""

from collections.abc import Callable
from typing import Any

import torch.utils._pytree as torch_pytree
from torch import Tensor
from torch.utils._pytree import TreeSpec, keystr

LEAF = torch_pytree.tree_structure(0)


def flatten(tree: Any) -> tuple[list[Any], TreeSpec]:
    """Return the leaves of ``tree`` and its structure."""
    if isinstance(tree, Tensor):
        return [tree], LEAF
    return torch_pytree.tree_flatten(tree)


def unflatten(leaves: list[Any], spec: TreeSpec) -> Any:
    """Rebuild a tree from its leaves and structure."""
    if spec is LEAF:
        return leaves[0]
    return torch_pytree.tree_unflatten(leaves, spec)


FLAT = torch_pytree.tree_structure(())
"""Stands for the structure of a tuple whose entries are all leaves."""


def flatten_args(args: tuple[Any, ...]) -> tuple[list[Any], TreeSpec]:
    """As ``flatten``, quick for a tuple of tensors."""
    for arg in args:
        if not isinstance(arg, Tensor):
            return torch_pytree.tree_flatten(args)
    return list(args), FLAT


def unflatten_args(leaves: list[Any], spec: TreeSpec) -> Any:
    """Undo ``flatten_args``."""
    if spec is FLAT:
        return tuple(leaves)
    return torch_pytree.tree_unflatten(leaves, spec)


def tree_map(func: Callable[[Any], Any], tree: Any) -> Any:
    """Apply ``func`` to every leaf."""
    leaves, spec = flatten(tree)
    return unflatten([func(leaf) for leaf in leaves], spec)


def paths(tree: Any, root: str) -> list[str]:
    """Return for each leaf how to reach it, such as ``x['w']``, for error texts."""
    pairs, _ = torch_pytree.tree_flatten_with_path(tree)
    return [root + keystr(path) for path, _ in pairs]


def broadcast_prefix(prefix: Any, spec: TreeSpec) -> list[Any] | None:
    """Repeat each leaf of ``prefix`` for the leaves below it; None if not a prefix."""
    return torch_pytree._broadcast_to_and_flatten(prefix, spec)
