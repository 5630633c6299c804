"""vmap: in_dims, out_dims, pytrees, nesting, chunks, empty batches, side effects."""

import collections
import functools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import jaxtorch
from jaxtorch import jacfwd, jacrev, vmap
from jaxtorch.errors import DataDependentError

Point = collections.namedtuple("Point", ["x", "y"])


@pytest.mark.parametrize("in_dim", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("out_dim", [0, 1, 2, -1, -2, -3])
def test_dims_in_and_out(in_dim: int, out_dim: int) -> None:
    x = torch.randn(2, 3, 4)
    out = vmap(torch.sin, in_dims=in_dim, out_dims=out_dim)(x)
    expected = torch.stack([e.sin() for e in x.unbind(in_dim)], out_dim)
    assert_close(out, expected)


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (-1, 1), (1, -1)])
def test_dims_for_each_argument(in_dims: tuple[int | None, int | None]) -> None:
    x, y = torch.randn(3, 3), torch.randn(3, 3)
    out = vmap(lambda a, b: a * b.sum(), in_dims=in_dims)(x, y)
    examples = [
        [
            x if d is None else x.select(d, i)
            for x, d in zip((x, y), in_dims, strict=True)
        ]
        for i in range(3)
    ]
    assert_close(out, torch.stack([a * b.sum() for a, b in examples]))


def test_in_dims_as_pytree() -> None:
    tree = {"a": torch.randn(2, 3), "b": (torch.randn(3, 2), torch.randn(3))}
    dims = {"a": 0, "b": (1, None)}
    out = vmap(lambda t: t["a"] + t["b"][0] * t["b"][1], in_dims=(dims,))(tree)
    assert_close(out, tree["a"] + tree["b"][0].T * tree["b"][1])


def test_in_dims_as_prefix_of_a_pytree() -> None:
    tree = {"a": torch.randn(3, 2), "b": torch.randn(4, 2)}
    out = vmap(lambda t, s: t["a"].sum() + t["b"].sum() * s, in_dims=(-1, None))(
        tree, 2.0
    )
    assert_close(out, tree["a"].sum(0) + tree["b"].sum(0) * 2)


def test_none_inside_a_pytree_is_shared() -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    out = vmap(lambda pair: pair[0] * pair[1], in_dims=((0, None),))((x, y))
    assert_close(out, x.unsqueeze(1) * y)


def test_python_numbers_are_shared() -> None:
    x = torch.randn(4)
    assert_close(vmap(lambda a, b: a * b, in_dims=(0, None))(x, 3), x * 3)


def test_keyword_arguments_are_shared() -> None:
    x = torch.randn(2)
    out = vmap(lambda a, scale: a * scale)(x, scale=x)
    assert_close(out, x.unsqueeze(1) * x)


def test_out_dims_as_pytree() -> None:
    x = torch.randn(2, 3)
    out = vmap(lambda a: {"u": a, "v": (a, a.sum())}, out_dims={"u": 1, "v": (-1, 0)})(
        x
    )
    assert_close(out["u"], x.T)
    assert_close(out["v"][0], x.T)
    assert_close(out["v"][1], x.sum(1))


def test_out_dims_as_prefix() -> None:
    x = torch.randn(2, 3)
    one, (two, three) = vmap(lambda a: (a, (a, a)), out_dims=(0, 1))(x)
    assert one.shape == (2, 3)
    assert two.shape == three.shape == (3, 2)


def test_out_dims_of_one_entry_for_one_tensor() -> None:
    x = torch.randn(2, 3)
    assert_close(vmap(torch.sin, out_dims=(1,))(x), x.sin().T)


def test_out_dim_none_for_what_is_not_batched() -> None:
    x, y = torch.randn(3), torch.randn(2)
    out, same = vmap(lambda a: (a * 2, y.sin()), out_dims=(0, None))(x)
    assert_close(out, x * 2)
    assert_close(same, y.sin())


def test_output_that_is_not_batched_is_repeated() -> None:
    y = torch.randn(2)
    assert_close(vmap(lambda a: y.sin())(torch.randn(3)), y.sin().expand(3, 2))
    assert vmap(lambda a: torch.zeros(2), out_dims=1)(torch.randn(3)).shape == (2, 3)


