"""Random operations under vmap and the derivatives, beside torch.func and the seeds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn
from torch.nn import functional as F

import jaxtorch
from jaxtorch.errors import RandomnessError

pytestmark = pytest.mark.bits
B = 4
Function = Callable[..., Any]


def positive(*shape: int) -> Tensor:
    """Return numbers between a tenth and nine tenths."""
    return torch.linspace(0.1, 0.9, torch.Size(shape).numel()).reshape(shape)


def in_place(name: str, *args: Any) -> Function:
    """Return a function that fills a copy of its argument in place."""
    return lambda x: getattr(x * 1, f"{name}_")(*args)


FACTORIES: dict[str, Function] = {
    "rand": lambda x: torch.rand(3) + x.sum(),
    "randn": lambda x: torch.randn(2, 3) + x.sum(),
    "randn scalar": lambda x: torch.randn(()) + x.sum(),
    "randint": lambda x: torch.randint(9, (5,)) + x.sum(),
    "randint low": lambda x: torch.randint(3, 9, (5,)) + x.sum(),
    "randperm": lambda x: torch.randperm(6) + x.sum(),
    "normal": lambda x: torch.normal(1.0, 2.0, (3,)) + x.sum(),
    "generator": lambda x: torch.rand(3, generator=seeded()) + x.sum(),
    "randperm generator": lambda x: torch.randperm(5, generator=seeded()) + x.sum(),
    "constant only": lambda x: torch.rand(3),
    "unbatched dropout": lambda x: F.dropout(torch.ones(9)) + x.sum(),
    "zeros filled": lambda x: torch.zeros(3).normal_() + x.sum(),
}
LIKES: dict[str, Function] = {
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "randint_like": lambda x: torch.randint_like(x, 9),
    "randint_like low": lambda x: torch.randint_like(x, 2, 9),
    "dropout": lambda x: F.dropout(x, 0.4),
    "dropout in place": lambda x: F.dropout(x * 1, 0.4, inplace=True),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.4, training=True),
    "feature_dropout": lambda x: F.dropout1d(x, 0.4),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.4, True),
    "bernoulli p": lambda x: torch.bernoulli(x, 0.5),
    "normal_": in_place("normal", 1.0, 2.0),
    "uniform_": in_place("uniform", 2.0, 3.0),
    "bernoulli_": in_place("bernoulli", 0.5),
    "bernoulli_ of unbatched": lambda x: (x * 1).bernoulli_(torch.full((3, 5), 0.5)),
    "exponential_": in_place("exponential", 2.0),
    "cauchy_": in_place("cauchy"),
    "log_normal_": in_place("log_normal"),
    "geometric_": in_place("geometric", 0.3),
    "random_": in_place("random"),
    "random_ to": in_place("random", 7),
    "random_ from": in_place("random", 3, 7),
    "rrelu": lambda x: F.rrelu(x - 0.5, training=True),
}
DRAWS: dict[str, Function] = {
    "bernoulli": torch.bernoulli,
    "bernoulli_ of probabilities": lambda x: torch.zeros(3, 5).bernoulli_(x),
    "poisson": lambda x: torch.poisson(x * 9),
    "multinomial": lambda x: torch.multinomial(x, 3),
    "multinomial replaced": lambda x: torch.multinomial(x, 7, replacement=True),
    "multinomial vector": lambda x: torch.multinomial(x[0], 3),
    "normal of mean": lambda x: torch.normal(x, 2.0),
    "normal of std": lambda x: torch.normal(1.0, x),
    "normal of both": lambda x: torch.normal(x, x[0]),
    "binomial": lambda x: torch.binomial(torch.full((3, 5), 9.0), x),
    "gamma": torch._standard_gamma,
    "dirichlet": torch._sample_dirichlet,
}
NORMAL = LIKES["normal_"]
ALL = FACTORIES | LIKES | DRAWS

# What torch.func refuses although it is well defined.
REFUSED_BY_TORCH_FUNC = {
    ("different", "zeros filled"),
    ("different", "rrelu"),
    ("different", "bernoulli_ of probabilities"),
    ("different", "binomial"),
    ("same", "bernoulli p"),
    ("same", "rrelu"),
}


def seeded() -> torch.Generator:
    """Return a generator in a fixed state."""
    return torch.Generator().manual_seed(7)


def run(vmap: Function, func: Function, x: Tensor, **options: Any) -> Tensor:
    """Call a vmapped function under a fixed seed."""
    torch.manual_seed(3)
    return vmap(func, **options)(x)


def equal(got: Tensor, expected: Tensor) -> None:
    """Check that two tensors are the same to the last bit."""
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("in_dim", [0, 2])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("randomness", ["different", "same"])
def test_equals_torch_func(name: str, randomness: str, in_dim: int) -> None:
    """The same seed gives the same numbers as torch.func, in either mode."""
    if (randomness, name) in REFUSED_BY_TORCH_FUNC:
        pytest.skip("torch.func refuses it; see the tests of single calls below")
    x = positive(B, 3, 5).movedim(0, in_dim)
    options = {"in_dims": in_dim, "randomness": randomness}
    if randomness == "same" and name in DRAWS:
        with pytest.raises(RandomnessError, match="same randomness with a batched"):
            run(jaxtorch.vmap, ALL[name], x, **options)
        return
    expected = run(torch.func.vmap, ALL[name], x, **options)
    equal(run(jaxtorch.vmap, ALL[name], x, **options), expected)


ONE_CALL: dict[str, Function] = {
    "zeros filled": lambda x: torch.zeros(B, 3).normal_() + x.sum((1, 2))[:, None],
    "rrelu": LIKES["rrelu"],
    "bernoulli_ of probabilities": torch.bernoulli,
    "binomial": lambda x: torch.binomial(torch.full(x.shape, 9.0), x),
    "rand": lambda x: torch.rand(B, 3) + x.sum((1, 2))[:, None],
    "normal of both": lambda x: torch.normal(x, x[:, :1]),
}


@pytest.mark.parametrize("name", ONE_CALL)
def test_different_is_one_call_on_the_batch(name: str) -> None:
    """``different`` draws for all examples in one call of shape ``[B, ...]``."""
    x = positive(B, 3, 5)
    got = run(jaxtorch.vmap, ALL[name], x, randomness="different")
    torch.manual_seed(3)
    equal(got, ONE_CALL[name](x))


@pytest.mark.parametrize("name", FACTORIES | LIKES)
def test_same_draws_once(name: str) -> None:
    """``same`` gives equal examples equal numbers, and draws as one call does."""
    if name == "rrelu":
        pytest.skip("a single call draws slopes only for what is negative")
    x = positive(3, 5)
    got = run(jaxtorch.vmap, ALL[name], x.expand(B, 3, 5), randomness="same")
    torch.manual_seed(3)
    equal(got, ALL[name](x).expand(got.shape))


@pytest.mark.parametrize("name", ALL)
def test_error_is_the_default(name: str) -> None:
    """Without ``randomness=`` every random operation is refused."""
    with pytest.raises(RuntimeError, match="randomness error mode"):
        jaxtorch.vmap(ALL[name])(positive(B, 3, 5))


@pytest.mark.parametrize("inner", ["different", "same"])
@pytest.mark.parametrize("outer", ["different", "same"])
@pytest.mark.parametrize(
    "func",
    [FACTORIES["randn"], torch.rand_like, NORMAL, LIKES["dropout"]],
    ids=["randn", "rand_like", "normal_", "dropout"],
)
def test_nested_levels_have_their_own_mode(
    func: Function, outer: str, inner: str
) -> None:
    """Each vmap draws as its own mode says."""
    if (outer, inner) == ("different", "same") and func is NORMAL:
        pytest.skip("torch.func refuses it")
    x = positive(3, B, 5)

    def nested(vmap: Function) -> Tensor:
        return run(vmap, vmap(func, randomness=inner), x, in_dims=1, randomness=outer)

    equal(nested(jaxtorch.vmap), nested(torch.func.vmap))


@pytest.mark.eager(reason="Python sets the generators back between the chunks")
def test_chunks_of_the_same_draw_are_alike() -> None:
    """With ``same`` every chunk starts from the same state."""
    x = torch.zeros(6, 2)
    got = run(jaxtorch.vmap, torch.rand_like, x, randomness="same", chunk_size=4)
    equal(got, got[:1].expand(6, 2))


@pytest.mark.parametrize("randomness", ["error", "different"])
def test_a_captured_tensor_is_not_filled(randomness: str) -> None:
    """Filling a tensor from outside can't give each example its own numbers."""
    captured = torch.zeros(3)
    with pytest.raises(RuntimeError):
        jaxtorch.vmap(lambda x: captured.normal_() + x, randomness=randomness)(
            torch.zeros(B, 3)
        )


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_fill_through_a_view(randomness: str) -> None:
    """A view that is filled writes its base."""

    def half(x: Tensor) -> Tensor:
        x = x * 1
        x[1:].normal_()
        return x

    got = run(jaxtorch.vmap, half, torch.zeros(B, 4), randomness=randomness)
    assert bool((got[:, 0] == 0).all())
    assert bool((got[:, 1:] != 0).all())
    assert bool((got[0] == got[1]).all()) is (randomness == "same")


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_fill_of_a_mapped_input(randomness: str) -> None:
    """The caller sees what was written into the input, as with torch.func."""
    filled = []
    for vmap in (jaxtorch.vmap, torch.func.vmap):
        x = torch.zeros(3, B)
        run(vmap, Tensor.normal_, x, in_dims=1, randomness=randomness)
        filled.append(x)
    equal(*filled)


