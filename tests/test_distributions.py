"""torch.distributions inside the transforms; it checks its arguments as a whole."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch import distributions as dist
from torch.testing import assert_close

from jaxtorch import grad, hessian, vmap

X = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(2, 3)


def mixture(x: Tensor) -> dist.Distribution:
    """Three normal distributions, weighted."""
    parts = dist.Normal(x, x.exp())
    return dist.MixtureSameFamily(dist.Categorical(logits=x), parts)


FAMILIES: dict[str, tuple[Callable[[Tensor], dist.Distribution], Tensor]] = {
    "normal": (lambda x: dist.Normal(x, x.exp()), torch.tensor(0.3)),
    "beta": (lambda x: dist.Beta(x.exp(), x.exp() + 1), torch.tensor(0.3)),
    "gamma": (lambda x: dist.Gamma(x.exp(), x.exp()), torch.tensor(0.3)),
    "student": (lambda x: dist.StudentT(x.exp(), x), torch.tensor(0.3)),
    "dirichlet": (lambda x: dist.Dirichlet(x.exp()), torch.tensor([0.2, 0.3, 0.5])),
    "categorical": (lambda x: dist.Categorical(logits=x), torch.tensor(2)),
    "poisson": (lambda x: dist.Poisson(x.exp()), torch.tensor(2.0)),
    "mixture": (mixture, torch.tensor(0.3)),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.eager(reason="validation is a Python branch on values")
def test_log_prob(name: str) -> None:
    family, value = FAMILIES[name]
    value = value if name == "categorical" else value.double()

    def log_prob(x: Tensor) -> Tensor:
        return family(x).log_prob(value).sum()

    assert_close(vmap(log_prob)(X), torch.stack([log_prob(x) for x in X]))
    rows = X.clone().requires_grad_()
    total = sum(log_prob(x) for x in rows)
    (expected,) = torch.autograd.grad(total, rows)
    assert_close(vmap(grad(log_prob))(X), expected)
    curvatures = [torch.autograd.functional.hessian(log_prob, x) for x in X]
    assert_close(vmap(hessian(log_prob))(X), torch.stack(curvatures))


@pytest.mark.eager(reason="validation is a Python branch on values")
def test_divergence_from_a_standard_normal() -> None:
    def divergence(x: Tensor) -> Tensor:
        return dist.kl_divergence(dist.Normal(x, x.exp()), dist.Normal(0.0, 1.0)).sum()

    assert_close(vmap(grad(divergence))(X), (2 * X).exp() - 1 + X)


@pytest.mark.eager(reason="validation is a Python branch on values")
def test_one_example_that_is_not_valid_is_refused() -> None:
    scales = torch.tensor([1.0, -1.0])
    with pytest.raises(ValueError, match="GreaterThan"):
        vmap(lambda s: dist.Normal(0.0, s, validate_args=True).mean)(scales)


@pytest.mark.parametrize("check", [torch._is_all_true, torch._is_any_true])
def test_checks_have_one_answer_for_all_examples(
    check: Callable[[Tensor], Tensor],
) -> None:
    flags = torch.tensor([[True, False], [False, False]])
    for rows in (flags, flags[1:], ~flags[1:]):
        asked = vmap(lambda row: check(row), out_dims=None)(rows)
        assert asked.item() is check(rows).item()
