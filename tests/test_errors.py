"""Every refusal: its class, its words, its remedy, and that no level stays open."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import jaxtorch
from jaxtorch import (
    errors,
    grad,
    grad_and_value,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    vjp,
    vmap,
)
from jaxtorch.core.level import STATE

X = torch.arange(6.0).reshape(2, 3)
V = torch.arange(3.0)
I = torch.arange(3)  # noqa: E741


@dataclass(frozen=True)
class Refusal:
    """A call that is refused: our class, the builtin one, and words of the text."""

    call: Callable[[], Any]
    ours: type[Exception]
    builtin: type[Exception]
    words: str


def argument(call: Callable[[], Any], words: str) -> Refusal:
    """A wrong value of an argument."""
    return Refusal(call, errors.ArgumentError, ValueError, words)


def usage(call: Callable[[], Any], words: str) -> Refusal:
    """A function or value that a transform does not accept."""
    return Refusal(call, errors.UsageError, RuntimeError, words)


def data(call: Callable[[], Any], words: str) -> Refusal:
    """Something that depends on the values of a batch."""
    return Refusal(call, errors.DataDependentError, RuntimeError, words)


def random(call: Callable[[], Any], words: str) -> Refusal:
    """A random operation that the randomness argument does not allow."""
    return Refusal(call, errors.RandomnessError, RuntimeError, words)


def branch(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def pair(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, x


TAN = torch.ones(3)
_, PULL = vjp(torch.sin, V)
_, PULL_TREE = vjp(lambda x: {"a": x, "b": x}, V)
_, PUSH = linearize(torch.sin, V)

VMAP = {
    "in_dims list": argument(lambda: vmap(torch.mul, [0, 0])(X, X), "in_dims"),
    "in_dims text": argument(lambda: vmap(torch.sin, "0")(X), "in_dims"),
    "in_dims float": argument(lambda: vmap(torch.sin, 0.0)(X), "in_dims"),
    "in_dims too few": argument(
        lambda: vmap(torch.mul, (0,))(X, X), "not compatible with the structure"
    ),
    "in_dims too many": argument(
        lambda: vmap(torch.sin, (0, 0))(X), "not compatible with the structure"
    ),
    "in_dims nested wrong": argument(
        lambda: vmap(lambda t: t["a"], ({"b": 0},))({"a": X}),
        "not compatible with the structure",
    ),
    "in_dims entry text": argument(
        lambda: vmap(torch.mul, (0, "a"))(X, X), "expected int or None"
    ),
    "in_dims entry bool": argument(
        lambda: vmap(torch.mul, (0, True))(X, X), "expected int or None"
    ),
    "number mapped": argument(lambda: vmap(torch.mul)(X, 2), "can't be mapped"),
    "none mapped": argument(
        lambda: vmap(lambda x, y: x, (0, 0))(X, None), "can't be mapped"
    ),
    "in_dim high": argument(lambda: vmap(torch.sin, 2)(X), r"-2 <= in_dim < 2"),
    "in_dim low": argument(lambda: vmap(torch.sin, -3)(X), r"-2 <= in_dim < 2"),
    "in_dim of a scalar": argument(
        lambda: vmap(torch.sin)(torch.tensor(1.0)), "dimensionality 0"
    ),
    "sizes differ": argument(
        lambda: vmap(torch.add)(X, V), r"same size.*\n.*\[2, 3\] has size 2.*\n.*size 3"
    ),
    "sizes differ by name": argument(
        lambda: vmap(lambda t: t["a"])({"a": X, "b": V}), r"args\[0\]\['b'\]"
    ),
    "size is not axis_size": argument(
        lambda: vmap(torch.sin, axis_size=5)(X), "axis_size is 5"
    ),
    "no inputs": argument(lambda: vmap(lambda: V)(), "got no inputs"),
    "nothing mapped": argument(
        lambda: vmap(torch.sin, (None,))(X), "at least one tensor must be mapped"
    ),
    "empty container": argument(lambda: vmap(lambda t: V)({}), "at least one tensor"),
    "chunk_size 0": argument(lambda: vmap(torch.sin, chunk_size=0), "chunk_size"),
    "chunk_size -1": argument(lambda: vmap(torch.sin, chunk_size=-1), "chunk_size"),
    "out_dims structure": argument(
        lambda: vmap(pair, out_dims=(0, 0, 0))(X), "not compatible with the structure"
    ),
    "out_dims text": argument(lambda: vmap(pair, out_dims="00")(X), "not compatible"),
    "out_dims of a container": argument(
        lambda: vmap(torch.sin, out_dims=(0, 1))(X), "not compatible"
    ),
    "out_dim none but batched": argument(
        lambda: vmap(torch.sin, out_dims=None)(X), "out_dims is None for an output"
    ),
    "out_dim high": Refusal(
        lambda: vmap(torch.sin, out_dims=2)(X), errors.OutDimError, IndexError, "<= 1"
    ),
    "out_dim low": Refusal(
        lambda: vmap(torch.sin, out_dims=-3)(X), errors.OutDimError, IndexError, "-2 <="
    ),
    "randomness unknown": random(
        lambda: vmap(torch.sin, randomness="sometimes"), "sometimes"
    ),
    "rand": random(
        lambda: vmap(lambda x: x + torch.rand(3))(X),
        "called random operation .* while in randomness error mode",
    ),
    "dropout": random(
        lambda: vmap(torch.nn.functional.dropout)(X), "randomness error mode"
    ),
    "randperm": random(lambda: vmap(lambda x: x[torch.randperm(3)])(X), "error mode"),
    "same with a batched parameter": random(
        lambda: vmap(torch.bernoulli, randomness="same")(X / 10),
        "does not currently support same randomness",
    ),
    **{
        f"same {name}": random(
            lambda draw=draw: vmap(draw, randomness="same")(X / 10),
            r"same randomness.*Fix: pass randomness='different' \(a draw for each",
        )
        for name, draw in {
            "normal": lambda x: torch.normal(x, 1.0),
            "normal of a batched std": lambda x: torch.normal(0.0, x),
            "poisson": torch.poisson,
            "multinomial": lambda x: torch.multinomial(x + 1, 1),
        }.items()
    },
    "different into a captured tensor": random(
        lambda: vmap(lambda x: CAPTURED.normal_() + x, randomness="different")(X),
        "on a tensor that is not batched",
    ),
    "error into a captured tensor": random(
        lambda: vmap(lambda x: CAPTURED.normal_() + x)(X), "called random operation"
    ),
    "item": data(lambda: vmap(lambda x: x.sum().item(), out_dims=None)(X), "item"),
    "float()": data(lambda: vmap(lambda x: float(x[0]))(X), "item"),
    "int()": data(lambda: vmap(lambda x: int(x[0]))(X), "item"),
    "tolist": data(lambda: vmap(lambda x: x.tolist(), out_dims=None)(X), "tolist"),
    "if": data(lambda: vmap(branch)(X), "data-dependent|item|control flow"),
    "while": data(lambda: vmap(lambda x: 1 / 0 if x[0] else x)(X), ""),
    "nonzero": data(lambda: vmap(torch.nonzero)(X), "data-dependent shape"),
    "mask": data(lambda: vmap(lambda x: x[x > 1])(X), "data-dependent shape"),
    "unique": data(lambda: vmap(torch.unique)(X), ""),
    "range of a batched number": data(
        lambda: vmap(lambda x: torch.arange(x))(torch.tensor([1, 2])), ""
    ),
    "out=": usage(lambda: vmap(lambda x: torch.sin(x, out=x))(X.clone()), "out= form"),
    "write into captured": Refusal(
        lambda: vmap(lambda x: CAPTURED.add_(x))(X),
        errors.MutationError,
        RuntimeError,
        "captured from outside",
    ),
    "running statistics": Refusal(
        lambda: vmap(torch.nn.BatchNorm1d(3))(X.expand(2, 2, 3)),
        errors.MutationError,
        RuntimeError,
        "captured from outside.*Fix:.*statistics",
    ),
    "write into shared input": Refusal(
        lambda: vmap(lambda x, y: y.add_(x), (0, None))(X, torch.zeros(3)),
        errors.MutationError,
        RuntimeError,
        "captured from outside",
    ),
}
CAPTURED = torch.zeros(3)

DERIVATIVES = {
    "grad of a vector": usage(
        lambda: grad(torch.sin)(V), "Maybe you wanted to use the vjp or jacrev"
    ),
    "grad of shape one": usage(lambda: grad(torch.sin)(torch.ones(1)), "scalar tensor"),
    "grad of a number": usage(lambda: grad(lambda x: 3.0)(V), "return a tensor"),
    "grad of a pair": usage(lambda: grad(pair)(V), "return a tensor"),
    "grad of none": usage(lambda: grad(lambda x: None)(V), "return a tensor"),
    "grad of complex": usage(
        lambda: grad(torch.sum)(torch.ones(2, dtype=torch.complex64)), "real scalar"
    ),
    "grad of integers": usage(lambda: grad(torch.sum)(I), "floating point and complex"),
    "grad of a bool": usage(lambda: grad(torch.sum)(I > 0), "floating point"),
    "grad of no tensor": usage(lambda: grad(lambda x: V.sum())(3.0), "to be a tensor"),
    "grad of a module": usage(
        lambda: grad(lambda m: m(V).sum())(torch.nn.Identity()), "functional_call"
    ),
    "grad of a none leaf": usage(
        lambda: grad(lambda t: t[0].sum())((V, None)), "to be a tensor"
    ),
    "argnums list": usage(lambda: grad(torch.dot, [0, 1])(V, V), "int or Tuple"),
    "argnums float": usage(lambda: grad(torch.dot, 0.0)(V, V), "must be int"),
    "argnums text": usage(lambda: grad(torch.dot, "x")(V, V), "int or Tuple"),
    "argnums entry float": usage(lambda: grad(torch.dot, (0.0,))(V, V), "must be int"),
    "argnums entry bool": usage(lambda: grad(torch.dot, (True,))(V, V), "must be int"),
    "argnums empty": usage(lambda: grad(torch.dot, ())(V, V), "non-empty"),
    "argnums twice": usage(lambda: grad(torch.dot, (0, 0))(V, V), "unique"),
    "argnums twice by sign": usage(lambda: grad(torch.dot, (0, -2))(V, V), "unique"),
    "argnums high": usage(
        lambda: grad(torch.dot, 2)(V, V), "but only 2 positional inputs"
    ),
    "argnums low": usage(
        lambda: grad(torch.dot, -3)(V, V), "but only 2 positional inputs"
    ),
    "argnums of jacrev": usage(lambda: jacrev(torch.dot, 5)(V, V), "but only 2"),
    "argnums of jacfwd": usage(lambda: jacfwd(torch.dot, (0, 0))(V, V), "unique"),
    "argnums of hessian": usage(lambda: hessian(torch.dot, [0])(V, V), "int or Tuple"),
    "aux of one": usage(lambda: grad(torch.sum, has_aux=True)(V), r"\(output, aux\)"),
    "aux list": usage(
        lambda: grad(lambda x: [x.sum(), x], has_aux=True)(V), r"\(output, aux\)"
    ),
    "aux of three": usage(
        lambda: grad(lambda x: (x.sum(), x, x), has_aux=True)(V), r"\(output, aux\)"
    ),
    "aux of value": usage(
        lambda: grad_and_value(torch.sum, has_aux=True)(V), r"\(output, aux\)"
    ),
    "aux of vjp": usage(lambda: vjp(torch.sin, V, has_aux=True), r"\(output, aux\)"),
    "aux of jvp": usage(
        lambda: jvp(torch.sin, (V,), (V,), has_aux=True), r"\(output, aux\)"
    ),
    "aux of jacrev": usage(
        lambda: jacrev(torch.sin, has_aux=True)(V), r"\(output, aux\)"
    ),
    "aux of jacfwd": usage(
        lambda: jacfwd(torch.sin, has_aux=True)(V), r"\(output, aux\)"
    ),
    "vjp of no tensor output": usage(lambda: vjp(lambda x: 3, V), "to be tensors"),
    "vjp of none": usage(lambda: vjp(lambda x: None, V), "tensors"),
    "vjp of nothing": usage(lambda: vjp(lambda x: (), V), "non-empty"),
    "vjp of integer output": usage(
        lambda: vjp(lambda x: x.argmax(), V), "floating point and complex"
    ),
    "vjp of integer input": usage(lambda: vjp(torch.neg, I), "floating point"),
    "vjp of no tensor input": usage(lambda: vjp(torch.neg, 3.0), "to be a tensor"),
    "cotangents tree": usage(
        lambda: PULL_TREE(V), "Expected pytree structure of cotangents"
    ),
    "cotangents keys": usage(
        lambda: PULL_TREE({"a": V}), "Expected pytree structure of cotangents"
    ),
    "cotangents tuple": usage(lambda: PULL((V,)), "Expected pytree structure"),
    "cotangent none": usage(lambda: PULL_TREE({"a": V, "b": None}), "to be tensors"),
    "cotangent number": usage(lambda: PULL(1.0), "to be tensors"),
    "cotangent shape": usage(lambda: PULL(torch.ones(2)), r"shape \[2\]"),
    "primals list": usage(lambda: jvp(torch.sin, [V], [V]), "primals to be a tuple"),
    "primals tensor": usage(lambda: jvp(torch.sin, V, V), "primals to be a tuple"),
    "tangents tree": usage(lambda: jvp(torch.sin, (V,), V), "same python structure"),
    "tangents missing": usage(
        lambda: jvp(torch.mul, (V, V), (V,)), "same python structure"
    ),
    "tangents list": usage(lambda: jvp(torch.sin, (V,), [V]), "same python structure"),
    "primal number": usage(
        lambda: jvp(torch.sin, (1.0,), (V,)), "only contain Tensors"
    ),
    "tangent number": usage(
        lambda: jvp(torch.sin, (V,), (1.0,)), "only contain Tensors"
    ),
    "primals empty": usage(lambda: jvp(lambda: V, (), ()), "at least one Tensor"),
    "tangent shape": usage(
        lambda: jvp(torch.sin, (V,), (torch.ones(2),)), r"shape \[2\]"
    ),
    "jvp of integers": usage(lambda: jvp(torch.neg, (I,), (I,)), "floating point"),
    "jvp of no tensor output": usage(
        lambda: jvp(lambda x: 3, (V,), (V,)), "to be tensors"
    ),
    "jvp of nothing": usage(lambda: jvp(lambda x: (), (V,), (V,)), "non-empty"),
    "strict": usage(
        lambda: jvp(lambda x: TAN, (V,), (V,), strict=True), "does not depend"
    ),
    "linearize of integers": usage(lambda: linearize(torch.neg, I), "floating point"),
    "linearize of no tensor": usage(lambda: linearize(lambda x: 3, V), "to be tensors"),
    "push tree": usage(lambda: PUSH(V, V), "same python structure"),
    "push shape": usage(lambda: PUSH(torch.ones(2)), r"shape \[2\]"),
    "hvp of a vector": usage(lambda: hvp(torch.sin, (V,), (V,)), "scalar tensor"),
    "hvp of primals": usage(lambda: hvp(torch.sum, [V], [V]), "primals to be a tuple"),
    "jacrev complex input": usage(
        lambda: jacrev(torch.abs)(torch.ones(2, dtype=torch.complex64)), "is complex"
    ),
    "jacfwd complex input": usage(
        lambda: jacfwd(torch.abs)(torch.ones(2, dtype=torch.complex64)), "is complex"
    ),
    "jacrev complex output": usage(
        lambda: jacrev(lambda x: torch.complex(x, x))(V), "is complex"
    ),
    "jacfwd complex output": usage(
        lambda: jacfwd(lambda x: torch.complex(x, x))(V), "is complex"
    ),
    "jacrev of a number": usage(lambda: jacrev(lambda x: 3)(V), "to be tensors"),
    "jacfwd of a number": usage(lambda: jacfwd(lambda x: 3)(V), "to be tensors"),
    "jacrev of integers": usage(lambda: jacrev(torch.neg)(I), "floating point"),
    "jacfwd of integers": usage(lambda: jacfwd(torch.neg)(I), "floating point"),
    "jacrev chunk": argument(lambda: jacrev(torch.sin, chunk_size=0), "chunk_size"),
    "jacfwd chunk": argument(lambda: jacfwd(torch.sin, chunk_size=-2), "chunk_size"),
    "to_sparse under vmap": usage(
        lambda: vmap(lambda x: x.to_sparse(layout=torch.sparse_csr))(X[None]),
        "can't have the layout torch.sparse_csr",
    ),
    "to_sparse under grad": usage(
        lambda: grad(lambda x: x.to_sparse(layout=torch.sparse_csc).sum())(X),
        "can't have the layout torch.sparse_csc",
    ),
    "grad writes captured": Refusal(
        lambda: grad(lambda x: CAPTURED.mul_(x).sum())(V),
        errors.MutationError,
        RuntimeError,
        "captured from outside",
    ),
    "jvp writes captured": Refusal(
        lambda: jvp(lambda x: CAPTURED.mul_(x), (V,), (V,)),
        errors.MutationError,
        RuntimeError,
        "captured from outside",
    ),
    **{
        f"{name} within": usage(lambda func=func: grad(func)(V), name)
        for name, func in {
            "backward": lambda x: x.sum().backward(),
            "retain_grad": lambda x: x.retain_grad(),
            "register_hook": lambda x: x.register_hook(torch.neg),
        }.items()
    },
    "grad out=": usage(
        lambda: grad(lambda x: torch.sin(x, out=CAPTURED).sum())(V), "out= form"
    ),
}
ALL = {**VMAP, **DERIVATIVES}


@pytest.mark.parametrize("name", ALL)
def test_refusal(name: str) -> None:
    refusal = ALL[name]
    with pytest.raises(refusal.ours) as caught:
        refusal.call()
    text = str(caught.value)
    assert isinstance(caught.value, refusal.builtin)
    assert isinstance(caught.value, errors.JaxtorchError)
    assert re.search(refusal.words, text, re.DOTALL), text
    assert re.search(r"\n  Fix: \S+", text), text
    assert STATE.levels == []


@pytest.mark.parametrize(
    "name", [n for n in ALL if ALL[n].ours is not errors.RandomnessError]
)
def test_refusal_inside_another_transform(name: str) -> None:
    refusal = ALL[name]
    for around in (vmap(lambda x: refusal.call()), grad(lambda x: refusal.call())):
        with pytest.raises(refusal.ours):
            around(torch.ones(3))
        assert STATE.levels == []
        assert_close(vmap(torch.sin)(X), X.sin())


def test_refused_arguments_open_no_level_and_do_not_call() -> None:
    calls = []

    def func(*args: Any) -> Tensor:
        calls.append(args)
        return torch.zeros(())

    for call in (
        lambda: vmap(func, 7)(X),
        lambda: grad(func, 3)(X),
        lambda: jvp(func, (V,), (X,)),
        lambda: vjp(func, 3),
        lambda: jacfwd(func, "a")(X),
    ):
        with pytest.raises(errors.JaxtorchError):
            call()
    assert calls == []


class OwnError(Exception):
    """An error of the user's function."""


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: vmap(f)(X),
        lambda f: grad(f)(V),
        lambda f: vjp(f, V),
        lambda f: jvp(f, (V,), (V,)),
        lambda f: jacrev(f)(V),
        lambda f: jacfwd(f)(V),
        lambda f: hessian(f)(V),
        lambda f: linearize(f, V),
        lambda f: hvp(f, (V,), (V,)),
        lambda f: vmap(jacrev(vmap(f)))(torch.ones(2, 3, 1)),
        lambda f: vmap(f, chunk_size=1)(X),
    ],
)
def test_error_of_the_function_passes_and_levels_are_closed(transform: Any) -> None:
    def func(x: Tensor) -> Tensor:
        x = x * 2
        raise OwnError

    with pytest.raises(OwnError):
        transform(func)
    assert STATE.levels == []
    assert type(torch.ones(2) + 1) is Tensor
    assert torch.is_grad_enabled()