def test_grad_of_dropout_is_its_mask() -> None:
    """The derivative keeps and scales what the call kept and scaled."""
    x = positive(50)
    torch.manual_seed(3)
    slope = jaxtorch.grad(lambda x: F.dropout(x, 0.25).sum())(x)
    torch.manual_seed(3)
    torch.testing.assert_close(slope, F.dropout(x, 0.25) / x)


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_per_sample_gradients_through_dropout(randomness: str) -> None:
    """vmap of grad draws the numbers that vmap of the function draws."""
    x = positive(B, 20)
    options = {"randomness": randomness}
    slopes = run(
        jaxtorch.vmap, jaxtorch.grad(lambda x: F.dropout(x).sum()), x, **options
    )
    out = run(jaxtorch.vmap, F.dropout, x, **options)
    torch.testing.assert_close(slopes, out / x)


def test_native_dropout() -> None:
    """The fused operator: both modes, its tangent and its second derivative."""

    def drop(x: Tensor) -> Tensor:
        return torch.native_dropout(x, 0.5, True)[0]

    x = positive(B, 20)
    for randomness in ("different", "same"):
        expected = run(torch.func.vmap, drop, x, randomness=randomness)
        equal(run(jaxtorch.vmap, drop, x, randomness=randomness), expected)
    out, tangent = jaxtorch.jvp(drop, (x,), (x,))
    torch.testing.assert_close(out, tangent)
    torch.manual_seed(3)
    gradient = jaxtorch.jacrev(lambda x: (drop(x) ** 2).sum())
    curvature = jaxtorch.jacfwd(gradient, randomness="same")(x[0])
    torch.manual_seed(3)
    torch.testing.assert_close(curvature.diagonal(), 2 * (drop(x[0]) / x[0]) ** 2)


