"""Runs the tests of the transforms once more with every outermost transform staged.

``pytest -p tests.under_jit tests/test_grad.py ...``: ``jaxtorch.grad(f)`` then gives
``jaxtorch.jit(jaxtorch.grad(f))``, and so on. Tests that hold only for eager calls are
marked ``eager`` with the reason.
"""

import functools

import pytest

import jaxtorch

MAKERS = ("vmap", "grad", "grad_and_value", "value_and_grad", "jacrev", "jacfwd")


def staging(transform):
    """Return the transform with its results staged."""

    @functools.wraps(transform)
    def make(func, *args, **kwargs):
        return jaxtorch.jit(transform(func, *args, **kwargs))

    return make


def staging_call(transform):
    """Return ``jvp`` or ``hvp`` with the call staged."""

    @functools.wraps(transform)
    def call(func, primals, tangents, **kwargs):
        def run(primals, tangents):
            return transform(func, primals, tangents, **kwargs)

        return jaxtorch.jit(run)(primals, tangents)

    return call


STAGED = {name: staging(getattr(jaxtorch, name)) for name in (*MAKERS, "hessian")}
STAGED |= {name: staging_call(getattr(jaxtorch, name)) for name in ("jvp", "hvp")}


@pytest.fixture(autouse=True)
def under_jit(request, monkeypatch):
    """Put the staged transforms in the place of the eager ones."""
    marker = request.node.get_closest_marker("eager")
    if marker is not None:
        pytest.skip(f"eager only: {marker.kwargs['reason']}")
    for name, staged in STAGED.items():
        eager = getattr(jaxtorch, name)
        monkeypatch.setattr(jaxtorch, name, staged)
        if getattr(request.module, name, None) is eager:
            monkeypatch.setattr(request.module, name, staged)