def test_error_that_the_function_catches() -> None:
    def func(x: Tensor) -> Tensor:
        try:
            grad(torch.sin)(x)
        except RuntimeError:
            return x.cos().sum()
        return x.sum()

    assert_close(grad(func)(V), -V.sin())


def test_names_in_errors() -> None:
    def my_loss(x: Tensor) -> Tensor:
        return x

    with pytest.raises(RuntimeError, match=r"grad\(my_loss\)"):
        grad(my_loss)(V)
    with pytest.raises(ValueError, match=r"vmap\(my_loss, in_dims=4\)"):
        vmap(my_loss, 4)(V)
    with pytest.raises(ValueError, match=r"vmap\(Linear\("):
        vmap(torch.nn.Linear(3, 3), 4)(V)


def test_missing_derivative_names_the_operator_and_the_folder() -> None:
    library = torch.library.Library("jaxtorch_test_missing", "DEF")
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", lambda x: x.clone(), "CPU")
    opaque = torch.ops.jaxtorch_test_missing.opaque
    for where, call in (
        ("grad, level 1:", lambda: grad(lambda x: opaque(x).sum())(V)),
        ("jvp, level 1:", lambda: jvp(opaque, (V,), (V,))),
        ("grad, level 2:", lambda: vmap(grad(lambda x: opaque(x).sum()))(X)),
    ):
        with (
            warnings.catch_warnings(),
            pytest.raises(errors.MissingRuleError) as caught,
        ):
            warnings.simplefilter("ignore")
            call()
        assert isinstance(caught.value, NotImplementedError)
        assert str(caught.value).startswith(where)
        assert "opaque" in str(caught.value)
        assert "jaxtorch/rules/" in str(caught.value)
    assert STATE.levels == []


