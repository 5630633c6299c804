"""What holds for every staged graph, before and after every pass.

``checked()`` puts a check behind each pass of ``jit``; any tests run so under
``pytest -p tests.checked_graphs``.
"""

import contextlib
from collections.abc import Iterator
from operator import getitem
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from jaxtorch.core.level import Wrapper
from jaxtorch.staging.passes import pipeline as passes
from jaxtorch.staging.passes.pipeline import Pass, Work
from jaxtorch.staging.passes.rewriting import infer, is_pure
from jaxtorch.staging.region import Region


class Promise(NamedTuple):
    """What no pass may change: the inputs, the results, and what is drawn."""

    inputs: list[str]
    results: list[tuple[Any, ...]]
    impure: list[Any]


def promise_of(graph: fx.Graph) -> Promise:
    """Read off what a graph promises."""
    inputs = [n.name for n in graph.nodes if n.op == "placeholder"]
    results = [kind_of(n) for n in output_of(graph).args[0]]
    impure = [
        n.target for n in graph.nodes if n.op == "call_function" and not is_pure(n)
    ]
    return Promise(inputs, results, impure)


def output_of(graph: fx.Graph) -> fx.Node:
    """Return the last node, which is the only output."""
    *rest, last = graph.nodes
    assert last.op == "output"
    assert all(node.op != "output" for node in rest)
    return last


def kind_of(node: fx.Node) -> tuple[Any, ...]:
    """Return shape, dtype and device of a node with one value."""
    value = node.meta["val"]
    return tuple(value.shape), value.dtype, node.meta["device"]


def check_graph(graph: fx.Graph) -> None:
    """Raise unless a graph is well-formed and says the truth about its values."""
    graph.lint()
    seen_call = False
    for node in graph.nodes:
        if node.op == "placeholder":
            assert not seen_call, f"{node} is a placeholder behind a call"
            assert node.meta["val"].is_meta
        elif node.op == "call_function":
            seen_call = True
            check_arguments(node)
            check_value(node)
            if isinstance(node.target, Region):
                for inner in node.target.graphs():
                    check_graph(inner)


def check_arguments(node: Any) -> None:
    """Raise if a call holds a tensor, or is none of the three kinds of calls."""
    assert node.target is getitem or isinstance(node.target, (OpOverload, Region))
    held = torch.utils._pytree.tree_leaves((node.args, node.kwargs))
    assert not any(isinstance(leaf, (Tensor, Wrapper)) for leaf in held), node
    for source in node.all_input_nodes:
        assert source.op != "output"


def check_value(node: fx.Node) -> None:
    """Raise unless a node's value is what its call gives."""
    stated, found = tensors_of(node.meta["val"]), tensors_of(infer(node))
    assert all(value.is_meta and type(value) is Tensor for value in stated), node
    kinds = [[(v.shape, v.dtype) for v in values] for values in (stated, found)]
    assert kinds[0] == kinds[1], f"{node}: {kinds[0]} is stated, {kinds[1]} comes out"
    assert node.meta["device"] == device_of(node), node


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors of a node's value."""
    values = [value] if isinstance(value, Tensor) else value
    return [value for value in values if isinstance(value, Tensor)]


def device_of(node: fx.Node) -> torch.device:
    """Return the device where a call leaves its result.

    Tensors without dims may lie on the CPU beside tensors of another device.
    """
    named = node.kwargs.get("device")
    if named is not None:
        return torch.device(named)  # type: ignore[arg-type]
    sources = node.all_input_nodes
    devices = [n.meta["device"] for n in sources if n.meta["device"].type != "cpu"]
    devices += [n.meta["device"] for n in sources]
    return devices[0] if devices else torch.get_default_device()


def check_kept(each: str, before: Promise, after: Promise) -> None:
    """Raise if a pass broke a promise; only folding may add inputs, behind the rest."""
    count = len(before.inputs)
    assert after.inputs[:count] == before.inputs, f"{each}: inputs changed"
    added = after.inputs[count:]
    assert not added or each == "constants", f"{each}: added inputs {added}"
    assert after.results == before.results, f"{each}: results changed"
    assert after.impure == before.impure, f"{each}: random calls changed"


def check_fresh(graph: fx.Graph) -> None:
    """Raise unless strides are what the finished graph gives, node by node."""
    for node in graph.nodes:
        if node.op == "call_function" and not isinstance(node.target, Region):
            pairs = zip(
                tensors_of(node.meta["val"]), tensors_of(infer(node)), strict=True
            )
            assert all(a.stride() == b.stride() for a, b in pairs), node


def watched(each: Pass) -> Pass:
    """Return the pass with a check before and after it."""

    def run(graph: fx.Graph, work: Work) -> int:
        before = promise_of(graph)
        changed = each.run(graph, work)
        check_graph(graph)
        check_kept(each.name, before, promise_of(graph))
        if each.name == passes.FINISH[-1].name:
            check_fresh(graph)
        return changed

    return each._replace(run=run)


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Check every graph behind every pass."""
    with pytest.MonkeyPatch.context() as patch:
        for table in ("CLEAN_UP", "FINISH"):
            patch.setattr(passes, table, tuple(map(watched, getattr(passes, table))))
        yield


@pytest.fixture(autouse=True)
def checked_graphs() -> Iterator[None]:
    """Check the graphs of a test, where this module is a plugin or imported."""
    with checked():
        yield