def test_captured_tensor_as_output() -> None:
    y = torch.randn(2)
    assert_close(
        vmap(lambda a: y, out_dims=-1)(torch.randn(3)), y.unsqueeze(1).expand(2, 3)
    )


@pytest.mark.parametrize("value", [3, "text", None, 2.5])
def test_outputs_that_are_no_tensors_are_returned(value: Any) -> None:
    out, same = vmap(lambda a: (a, value), out_dims=(0, None))(torch.ones(2))
    assert same == value
    assert_close(out, torch.ones(2))


def test_containers_keep_their_type() -> None:
    x = torch.randn(2, 3)
    out = vmap(lambda a: Point(a, a.sum()))(x)
    assert type(out) is Point
    ordered = vmap(lambda a: collections.OrderedDict(q=a, p=a))(x)
    assert type(ordered) is collections.OrderedDict
    assert list(ordered) == ["q", "p"]
    assert type(vmap(lambda a: [a])(x)) is list


def test_results_of_torch_keep_their_type() -> None:
    x = torch.randn(2, 3)
    out = vmap(lambda a: torch.max(a, 0))(x)
    assert_close(out.values, x.max(1).values)
    assert_close(out.indices, x.max(1).indices)


def test_custom_pytree_arguments() -> None:
    x, y = torch.randn(2, 3), torch.randn(2)
    out = vmap(lambda p: p.x * p.y, in_dims=(Point(0, 0),))(Point(x, y))
    assert_close(out, x * y.unsqueeze(1))


@pytest.mark.parametrize("size", [0, 1])
def test_small_batches(size: int) -> None:
    x = torch.randn(size, 3, 2)
    out = vmap(lambda a: (a @ a.T).tanh() + a.sum())(x)
    assert_close(out, (x @ x.mT).tanh() + x.sum((1, 2), keepdim=True))


def test_empty_example() -> None:
    x = torch.randn(3, 0)
    assert_close(vmap(lambda a: a.sum())(x), torch.zeros(3))


def test_axis_size_without_mapped_argument() -> None:
    out = vmap(lambda: torch.zeros(3), axis_size=2)()
    assert out.shape == (2, 3)
    shared = vmap(lambda a: a + 1, in_dims=None, axis_size=2)(torch.ones(3))
    assert_close(shared, torch.full((2, 3), 2.0))


@pytest.mark.parametrize("outer", [0, 1, 2, -1])
@pytest.mark.parametrize("inner", [0, 1, -1])
def test_nested_with_other_dims(outer: int, inner: int) -> None:
    x = torch.randn(3, 3, 3)
    y = torch.randn(3)
    out = vmap(vmap(torch.dot, in_dims=(inner, None)), in_dims=(outer, None))(x, y)
    expected = [
        torch.stack([torch.dot(e, y) for e in row.unbind(inner)])
        for row in x.unbind(outer)
    ]
    assert_close(out, torch.stack(expected))


def test_outer_product_by_two_maps() -> None:
    x, y = torch.randn(3), torch.randn(4)
    out = vmap(lambda a: vmap(lambda b: a * b)(y))(x)
    assert_close(out, torch.outer(x, y))
    over = vmap(vmap(torch.mul, in_dims=(None, 0)), in_dims=(0, None))(x, y)
    assert_close(over, torch.outer(x, y))


def test_inner_map_over_an_argument_of_the_inner_function_only() -> None:
    x, y = torch.randn(3), torch.randn(4)
    out = vmap(lambda a: vmap(torch.sin)(y) + a)(x)
    assert_close(out, x.unsqueeze(1) + y.sin())


def test_inner_map_that_is_not_used() -> None:
    x = torch.randn(3)
    out = vmap(lambda a: (vmap(torch.sin)(torch.ones(2)), a * 2)[1])(x)
    assert_close(out, x * 2)


def test_five_maps() -> None:
    x = torch.randn(2, 1, 3, 2, 2, 3)
    func = torch.cumsum
    mapped: Any = functools.partial(func, dim=0)
    for _ in range(5):
        mapped = vmap(mapped)
    assert_close(mapped(x), x.cumsum(-1))


def test_modules_partials_and_bound_methods() -> None:
    x = torch.randn(4, 3)
    module = nn.Linear(3, 2)
    assert_close(vmap(module)(x), module(x))
    assert_close(vmap(functools.partial(torch.sum, dim=0))(x), x.sum(1))
    assert_close(vmap(module.forward)(x), module(x))


