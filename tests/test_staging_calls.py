"""What surrounds the program in a call of a staged function: the key and the result."""

import collections
import sys

import pytest
import torch

import jaxtorch
from jaxtorch import pytree
from jaxtorch.staging.packing import packer
from jaxtorch.staging.signature import key_of

Point = collections.namedtuple("Point", "x y")
X = torch.arange(3.0)


def nested(depth):
    """Return a leaf in ``depth`` tuples."""
    return (nested(depth - 1),) if depth else 7


TREES = {
    "leaf": 0,
    "none": None,
    "empty": ((), [], {}),
    "one": (1,),
    "nested": [(1, 2), {"a": [3], "b": {4: 5, (6, "c"): ()}}, 7],
    "named": (1, Point([2, 3], 4), 5),
    "ordered": collections.OrderedDict(b=1, a=(2, 3)),
    "deep": (1, nested(300), 2),
}


@pytest.mark.parametrize("name", TREES)
def test_packing_is_unflattening(name):
    leaves, spec = pytree.flatten(TREES[name])
    packed = packer(spec)(tuple(leaves))
    assert packed == TREES[name]
    assert type(packed) is type(TREES[name])


SIGNATURES = [
    (((X, X), X), {}),
    ((X, (X, X)), {}),
    (([X, X], X), {}),
    ((X, X, X), {}),
    ((X, X), {"x": X}),
    ((X, X), {"y": X}),
    ((X, X, {"x": X}), {}),
    ((X, X, X.double()), {}),
    ((X, X, X[:2]), {}),
    ((X, X, X[None]), {}),
    ((X, X, 1), {}),
    ((X, X, True), {}),
    ((X, X, None), {}),
    ((X, X, ()), {}),
    ((X, X, Point(X, X)), {}),
    ((X, X, (X, X)), {}),
]


def test_signatures_that_differ_have_different_keys():
    keys = [key_of(*call)[0] for call in SIGNATURES]
    assert len(set(keys)) == len(SIGNATURES)
    assert keys == [key_of(*call)[0] for call in SIGNATURES]
    with torch.no_grad():
        assert key_of(*SIGNATURES[0])[0] not in keys


def test_the_grad_mode_is_part_of_a_dynamic_signature():
    doubled = jaxtorch.jit(lambda x: 2 * x, dynamic=True)
    doubled(X)
    with torch.no_grad():
        torch.testing.assert_close(doubled(X), 2 * X)
        torch.testing.assert_close(doubled(X[:2]), 2 * X[:2])


def calls_made_by(func, *args):
    """Count the functions, in Python or C, that a call enters."""
    count = 0

    def notice(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(notice)
    try:
        func(*args)
    finally:
        sys.setprofile(before)
    return count


def test_a_call_enters_few_functions_for_each_pair_of_tensors():
    params = [(X, X) for _ in range(20)]
    staged = jaxtorch.jit(lambda params, x: params)
    staged(params, X)
    assert calls_made_by(staged, params, X) <= 10 * len(params) + 30