@pytest.mark.parametrize("transform", [vmap, grad, lambda f: vmap(grad(f))])
def test_an_operator_that_reads_a_storage_in_cpp(transform: Any) -> None:
    def func(x: Tensor) -> Tensor:
        return torch.tensor_split(x, torch.tensor([1]), -1)[1].sum()

    x = X if transform is vmap else torch.stack([X, X])
    with torch.no_grad():
        with pytest.raises(errors.UsageError, match="list of ints"):
            transform(func)(x)
        assert not torch.is_grad_enabled()
    assert STATE.levels == []


def test_operator_that_depends_on_nothing_differentiated_may_be_opaque() -> None:
    library = torch.library.Library("jaxtorch_test_constant", "DEF")
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", lambda x: x.clone(), "CPU")
    opaque = torch.ops.jaxtorch_test_constant.opaque
    assert_close(grad(lambda x: (opaque(V) * x).sum())(V), V)


def test_every_error_class_has_a_builtin_parent() -> None:
    for name in dir(errors):
        each = getattr(errors, name)
        if isinstance(each, type) and issubclass(each, errors.JaxtorchError):
            builtin = [c for c in each.__mro__ if c.__module__ == "builtins"]
            assert each is errors.JaxtorchError or builtin[0] is not Exception


def test_backward_inside() -> None:
    for transform in (grad, jacrev, lambda f: lambda x: vmap(f)(x.expand(2, 3))):
        with pytest.raises(RuntimeError, match=r"backward|does not require grad"):
            transform(lambda x: x.sum().backward())(torch.ones(3))
        assert STATE.levels == []


def test_jaxtorch_errors_are_public() -> None:
    assert jaxtorch.errors is errors
