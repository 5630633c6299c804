"""Forms that do not pay, given all others that are computed, are given up again.

A form is chosen in the order of the graph, when it is not yet known which values later
results need in any case.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import fx


class Way(NamedTuple):
    """One way to compute a node.

    Attributes:
        items: the bits of the calls and products that it takes.
        sources: the nodes whose values it reads.
    """

    items: int
    sources: list[fx.Node]


def given_up(
    graph: fx.Graph,
    written: Mapping[fx.Node, Way],
    formed: Mapping[fx.Node, Way],
    cost: Callable[[int], float],
) -> list[fx.Node]:
    """Return the nodes that are cheaper as written, the last ones first."""
    ways = {**written, **formed}
    order = list(reversed(graph.nodes))
    items, used = needs(order, ways)
    gone = []
    for node in order:
        if node not in formed or node not in used:
            continue
        ways[node] = written[node]
        others, reached = needs(order, ways)
        if cost(others & ~items) < cost(items & ~others):
            items, used = others, reached
            gone.append(node)
        else:
            ways[node] = formed[node]
    return gone


def needs(
    order: list[fx.Node], ways: Mapping[fx.Node, Way]
) -> tuple[int, set[fx.Node]]:
    """Return the items and the nodes that the results need; the last node is first."""
    used = {order[0]}
    items = 0
    for node in order:
        if node in used:
            way = ways[node]
            items |= way.items
            used.update(way.sources)
    return items, used
