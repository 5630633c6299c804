"""Memory of a graph: what lives when, the peak, and an order that lowers it."""

import itertools
from operator import getitem

import torch
from torch import Tensor, fx

LARGEST_BLOCK = (32 << 20) - (64 << 10)
"""glibc never takes larger blocks from its heap."""


def storages(node: fx.Node) -> dict[int, int]:
    """Return the storages of a node's value and their sizes in bytes."""
    value = node.meta["val"]
    found = {}
    for tensor in [value] if isinstance(value, Tensor) else value:
        if isinstance(tensor, Tensor):
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return found


def bytes_made(node: fx.Node) -> int:
    """Return the bytes of the storages that a call makes anew."""
    given: dict[int, int] = {}
    for source in node.all_input_nodes:
        given.update(storages(source))
    return sum(n for key, n in storages(node).items() if key not in given)


class Live:
    """The bytes held while a graph runs; a view holds the storage it was taken from."""

    def __init__(self, graph: fx.Graph) -> None:
        self.outside: set[int] = set()
        self.uses: dict[fx.Node, int] = {}
        self.holders: dict[int, int] = {}
        self.held = 0
        for node in graph.nodes:
            self.uses[node] = len(node.users)
            if node.op == "placeholder":
                self.outside.update(storages(node))

    def makes(self, node: fx.Node) -> int:
        """Return the bytes that running ``node`` would add."""
        return sum(
            n
            for key, n in storages(node).items()
            if key not in self.outside and not self.holders.get(key)
        )

    def frees(self, node: fx.Node) -> int:
        """Return the bytes that running ``node`` would release."""
        return sum(
            n
            for source in node.all_input_nodes
            if self.uses[source] == 1
            for key, n in storages(source).items()
            if key not in self.outside and self.holders.get(key) == 1
        )

    def run(self, node: fx.Node) -> int:
        """Run ``node``; returns the bytes held at its peak."""
        self.held += self.makes(node)
        peak = self.held
        for key in storages(node):
            self.holders[key] = self.holders.get(key, 0) + 1
        for source in node.all_input_nodes:
            self.uses[source] -= 1
            if self.uses[source] == 0 and source.op == "call_function":
                self.release(source)
        if not self.uses[node]:
            self.release(node)
        return peak

    def release(self, node: fx.Node) -> None:
        """Drop a value that is not used any more."""
        for key, n in storages(node).items():
            self.holders[key] -= 1
            if not self.holders[key] and key not in self.outside:
                self.held -= n


def peak_bytes(graph: fx.Graph) -> int:
    """Return the most bytes that results and intermediate values hold at once.

    Inputs and captured tensors are not counted.
    """
    return peak_of(graph, calls_of(graph))


def keep_pages(graph: fx.Graph) -> None:
    """Let the C library keep the memory of a call for the next one.

    glibc gives memory back where a block is above a threshold, or the free end of its
    heap above twice that, and each page that is taken again costs a fault. The
    threshold rises when a larger block is freed, touched or not.
    """
    if any(n.meta["device"].type == "cpu" for n in calls_of(graph)):
        size = min(peak_bytes(graph), LARGEST_BLOCK)
        with torch._C._DisableTorchDispatch():
            torch.empty(size, dtype=torch.uint8, device="cpu")


def calls_of(graph: fx.Graph) -> list[fx.Node]:
    """Return the calls of a graph in order."""
    return [node for node in graph.nodes if node.op == "call_function"]


def peak_of(graph: fx.Graph, order: list[fx.Node]) -> int:
    """Return the peak of running the calls in the given order."""
    live = Live(graph)
    return max((live.run(node) for node in order), default=0)


def order_for_memory(graph: fx.Graph, movable: set[fx.Node]) -> int:
    """Reorder the calls where that lowers the peak; returns the bytes saved.

    Takes at each step the call that leaves the fewest bytes held, the first one where
    several do. Calls that are not ``movable`` (random numbers) keep their order.
    """
    calls = calls_of(graph)
    before = peak_of(graph, calls)
    order = greedy_order(graph, calls, movable)
    saved = before - peak_of(graph, order)
    if saved <= 0:
        return 0
    last = next(node for node in graph.nodes if node.op == "output")
    for node in order:
        last.prepend(node)
    return saved


def greedy_order(
    graph: fx.Graph, calls: list[fx.Node], movable: set[fx.Node]
) -> list[fx.Node]:
    """Schedule the ready call that grows the held bytes least, again and again."""
    place = {node: i for i, node in enumerate(calls)}
    waiting = {
        node: sum(s.op == "call_function" for s in node.all_input_nodes)
        for node in calls
    }
    fixed = [node for node in calls if node not in movable]
    follows = dict(itertools.pairwise(fixed))
    for node in follows.values():
        waiting[node] += 1
    ready = [node for node in calls if not waiting[node]]
    live = Live(graph)
    order = []
    while ready:
        node = min(ready, key=lambda n: (cost_of(live, n), place[n]))
        ready.remove(node)
        live.run(node)
        order.append(node)
        then = [user for user in node.users if user.op == "call_function"]
        then += [follows[node]] if node in follows else []
        for user in then:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    return order


def cost_of(live: Live, node: fx.Node) -> int:
    """Return how many bytes more are held after a call; picking an output is free."""
    if node.target is getitem:
        return -(1 << 62)
    return live.makes(node) - live.frees(node)


def last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Return for each node the values that are used there for the last time."""
    seen: set[fx.Node] = set()
    dying: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(list(graph.nodes)):
        for used in node.all_input_nodes:
            if used not in seen:
                seen.add(used)
                dying.setdefault(node, []).append(used)
    return dying
