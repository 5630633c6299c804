"""Values that are equal up to their sign are computed once."""

import math

import pytest
import torch
from torch import fx

import jaxtorch
from jaxtorch.staging.passes.rewriting import emit
from jaxtorch.staging.passes.signs import READINGS, Signs

aten = torch.ops.aten
A, B = torch.rand(2, 5, 5) + 0.5
LONG = torch.randn(3, 4, 1000)


def far(x):
    """A chain that is odd in its argument."""
    return torch.sin(torch.tanh(x * A)).sum(0)


CASES = {
    "difference": (lambda: (far(A - B), far(B - A)), {"sin": 1, "neg": 1}),
    "same sign": (lambda: (far(A - B), far(A + B * -1)), {"sin": 1, "neg": 0}),
    "even": (lambda: ((A - B) ** 2, (B - A) ** 2), {"pow": 1, "neg": 0}),
    "not even": (lambda: ((A - B) ** 1.5, (B - A) ** 1.5), {"pow": 2, "neg": 0}),
    "infinite": (lambda: ((A - B) ** math.inf, (B - A) ** math.inf), {"pow": 2}),
    "products": (lambda: ((A @ B) * -2, (A @ -B) * -2), {"mm": 1, "neg": 1}),
    "numbers": (lambda: (far(A * -3), far(A * 3.0)), {"sin": 1, "neg": 1}),
    "other numbers": (lambda: (far(A * -3), far(A * 2)), {"sin": 2, "neg": 0}),
    "sum": (lambda: B + far(A - B) + far(B - A).exp(), {"sin": 1, "neg": 1}),
    "subtracted": (
        lambda: (A + far(A - B), B + far(B - A)),
        {"sin": 1, "neg": 0, "sub": 2},
    ),
    "too little": (lambda: (LONG * 3, LONG * -3), {"mul": 2, "neg": 0}),
    "only a view": (lambda: (A.T.exp(), (-A).T.exp()), {"neg": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_computed_once(name):
    func, wanted = CASES[name]
    staged = jaxtorch.jit(func, backend="python")
    torch.testing.assert_close(staged(), func(), rtol=0, atol=0, equal_nan=True)
    graph = staged.lower().graph
    names = [getattr(node.target, "_schema", node.target) for node in graph.nodes]
    names = [str(name).partition("(")[0] for name in names]
    for call, count in wanted.items():
        found = [n for n in names if n.split("::")[-1].split(".")[0] == call]
        assert len(found) == count, (call, names)


ARGUMENTS = {
    aten.add.Tensor: (A,),
    aten.sub.Tensor: (A,),
    aten.bmm.default: (torch.randn(2, 5, 3),),
    aten.constant_pad_nd.default: ([1, 1],),
    aten.diagonal.default: (0, 0, 1),
    aten.div.Tensor: (A,),
    aten.dot.default: (torch.randn(5),),
    aten.expand.default: ([2, 5, 5],),
    aten.mean.dim: ([0],),
    aten.mm.default: (A,),
    aten.mul.Tensor: (-2,),
    aten.mv.default: (torch.randn(5),),
    aten.permute.default: ([1, 0],),
    aten.pow.Tensor_Scalar: (3,),
    aten.select.int: (0, 1),
    aten.slice.Tensor: (0, 1, 3),
    aten.sum.dim_IntList: ([0],),
    aten.transpose.int: (0, 1),
    aten.unsqueeze.default: (0,),
    aten.view.default: ([25],),
    aten._unsafe_view.default: ([25],),
}
FIRST = {aten.bmm.default: torch.randn(2, 4, 5), aten.dot.default: torch.randn(5)}


@pytest.mark.parametrize("call", READINGS, ids=str)
def test_signs_are_right(call):
    """The sign of ``f(-x)``, by that of ``f(x)``, is that of the values."""
    x = FIRST.get(call, torch.randn(5, 5))
    rest = ARGUMENTS.get(call, ())
    graph, values = fx.Graph(), []

    def given(value):
        node = graph.placeholder(f"x{len(graph.nodes)}")
        node.meta.update(val=value.to("meta"), device=value.device)
        return node

    source = given(x)
    others = [given(v) if isinstance(v, torch.Tensor) else v for v in rest]
    end = graph.output(source)
    end.meta["device"] = x.device
    minus = emit(end, aten.neg.default, source)
    values = [emit(end, call, each, *others) for each in (source, minus)]
    signs = Signs()
    for node in graph.nodes:
        signs.read(node)
    one, two = (signs.of[node] for node in values)
    if one.number == two.number:
        turned = one.sign * two.sign
        torch.testing.assert_close(call(-x, *rest), turned * call(x, *rest))
    else:
        assert call in (aten.add.Tensor, aten.sub.Tensor)
