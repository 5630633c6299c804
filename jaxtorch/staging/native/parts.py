"""What writers of calls share: a value put into a part of a result."""

from typing import Any

from torch import Tensor, fx

from jaxtorch.staging.native.loops import TYPES, Line, Nest
from jaxtorch.staging.native.views import broadcast
from jaxtorch.staging.native.writer import Writer, identity
from jaxtorch.staging.passes.rewriting import value_of


def type_of(node: fx.Node) -> str:
    """Return the type of the elements of a call."""
    return TYPES[value_of(node).dtype]


def put(w: Writer, node: Any, source: Any, view: Tensor) -> None:
    """Write a value into a view of the result."""
    shape = tuple(view.shape)
    nest = w.add(Nest(shape, len(shape)))
    value = w.read(nest, source, broadcast(source, node, identity(shape)))
    place = w.part(nest, node, view, value_of(node))
    nest.body.append(Line(f"@ = ({type_of(node)}){value.text};", place))
