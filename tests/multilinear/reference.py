"""The slow oracle of normal forms: every factor as a dense tensor, then one einsum."""

import torch
from torch import Tensor, fx

from jaxtorch.staging.multilinear.form import (
    Atom,
    Call,
    Form,
    OneHot,
    Term,
    Window,
    labels_in,
)


def value_of(source, env):
    """Return the tensor of a source."""
    if isinstance(source, fx.Node):
        return env[source]
    if isinstance(source, tuple):
        return [value_of(part, env) for part in source]
    if not isinstance(source, Call):
        return source
    args = [value_of(arg, env) for arg in source.args]
    if source.target is torch.ops.aten.view.default:
        return args[0].reshape(args[1])
    return source.target(*args, **dict(source.kwargs))


def dense_factor(factor, env, dtype) -> Tensor:
    """Return a factor with one dim for each label, in the order of ``labels_in``."""
    sizes = [label.size for label in labels_in(factor)]
    if isinstance(factor, Atom):
        return value_of(factor.source, env).reshape(sizes)
    if isinstance(factor, Window):
        big, *small = sizes
        flat = torch.arange(torch.Size(small).numel()) + factor.offset
        return (torch.arange(big)[:, None] == flat).to(dtype).reshape(sizes)
    assert isinstance(factor, OneHot)
    index = value_of(factor.index.source, env).reshape(sizes[:-1])
    return (index[..., None] == torch.arange(sizes[-1])).to(dtype)


def dense_term(term: Term, env, dtype=torch.float64) -> Tensor:
    """Return the value of a term."""
    numbers: dict = {}

    def number(labels):
        return [numbers.setdefault(label, len(numbers)) for label in labels]

    operands: list = [torch.tensor(term.coef, dtype=dtype), []]
    for factor in term.factors:
        operands += [dense_factor(factor, env, dtype), number(labels_in(factor))]
    free = [label for axis in term.axes for label in axis]
    for label in free:
        operands += [torch.ones(label.size, dtype=dtype), number([label])]
    out = torch.einsum(*operands, number(free))
    shape = [torch.Size(x.size for x in axis).numel() for axis in term.axes]
    return out.reshape(shape)


def dense(form: Form, env, shape, dtype=torch.float64) -> Tensor:
    """Return the value of a form."""
    total = torch.zeros(shape, dtype=dtype)
    for term in form:
        total = total + dense_term(term, env, dtype)
    return total