def test_name_and_docstring_are_kept() -> None:
    def model(x: Tensor) -> Tensor:
        """Say something."""
        return x

    assert vmap(model).__name__ == "model"
    assert vmap(model).__doc__ == "Say something."


def test_side_effects_run_once() -> None:
    seen = []
    vmap(lambda a: (seen.append(1), a)[1])(torch.ones(5))
    assert seen == [1]


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 5, 100])
def test_chunks_equal_the_whole(chunk_size: int) -> None:
    x, y = torch.randn(2, 5), torch.randn(5, 3)
    func = lambda a, b: (a.sum() * b, {"s": a, "c": torch.ones(2)})  # noqa: E731
    whole = vmap(func, in_dims=(1, 0), out_dims=(1, 0))(x, y)
    chunked = vmap(func, in_dims=(1, 0), out_dims=(1, 0), chunk_size=chunk_size)(x, y)
    assert_close(chunked, whole)


def test_chunks_run_in_order_and_skip_the_empty_one() -> None:
    sizes = []

    def func(a: Tensor) -> Tensor:
        sizes.append(1)
        return a * 2

    assert_close(vmap(func, chunk_size=2)(torch.arange(5.0)), torch.arange(5.0) * 2)
    assert len(sizes) == 3
    assert vmap(func, chunk_size=2)(torch.ones(0)).shape == (0,)


def test_chunks_with_an_output_that_is_not_batched() -> None:
    out, same = vmap(lambda a: (a, torch.ones(2)), out_dims=(0, None), chunk_size=2)(
        torch.arange(5.0)
    )
    assert_close(out, torch.arange(5.0))
    assert_close(same, torch.ones(2))


@pytest.mark.eager(reason="the operator has no kernel for meta tensors")
def test_loop_warns_once_and_names_the_operator() -> None:
    library = torch.library.Library("jaxtorch_test_loop", "DEF")
    library.define("triple(Tensor x) -> Tensor")
    library.impl("triple", lambda x: x * 3, "CPU")
    triple = torch.ops.jaxtorch_test_loop.triple
    x = torch.randn(3, 2)
    with pytest.warns(UserWarning, match="performance drop because .*triple"):
        assert_close(vmap(triple)(x), x * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(vmap(triple, in_dims=1, out_dims=1)(x), x * 3)
    with pytest.raises(jaxtorch.errors.MissingRuleError, match="strict=True"):
        vmap(triple, strict=True)(x)


def test_factories_inside() -> None:
    x = torch.randn(3, 2)
    out = vmap(lambda a: torch.zeros(2) + torch.arange(2) + torch.eye(2) @ a)(x)
    assert_close(out, x + torch.arange(2))


def test_shapes_and_metadata_are_of_one_example() -> None:
    seen = {}

    def func(a: Tensor) -> Tensor:
        seen.update(shape=a.shape, dim=a.dim(), numel=a.numel(), length=len(a))
        seen.update(dtype=a.dtype, stride=a.stride(), device=a.device)
        return a.reshape(-1)

    vmap(func, in_dims=1)(torch.zeros(4, 2, 3))
    assert seen["shape"] == (4, 3)
    assert seen["stride"] == (6, 1)
    assert (seen["dim"], seen["numel"], seen["length"]) == (2, 12, 4)


def test_iteration_indexing_and_unpacking() -> None:
    x = torch.randn(5, 3)
    out = vmap(lambda a: sum(e * i for i, e in enumerate(a)) + a[-1] + a[0:2].sum())(x)
    expected = x[:, 1] + 2 * x[:, 2] + x[:, 2] + x[:, :2].sum(1)
    assert_close(out, expected)

    def unpacked(a: Tensor) -> Tensor:
        p, q, r = a
        return p * q - r

    assert_close(vmap(unpacked)(x), x[:, 0] * x[:, 1] - x[:, 2])


def test_indexing_with_a_batched_index() -> None:
    x, i = torch.randn(4), torch.tensor([[0, 1], [3, 3]])
    assert_close(vmap(lambda j: x[j])(i), x[i])
    y = torch.randn(2, 4)
    assert_close(vmap(lambda a, j: a[j])(y, i), y.gather(1, i))


def test_dtypes_promote_as_for_one_example() -> None:
    scalars = torch.ones(3, dtype=torch.float64)
    vector = torch.ones(2, dtype=torch.float32)
    out = vmap(lambda s: vector * s)(scalars)
    assert out.dtype is (vector * scalars[0]).dtype
    assert (
        vmap(lambda s: s * 2.5)(torch.ones(2, dtype=torch.int32)).dtype is torch.float32
    )


def test_complex_numbers() -> None:
    x = torch.randn(3, 2, dtype=torch.complex64)
    out = vmap(lambda a: (a.conj() * a).real + a.abs() + a.angle())(x)
    assert_close(out, (x.conj() * x).real + x.abs() + x.angle())


def test_requires_grad_argument() -> None:
    x = torch.randn(3, requires_grad=True)
    out = vmap(torch.sin)(x)
    (got,) = torch.autograd.grad(out.sum(), x)
    assert_close(got, x.cos())


def test_batched_tensor_in_a_list_of_tensors() -> None:
    x, y = torch.randn(3, 2), torch.randn(2)
    assert_close(
        vmap(lambda a: torch.stack([a, y, a]))(x),
        torch.stack([x, y.expand(3, 2), x], 1),
    )
    assert_close(
        vmap(lambda a: torch.cat([y, a]))(x), torch.cat([y.expand(3, 2), x], 1)
    )
    assert_close(vmap(lambda a: torch.einsum("i,j->ij", a, y))(x), x[:, :, None] * y)


def test_equals_torch_func_on_a_network() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(0), nn.Linear(18, 4))
    x = torch.randn(3, 1, 5, 5)
    assert_close(vmap(net)(x), torch.func.vmap(net)(x))


