"""Packing: a function, generated once, that builds a tree from a list of its leaves."""

from collections.abc import Callable
from typing import Any

from jaxtorch import pytree

MOST_NESTED = 20
"""How deep a tree may be to be written out: Python's parser has a limit of its own."""


def packer(spec: Any) -> Callable[[Any], Any]:
    """Return what ``pytree.unflatten`` does for one structure, without the walk."""
    namespace: dict[str, Any] = {"unflatten": pytree.unflatten}
    source = source_of(spec, 0, MOST_NESTED, namespace)
    pack: Callable[[Any], Any] = eval(f"lambda leaves: {source}", namespace)
    return pack


def source_of(spec: Any, first: int, depth: int, namespace: dict[str, Any]) -> str:
    """Return the source of a tree whose leaves begin at ``first``."""
    if spec.is_leaf():
        return f"leaves[{first}]"
    kind = spec.type
    name = f"c{len(namespace)}"
    if not depth or kind not in (tuple, list, dict):
        namespace[name] = spec
        return f"unflatten(list(leaves[{first}:{first + spec.num_leaves}]), {name})"
    namespace[name] = spec.context
    inner = []
    for child in spec.children():
        inner.append(source_of(child, first, depth - 1, namespace))
        first += child.num_leaves
    if kind is dict:
        inner = [f"{name}[{i}]: {source}" for i, source in enumerate(inner)]
        return f"{{{', '.join(inner)}}}"
    if kind is list:
        return f"[{', '.join(inner)}]"
    return f"({''.join(f'{each}, ' for each in inner)})"
