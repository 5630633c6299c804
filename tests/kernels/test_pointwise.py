"""Generated kernels of elementwise programs and sums along rows."""

import itertools

import pytest
import torch

import jaxtorch
from jaxtorch.kernels import pointwise
from jaxtorch.kernels.program import STEPS, parse
from tests.kernels.harness import DEVICE, DTYPES, check, layouts, random

POSITIVE = ("log", "log1p", "sqrt", "rsqrt")
ONE = [n for n, m in STEPS.items() if "{1}" not in m.triton]
TWO = [n for n, m in STEPS.items() if "{1}" in m.triton and "{2}" not in m.triton]
SOFTMAX = (
    "v1 = max(v0); v2 = sub(v0, v1); v3 = exp(v2); v4 = sum(v3); v5 = div(v3, v4); "
    "v6 = log(v4); return v5 like v0, v6 like v0"
)
SQUARES = "v1 = mul(v0, v0); v2 = sum(v1); return v2 like v0, v1 like v0"
AFFINE = "v3 = mul(v0, v1); v4 = add(v3, v2); return v4 like v0"


def run(program, *operands, dims=(), **options):
    """Check a program."""
    return check("pointwise", list(operands), program, dims, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ONE)
def test_step_of_one(name, dtype):
    x = random(5, 7, dtype=dtype)
    x = x.abs() + 0.1 if name in POSITIVE else x * 3
    run(f"v1 = {name}(v0); return v1 like v0", x)


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("pair", ["v0, v1", "v0, 0.5"])
def test_step_of_two(name, pair):
    x, y = random(5, 7), random(7)
    x[0] = y
    if name in ("both", "either"):
        x, y, pair = x > 0, y > 0, "v0, v1"
    step = f"v3 = {name}({pair}); v4 = where(v3, 1.0, v2); return v4 like v2"
    if name in ("add", "sub", "mul", "div"):
        step = f"v3 = {name}({pair}); return v3 like v2"
    run(step, x, y, random(5, 1))


@pytest.mark.parametrize("name", ["sub", "div"])
def test_step_of_a_number_and_a_value(name):
    run(f"v1 = {name}(2.0, v0); return v1 like v0", random(5, 7))


@pytest.mark.parametrize("name", ["tanh", "expm1", "log1p", "sigmoid", "exp", "erf"])
def test_small_and_extreme_values(name):
    """Relative to each value, where its neighbors can't hide an error."""
    x = [0.0, -0.0, 1e-30, 1e-8, -1e-5, 1e-4, 0.1, -0.5, 20.0, 100.0, -100.0, -1.0]
    x = torch.tensor([*x, torch.inf, -torch.inf, torch.nan], device=DEVICE)
    (out,) = pointwise.pointwise([x], f"v1 = {name}(v0); return v1 like v0", ())
    wanted = getattr(torch, name)(x.double()).float()
    torch.testing.assert_close(out, wanted, rtol=2e-6, atol=1e-38, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_results(dtype):
    program = "v2 = mul(v0, v1); v3 = add(v2, v1); return v3 like v0, v2 like v1"
    run(program, random(3, 5, dtype=dtype), random(5))


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 5, 7), (7,), (5, 1)],
        [(3, 5, 7), (3, 1, 1), (1,)],
        [(5, 1), (1, 7), ()],
        [(2, 3, 2, 3, 2, 3), (3, 1, 3, 1, 3), (2, 1, 2, 1, 2, 1)],
    ],
)
def test_broadcasting(shapes):
    run(AFFINE, *[random(*shape) for shape in shapes])


@pytest.mark.parametrize(
    "dims", [c for n in (1, 2, 3) for c in itertools.combinations(range(3), n)]
)
def test_rows_along_any_dims(dims):
    for shape in ((3, 5, 7), (1, 2, 3), (4, 1, 9)):
        run(SOFTMAX, random(*shape), dims=dims)