def test_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    vmap(torch.sin)(torch.ones(3))
    assert torch.equal(state, torch.get_rng_state())


def test_no_dims_mean_none_for_any_and_all_and_all_for_sums() -> None:
    x = torch.randn(3, 2, 4) > 0.5
    for call in (torch.any, torch.all):
        for keepdim in (False, True):
            assert_close(vmap(lambda a, c=call, k=keepdim: c(a, (), k))(x), x)
    assert_close(vmap(lambda a: a.sum(dim=()))(x), x.sum((1, 2)))


@pytest.mark.eager(reason="a Python branch on values")
def test_one_answer_of_equal_for_all_examples() -> None:
    x, y = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([1.0, 2.0])

    def chosen(a: Tensor, b: Tensor) -> Tensor:
        return a if torch.equal(a, b) else -a

    assert_close(vmap(chosen, (0, None))(x, y), x)
    assert_close(vmap(chosen, (None, -1))(y, x + 1), -x)
    assert_close(vmap(chosen)(x, x.new_zeros(2, 3)), -x)
    assert_close(vmap(vmap(chosen, (0, None)), (None, 0))(x, x), x.expand(2, 2, 2))
    with pytest.raises(DataDependentError, match="another answer for each example"):
        vmap(chosen, (0, None))(torch.stack([y, -y]), y)
    with pytest.raises(DataDependentError, match="another answer for each example"):
        vmap(vmap(chosen, (0, None)), (None, 0))(x, torch.stack([y, -y]))


@pytest.mark.parametrize("chunk_size", [1.5, "2", [2]])
def test_chunk_sizes_that_are_no_numbers(chunk_size: Any) -> None:
    for transform in (vmap, jacrev, jacfwd):
        with pytest.raises(TypeError, match="int greater than 0, got"):
            transform(torch.sin, chunk_size=chunk_size)


@pytest.mark.parametrize("dim", [0.0, False, "0"])
def test_dims_that_are_no_ints(dim: Any) -> None:
    with pytest.raises(ValueError, match="expected int or None"):
        vmap(torch.sin, in_dims=(dim,))(torch.ones(2, 3))


@pytest.mark.parametrize("wrong", [4, -1])
def test_an_index_outside_of_an_example_is_refused(wrong: int) -> None:
    """The rows of the examples before and behind it are none of its own."""
    tables, index = torch.randn(2, 4, 3), torch.tensor([[0, 3], [1, 2]])
    pairs = zip(index, tables, strict=True)
    lookup = vmap(torch.nn.functional.embedding)
    expected = [torch.nn.functional.embedding(*each) for each in pairs]
    assert torch.equal(lookup(index, tables), torch.stack(expected))
    index[1, 0] = wrong
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        lookup(index, tables)
