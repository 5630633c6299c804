"""What writers of calls share: a number everywhere, a value in a part of a result."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.staging.native.loops import TYPES, Line
from jaxtorch.staging.native.scalars import literal
from jaxtorch.staging.native.views import broadcast
from jaxtorch.staging.native.writer import Writer, identity
from jaxtorch.staging.passes.rewriting import value_of


def type_of(node: fx.Node) -> str:
    """Return the type of the elements of a call."""
    return TYPES[value_of(node).dtype]


def fill(w: Writer, node: Any, number: Any) -> None:
    """Write one number everywhere."""
    nest = w.over(value_of(node).shape)
    place = w.place(nest, node, identity(nest.sizes))
    nest.body.append(Line(f"@ = {literal(number, type_of(node))};", place))


def part_of(
    node: fx.Node, view: Callable[..., Tensor], *args: Any, **named: Any
) -> Tensor:
    """Return a view of a result, to be put into."""
    with torch._C._DisableTorchDispatch():
        return view(value_of(node), *args, **named)


def put(w: Writer, node: Any, source: Any, view: Tensor) -> None:
    """Write a value into a view of the result."""
    nest = w.over(view.shape)
    value = w.read(nest, source, broadcast(source, node, identity(nest.sizes)))
    place = w.part(nest, node, view, value_of(node))
    nest.body.append(Line(f"@ = ({type_of(node)}){value.text};", place))
