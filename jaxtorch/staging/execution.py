"""Execution: a graph as flat generated Python over the fastest ATen entry points.

Every value is released after its last use. The generated source is kept for reading.
"""

from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from jaxtorch.staging.region import Region
from jaxtorch.staging.rewriting import VIEWS, meta_of
from jaxtorch.staging.sizes import Linear


class Program:
    """A compiled graph.

    Attributes:
        code: the generated source.
        run: the function; takes the inputs, then the captured tensors, and returns a
            list of the outputs.
    """

    def __init__(self, code: str, run: Callable[..., list[Any]]) -> None:
        self.code = code
        self.run = run


def compile_graph(graph: fx.Graph, sized: int | None = None) -> Program:
    """Generate and compile the Python source of a graph.

    ``sized`` is the input whose dim 0 has the batch size that the graph depends on.
    """
    namespace: dict[str, Any] = {"torch": torch}
    names: dict[fx.Node, str] = {}
    dying = last_uses(graph)
    params = []
    body = []
    for node in graph.nodes:
        if node.op == "placeholder":
            names[node] = node.name
            params.append(node.name)
        elif node.op == "call_function":
            names[node] = node.name
            body.append(f"{node.name} = {call_source(node, names, namespace)}")
        else:
            results = ", ".join(source_of(a, names, namespace) for a in node.args[0])
            body.append(f"return [{results}]")
        dead = [names[n] for n in dying.get(node, ()) if n.op == "call_function"]
        if dead and node.op == "call_function":
            body.append(f"del {', '.join(dead)}")
    if sized is not None:
        body.insert(0, f"n = {params[sized]}.shape[0]")
    lines = "\n    ".join(body)
    code = f"def run({', '.join(params)}):\n    {lines}\n"
    exec(compile(code, "<jaxtorch.jit>", "exec"), namespace)
    return Program(code, namespace["run"])


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


def call_source(node: Any, names: dict[fx.Node, str], namespace: dict[str, Any]) -> str:
    """Return the source of one call."""
    if node.target is getitem:
        return f"{names[node.args[0]]}[{node.args[1]}]"
    entry = entry_point(node)
    if isinstance(entry, Region):
        name = f"{entry}_{node.name}"
    else:
        name = entry_name(entry, node.target)
    namespace.setdefault(name, entry)
    args = [source_of(a, names, namespace) for a in node.args]
    args += [f"{k}={source_of(v, names, namespace)}" for k, v in node.kwargs.items()]
    return f"{name}({', '.join(args)})"


def source_of(value: Any, names: dict[fx.Node, str], namespace: dict[str, Any]) -> str:
    """Return the source of one argument."""
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, (list, tuple)):
        inner = ", ".join(source_of(v, names, namespace) for v in value)
        return (
            f"[{inner}]"
            if isinstance(value, list)
            else f"({inner}{',' * (len(value) == 1)})"
        )
    if isinstance(value, (bool, int, str, type(None), Linear)):
        return repr(value)
    if isinstance(value, (float, complex)) and value == value and abs(value) < 1e300:
        return repr(value)
    name = f"const{len(namespace)}"  # k0, k1, ... are the captured tensors
    namespace[name] = value
    return name


def entry_point(node: Any) -> Callable[..., Any]:
    """Return the cheapest function that makes the call of ``node``.

    The functions of ``torch`` cost about 0.4 us less than the overloads. They are taken
    where they accept the same arguments and give the same shape and dtype.
    """
    if isinstance(node.target, Region):
        return node.target
    overload: OpOverload = node.target
    if overload in VIEWS:
        return torch.reshape
    namespace, _, name = overload._schema.name.partition("::")
    entry = getattr(torch, name, None) if namespace == "aten" else None
    if type(entry) is type(torch.sin) and not node.meta.get("no_entry"):
        if gives_same(entry, node):
            return entry
    return overload._op


def gives_same(entry: Callable[..., Any], node: fx.Node) -> bool:
    """Try a function on meta tensors: does it accept the call and agree?"""
    kwargs = {k: meta_of(v) for k, v in node.kwargs.items()}
    if "device" in kwargs:
        kwargs["device"] = "meta"
    elif not any(isinstance(a, fx.Node) for a in node.all_input_nodes):
        kwargs["device"] = "meta"
    try:
        out = entry(*[meta_of(a) for a in node.args], **kwargs)
    except Exception:  # any refusal means: keep the overload
        return False
    expected = node.meta["val"]
    if isinstance(expected, Tensor):
        return (
            isinstance(out, Tensor)
            and out.shape == expected.shape
            and out.dtype == expected.dtype
        )
    return isinstance(out, (list, tuple)) and len(out) == len(expected)


def entry_name(entry: Callable[..., Any], overload: OpOverload) -> str:
    """Return a readable name for an entry point in the generated source."""
    name = str(overload).removeprefix("aten.").replace(".", "_")
    if entry is overload._op:
        return f"aten_{name}"
    return f"op_{name.removesuffix('_default')}"
