"""``as_strided`` inside transforms shows elements of its tensor, and nothing else."""

import pytest
import torch

from jaxtorch import grad, jacfwd, jacrev, vmap
from jaxtorch.errors import UsageError

BASE = torch.arange(40.0)


@pytest.mark.parametrize("offset", [None, 2, 3])
@pytest.mark.parametrize("first", [0, 2])
def test_an_offset_is_that_of_the_first_example(first, offset):
    x = BASE[first : first + 36].reshape(4, 9)

    def func(x):
        return x.as_strided((3, 2), (1, 3), offset)

    assert torch.equal(vmap(func)(x), torch.func.vmap(func)(x))


def test_the_offset_of_a_wrapper_is_that_of_its_value():
    x = BASE[3:]

    def func(x):
        return x[2:].as_strided((4,), (2,), x.storage_offset() + 3)

    assert torch.equal(vmap(func)(x[None])[0], func(x))
    expected = torch.autograd.functional.jacobian(func, x)
    assert torch.equal(jacrev(func)(x), expected)
    assert torch.equal(jacfwd(func)(x), expected)


@pytest.mark.parametrize(
    ("x", "dim", "stride", "offset"),
    [
        (BASE.reshape(4, 10)[:, ::2], 0, 3, None),
        (BASE.reshape(4, 10)[:, ::2], 0, 3, 1),
        (BASE.reshape(10, 4), 1, 3, None),
        (BASE.reshape(10, 4), 1, 3, 1),
        (BASE.reshape(4, 10)[:, :5], 0, 7, None),
        (BASE[3:].reshape(1, 37), 0, 1, 0),
        (BASE.reshape(4, 10), 0, 1, 9),
        (BASE.reshape(4, 10), 0, 1, 10),
        (BASE.reshape(4, 10), 0, -1 % 10, 9),
    ],
)
def test_storage_between_and_around_the_elements_is_refused(x, dim, stride, offset):
    def func(x):
        return x.as_strided((2,), (stride,), offset)

    with pytest.raises(UsageError, match="no element of the tensor of shape"):
        vmap(func, in_dims=dim)(x)


def test_derivatives_refuse_storage_around_the_elements():
    with pytest.raises(UsageError, match=r"Fix: call it on x\.clone"):
        grad(lambda x: x.as_strided((2,), (1,), 0).sum())(BASE[3:9])


def test_the_remedy():
    def func(x):
        copy = x.clone(memory_format=torch.contiguous_format)
        return copy.as_strided((2,), (3,), 1)

    x = BASE.reshape(10, 4)
    expected = torch.stack([x[1], x[4]], 1)
    assert torch.equal(vmap(func, in_dims=1)(x), expected)