def test_rows_of_dims_that_do_not_merge():
    """As in group norm, whose weight belongs to one of the dims of a row."""
    program = (
        "v3 = count(); v4 = sum(v0); v5 = div(v4, v3); v6 = sub(v0, v5); "
        "v7 = mul(v6, v1); v8 = add(v7, v2); return v8 like v0, v5 like v0"
    )
    run(program, random(2, 3, 4, 5), random(3, 4, 1), random(3, 4, 1), dims=(2, 3))
    shapes = (2, 3, 4, 5, 2, 3, 2), (3, 4, 1, 2, 1, 2), (1, 5, 1, 3, 1)
    run(program, *[random(*shape) for shape in shapes], dims=(2, 3, 4, 5, 6))


@pytest.mark.parametrize("cols", [1, 33, 2048, 2049, 8192, 8193])
def test_lengths_of_rows(cols):
    run(SOFTMAX, random(3, cols), dims=(1,))


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_long_rows_of_sums_are_split(rows):
    run(SQUARES, random(rows, 9001), dims=(1,))


def test_configs():
    for name in ("short rows", "wide rows", "long rows"):
        config = pointwise.POINTWISE_CONFIGS[name]
        for program in (SOFTMAX, SQUARES):
            run(program, random(5, 1027), dims=(1,), config=config)
    run(AFFINE, random(5, 1027), random(5, 1), random(1027))


def test_a_value_for_each_row_stays_one():
    """Also where it comes from operands, and where it is summed once more."""
    program = (
        "v2 = mul(v1, 2.0); v3 = sum(v2); v4 = mul(v0, v3); v5 = sum(v4); "
        "return v3 like v0, v5 like v0"
    )
    run(program, random(5, 7), random(5, 1), dims=(1,))


def test_classes_are_found_by_place():
    program = (
        "v2 = index(); v3 = eq(v2, v1); v4 = where(v3, v0, 0.0); v5 = sum(v4); "
        "return v5 like v0"
    )
    classes = torch.tensor([[0], [10], [3], [-100]], device=DEVICE)
    run(program, random(4, 11), classes, dims=(1,))
    run(program, random(4, 9001), classes, dims=(1,))


def test_strides():
    for _, x in layouts(random(3, 4, 5)):
        for _, y in layouts(random(4, 5)):
            run(AFFINE, x, y, y)
            run(SOFTMAX, x, dims=(2,))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), ()])
def test_no_size(shape):
    run(SQUARES, random(*shape), dims=tuple(range(len(shape)))[-1:])
    run(SQUARES.replace("sum(v1)", "neg(v1)"), random(*shape))


def test_infinities():
    x = random(6, 9)
    x[0], x[1, 1], x[2, 2], x[3, 3] = -torch.inf, -torch.inf, torch.inf, torch.nan
    x[4], x[5] = 1e18, -1e18
    run(SOFTMAX, x, dims=(1,))
    run(SQUARES, x, dims=(1,))


def test_what_is_not_supported():
    supports = pointwise.pointwise_supports
    program = "v1 = neg(v0); return v1 like v0"
    assert not supports([random(3).double()], program, ())
    assert not supports([random(3).to(torch.int32)], program, ())
    assert not supports([random(3) > 0], program, ())
    many = "v17 = add(v0, v16); return v17 like v0"
    assert not supports([random(3)] * 17, many, ())


def test_a_program_is_read_as_it_was_written():
    program = parse("v2 = where(v0, -1e-05, v1); v3 = index(); return v2 like v1")
    assert program.operands == 2
    assert program.steps == (("where", ("v0", -1e-05, "v1")), ("index", ()))
    assert program.results == (("v2", 1),)


def test_mapping_a_program():
    x, y = random(4, 5, 3), random(5)
    call = torch.ops.jaxtorch.pointwise
    program = "v2 = mul(v0, v1); v3 = sum(v2); return v3 like v0, v2 like v0"

    def func(x, y):
        return call([x, y], program, [0])

    with jaxtorch.kernels_mode("force"):
        outs = jaxtorch.vmap(func, (2, None))(x, y)
        for i in range(3):
            for own, wanted in zip(outs, func(x[:, :, i], y), strict=True):
                torch.testing.assert_close(own[i], wanted)
