"""holomorphic=True: complex derivatives of complex functions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import (
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jit,
    value_and_grad,
    vmap,
)
from jaxtorch.errors import UsageError

Function = Callable[..., Any]


def points(*shape: int) -> Tensor:
    """Return random complex numbers."""
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.complex128)


SCALARS: dict[str, tuple[Function, Function, Function]] = {
    "square": (torch.square, lambda z: 2 * z, lambda z: 2 + 0 * z),
    "sin": (torch.sin, torch.cos, lambda z: -torch.sin(z)),
    "exp(iz)": (
        lambda z: torch.exp(1j * z),
        lambda z: 1j * torch.exp(1j * z),
        lambda z: -torch.exp(1j * z),
    ),
    "1/z": (lambda z: 1 / z, lambda z: -(z**-2), lambda z: 2 * z**-3),
}


@pytest.mark.parametrize("name", SCALARS)
def test_closed_forms(name: str) -> None:
    func, first, second = SCALARS[name]
    z = points(5)
    d = lambda f: grad(f, holomorphic=True)  # noqa: E731
    assert_close(vmap(d(func))(z), first(z))
    assert_close(vmap(d(d(func)))(z), second(z))
    assert_close(d(func)(z[0]), first(z[0]))
    assert_close(jit(d(func))(z[0]), first(z[0]))
    assert_close(vmap(hessian(func, holomorphic=True))(z), second(z))


@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobian_by_differences(transform: Function) -> None:
    weight = points(3, 4)
    func = lambda z: torch.sin(weight @ z) * z[0]  # noqa: E731
    z = points(4)
    got = transform(func, holomorphic=True)(z)
    step = 1e-6
    columns = [
        (func(z + step * e) - func(z - step * e)) / (2 * step)
        for e in torch.eye(4, dtype=z.dtype)
    ]
    assert_close(got, torch.stack(columns, -1), atol=1e-8, rtol=1e-6)
    imaginary = [
        (func(z + 1j * step * e) - func(z - 1j * step * e)) / (2j * step)
        for e in torch.eye(4, dtype=z.dtype)
    ]
    assert_close(got, torch.stack(imaginary, -1), atol=1e-8, rtol=1e-6)
    chunks = transform(func, holomorphic=True, chunk_size=2)(z)
    assert_close(chunks, got)
    many = points(2, 4)
    rows = vmap(transform(func, holomorphic=True))(many)
    assert_close(
        rows, torch.stack([transform(func, holomorphic=True)(m) for m in many])
    )


def test_hessian_is_symmetric_and_agrees_in_all_modes() -> None:
    func = lambda z: (torch.exp(z) * z.roll(1)).sum() ** 2  # noqa: E731
    z = points(3)
    got = hessian(func, holomorphic=True)(z)
    assert_close(got, got.T)
    for outer in (jacrev, jacfwd):
        for inner in (jacrev, jacfwd):
            twice = outer(inner(func, holomorphic=True), holomorphic=True)
            assert_close(twice(z), got)


def test_values_and_aux() -> None:
    func = lambda z: z**3  # noqa: E731
    z = points(1)[0]
    assert_close(grad_and_value(func, holomorphic=True)(z), (3 * z**2, z**3))
    assert_close(value_and_grad(func, holomorphic=True)(z), (z**3, 3 * z**2))
    with_aux = grad(lambda z: (z**3, z), has_aux=True, holomorphic=True)
    assert_close(with_aux(z), (3 * z**2, z))


def test_a_real_function_keeps_torchs_convention() -> None:
    z = points(3)
    assert_close(grad(lambda z: z.abs().square().sum())(z), 2 * z)


@pytest.mark.parametrize("transform", [grad, jacrev, jacfwd, hessian])
def test_real_inputs_and_outputs_are_refused(transform: Function) -> None:
    with pytest.raises(UsageError, match="all inputs to be complex"):
        transform(torch.sum, holomorphic=True)(torch.ones(3))
    with pytest.raises(UsageError, match="all outputs to be complex"):
        transform(lambda z: z.abs().sum(), holomorphic=True)(points(3))


@pytest.mark.parametrize("transform", [grad, jacrev, jacfwd])
def test_complex_without_holomorphic_is_refused(transform: Function) -> None:
    with pytest.raises(UsageError, match="holomorphic=True"):
        transform(torch.sum)(points(3))
