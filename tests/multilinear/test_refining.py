"""What is chosen in the order of a graph is weighed once more when all is chosen."""

import torch
from torch import fx
from torch.nn.functional import gelu, linear

from jaxtorch import grad, jit, vmap
from jaxtorch.staging.multilinear.refining import Way, given_up


def choices(read: str) -> list[str]:
    """Return what is given up where a second result reads one of two values."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    first = graph.call_function(torch.sin, (x,), name="first")
    second = graph.call_function(torch.cos, (first,), name="second")
    other = {"second": second, "first": first}[read]
    graph.output([second, other])
    costs = [5, 1, 4]
    written = {n: Way(0, n.all_input_nodes) for n in graph.nodes}
    written[first], written[second] = Way(1, [x]), Way(2, [first])
    formed = {second: Way(4, [x])}

    def cost(items: int) -> float:
        return sum(c for i, c in enumerate(costs) if items >> i & 1)

    gone = given_up(graph, written, formed, cost)
    return [node.name for node in gone]


def test_a_form_that_spares_what_another_result_needs_is_given_up():
    assert choices(read="second") == []
    assert choices(read="first") == ["second"]


def test_norms_of_a_packed_layer_need_no_gradients():
    batch, length, width, inner = 4, 8, 16, 64

    def loss(w, x):
        parts = (x @ w.T).unflatten(-1, (3, width)).movedim(-2, 0)
        return (parts[0].sin() * parts[1].tanh() * parts[2]).sum()

    def norms(w, x):
        return vmap(grad(loss), in_dims=(None, 0))(w, x).square().sum((1, 2))

    w, x = torch.randn(3 * width, inner), torch.randn(batch, length, inner)
    staged = jit(norms, backend="python")
    forward = 2 * batch * length * inner * 3 * width
    ghost = 2 * batch * length * length * (inner + 3 * width)
    assert staged.lower(w, x).flops == forward + ghost
    torch.testing.assert_close(staged(w, x), norms(w, x))


def test_a_gradient_goes_through_an_activation_once():
    batch, length, width, hidden = 4, 64, 32, 128

    def loss(params, x):
        weight, bias, last = params
        return gelu(linear(x, weight, bias)).mean(0) @ last

    def gradients(params, x):
        return vmap(grad(loss), in_dims=(None, 0))(params, x)

    params = torch.randn(hidden, width), torch.randn(hidden), torch.randn(hidden)
    x = torch.randn(batch, length, width)
    graph = jit(gradients, backend="python").lower(params, x).graph
    large = batch * length * hidden
    made = [
        node.target
        for node in graph.nodes
        if node.op == "call_function" and node.meta["val"].numel() == large
    ]
    assert made.count(torch.ops.aten.gelu_backward.default) == 1
    assert torch.ops.aten.full.default not in made
    assert torch.ops.aten.mul.Tensor not in made