@pytest.mark.parametrize("draw", [torch.poisson, torch.bernoulli, torch.rand_like])
def test_draws_are_constants(draw: Function) -> None:
    """A draw does not depend on its parameters differentiably."""
    x = positive(5)
    slope = jaxtorch.grad(lambda x: (draw(x) * x).sum())
    torch.manual_seed(3)
    got = slope(x)
    torch.manual_seed(3)
    torch.testing.assert_close(got, draw(x))
    equal(jaxtorch.jvp(draw, (x,), (x,))[1], torch.zeros(5))


@pytest.mark.parametrize("name", ["Gamma", "Normal", "Exponential", "Laplace"])
def test_reparametrized_distributions(name: str) -> None:
    """grad of a sample by the parameters is that of torch.autograd."""
    x = positive(5).double()

    def sample(x: Tensor) -> Tensor:
        parameters = (x,) if name == "Exponential" else (x, x)
        made = getattr(distributions, name)(*parameters, validate_args=False)
        return (made.rsample() * torch.arange(5)).sum()

    torch.manual_seed(3)
    got = jaxtorch.grad(sample)(x)
    leaf = x.clone().requires_grad_()
    torch.manual_seed(3)
    torch.testing.assert_close(got, torch.autograd.grad(sample(leaf), leaf)[0])


def test_gradient_of_a_dirichlet_draw() -> None:
    """The implicit derivative of the draw, on the simplex."""
    x = positive(3).double() * 4
    weights = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    torch.manual_seed(3)
    got = jaxtorch.grad(lambda x: (torch._sample_dirichlet(x) * weights).sum())(x)
    leaf = x.clone().requires_grad_()
    torch.manual_seed(3)
    draw = distributions.Dirichlet(leaf).rsample()
    torch.testing.assert_close(
        got, torch.autograd.grad((draw * weights).sum(), leaf)[0]
    )


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_dropout_modules_in_an_ensemble(randomness: str) -> None:
    """Dropout inside modules draws as torch.func has it."""
    net = nn.Sequential(nn.Dropout(), nn.AlphaDropout(), nn.FeatureAlphaDropout())
    x = positive(B, 3, 5)
    expected = run(torch.func.vmap, net, x, randomness=randomness)
    equal(run(jaxtorch.vmap, net, x, randomness=randomness), expected)
