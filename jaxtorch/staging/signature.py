"""Signatures: what of a call decides which staged function runs it, as a flat key."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.settings import config

Key = tuple[Any, ...]
"""The structure of the arguments, the settings, then a part for each leaf."""
PARTS = 2
"""Where the parts of the leaves begin in a key."""
SETTINGS = ("grad mode", "default dtype", "choice of kernels", "device", "autocast")
LEAF = None
"""Stands for a leaf in a structure."""


class Layout(NamedTuple):
    """The last part of a key where layouts were read: how the tensors lie in memory."""

    strides: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]

    def __str__(self) -> str:
        offsets = f" and offsets {list(self.offsets)}" if self.offsets else ""
        return f"strides {list(self.strides)}{offsets}"


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


def settings() -> tuple[Any, ...]:
    """Return what the graph depends on beside the arguments, as ``SETTINGS`` says."""
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        config.kernels,
        torch.get_default_device() if torch._C._len_torch_function_stack() else None,
        autocast() if torch._C._is_any_autocast_enabled() else None,
    )


def autocast() -> tuple[Any, ...]:
    """Return the devices whose calls are cast, and the dtypes that they are cast to."""
    kinds = [k for k in ("cpu", "cuda") if torch.is_autocast_enabled(k)]
    return tuple([(kind, torch.get_autocast_dtype(kind)) for kind in kinds])


def part_of(leaf: Any) -> Any:
    """Return what a leaf contributes to the key."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device
    return type(leaf), leaf


def change_in_words(old: Key, new: Key) -> str:
    """Say what differs between two keys."""
    if new[0] != old[0]:
        return "the structure of the arguments is new"
    for name, was, now in zip(SETTINGS, old[1], new[1], strict=True):
        if was != now:
            return f"the {name} was {was} and is {now}"
    for place, (was, now) in enumerate(zip(old[PARTS:], new[PARTS:], strict=False)):
        if was != now:
            if isinstance(now, Layout):
                return f"the tensors lay in memory with {was} and lie with {now}"
            return f"leaf {place} was {part_in_words(was)} and is {part_in_words(now)}"
    return "an older signature was dropped from the cache"


def part_in_words(part: Any) -> str:
    """Return the words for what a leaf contributes to a key."""
    if isinstance(part[0], type):
        value = part[1].value if isinstance(part[1], Static) else part[1]
        return repr(value)
    return kind_in_words(part)


def kind_in_words(kind: Any) -> str:
    """Return the words for a shape, a dtype, a device, and strides where they count."""
    shape, dtype, device, *layout = kind
    lies = f" with strides {list(layout[0])}" if layout else ""
    return f"{str(dtype).removeprefix('torch.')}{list(shape)} on {device}{lies}"
