"""The operators on lists of tensors against their loop and central differences."""

import pytest
import torch

from jaxtorch import grad, jit, jvp, vmap
from jaxtorch.errors import MutationError

NAMES = sorted(
    name
    for name in {
        own.removeprefix("aten::").partition(".")[0]
        for own in torch._C._dispatch_get_all_op_names()
        if own.startswith("aten::_foreach_")
    }
    if hasattr(torch, name)
)
OVERLOADS = [
    getattr(packet, name)
    for packet in (getattr(torch.ops.aten, name) for name in NAMES)
    for name in packet.overloads()
    if "out" not in name
]
STEP = 1e-6
STEPS = ("ceil", "floor", "round", "sign", "trunc", "zero")


def argument(kind, name, x):
    """Return an argument of an overload that goes with two matrices ``x``."""
    if kind == "List[Tensor]":
        return [x[0], x[1]] if name == "self" else [x[1] + 0.1, x[0] * 0.5 + 0.2]
    if kind == "List[number]":
        return [0.3, 0.6]
    if kind == "Tensor":
        return torch.tensor([0.3, 0.6]).double() if name == "scalars" else x[0, 0, 0]
    return 0.4


def function(overload):
    """Return the overload as a function of one tensor that holds two matrices."""
    fixed = [a for a in overload._schema.arguments if not a.has_default_value()]

    def call(x):
        args = [argument(str(a.type), a.name, x) for a in fixed]
        if overload._schema.name.endswith("_"):
            args[0] = [a.clone() for a in args[0]]
            overload(*args)
            return torch.stack(args[0])
        return torch.stack(overload(*args))

    return call


@pytest.mark.parametrize("overload", OVERLOADS, ids=str)
def test_mapped_and_differentiated(overload):
    call = function(overload)
    x = torch.rand(3, 2, 2, 2, dtype=torch.float64) * 0.8 + 0.1
    torch.testing.assert_close(
        vmap(call, strict=True)(x), torch.stack([call(own) for own in x])
    )
    if any(step in str(overload) for step in STEPS):
        return

    def loss(x):
        return call(x).square().sum()

    directions = torch.rand_like(x)
    expected = torch.stack(
        [
            (loss(own + STEP * v) - loss(own - STEP * v)) / (2 * STEP)
            for own, v in zip(x, directions, strict=True)
        ]
    )
    pushed = vmap(lambda x, v: jvp(loss, (x,), (v,))[1])(x, directions)
    torch.testing.assert_close(pushed, expected, rtol=1e-6, atol=1e-7)
    pulled = (vmap(grad(loss))(x) * directions).sum((1, 2, 3))
    torch.testing.assert_close(pulled, pushed)


def test_a_step_of_an_optimizer_that_is_staged():
    def step(w, g):
        w, m = w.clone(), torch.zeros_like(w)
        torch._foreach_lerp_([m], [g], 0.1)
        torch._foreach_add_([w], [m], alpha=-0.5)
        return w

    w, g = torch.rand(2, 3), torch.rand(2, 3)
    torch.testing.assert_close(vmap(step)(w, g), w - 0.05 * g)
    torch.testing.assert_close(jit(vmap(step))(w, g), w - 0.05 * g)


def test_a_captured_tensor_is_not_written():
    kept = torch.zeros(3)
    with pytest.raises(MutationError, match=r"copy_.* captured from outside"):
        vmap(lambda x: torch._foreach_add_([kept], [x]))(torch.ones(2, 3))
    assert not kept.any()
