"""Runs the tests of the transforms once more with every outermost transform staged.

``pytest -p tests.under_jit tests/test_grad.py ...``: ``jaxtorch.grad(f)`` then gives
``jaxtorch.jit(jaxtorch.grad(f))``, and so on. Tests that hold only for eager calls are
marked ``eager`` with the reason; tests marked ``bits`` compare every bit, so they are
staged with the passes that keep every bit.
"""

import functools

import pytest

import jaxtorch

MAKERS = ("vmap", "grad", "grad_and_value", "value_and_grad", "jacrev", "jacfwd")
CALLS = ("jvp", "hvp")


def staging(transform, optimize):
    """Return the transform with its results staged."""

    @functools.wraps(transform)
    def make(func, *args, **kwargs):
        return jaxtorch.jit(transform(func, *args, **kwargs), optimize=optimize)

    return make


def staging_call(transform, optimize):
    """Return ``jvp`` or ``hvp`` with the call staged."""

    @functools.wraps(transform)
    def call(func, primals, tangents, **kwargs):
        def run(primals, tangents):
            return transform(func, primals, tangents, **kwargs)

        return jaxtorch.jit(run, optimize=optimize)(primals, tangents)

    return call


def staged(optimize):
    """Return the staged transforms by name."""
    names = (*MAKERS, "hessian")
    calls = {name: staging(getattr(jaxtorch, name), optimize) for name in names}
    more = {name: staging_call(getattr(jaxtorch, name), optimize) for name in CALLS}
    return calls | more


STAGED = staged("full")
STAGED_EXACTLY = staged("safe")


@pytest.fixture(autouse=True)
def under_jit(request, monkeypatch):
    """Put the staged transforms in the place of the eager ones."""
    marker = request.node.get_closest_marker("eager")
    if marker is not None:
        pytest.skip(f"eager only: {marker.kwargs['reason']}")
    bits = request.node.get_closest_marker("bits") is not None
    for name, call in (STAGED_EXACTLY if bits else STAGED).items():
        eager = getattr(jaxtorch, name)
        monkeypatch.setattr(jaxtorch, name, call)
        if getattr(request.module, name, None) is eager:
            monkeypatch.setattr(request.module, name, call)
