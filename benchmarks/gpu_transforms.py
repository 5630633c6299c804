"""Workloads of the transforms for the GPU, in jaxtorch, torch.func and jax."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.func
from torch import Tensor

import jaxtorch

Call = Callable[[], Any]

try:
    jax: Any = importlib.import_module("jax")
    HAS_JAX = True
except ImportError:
    HAS_JAX = False


def contenders(
    make: Callable[[Any, Any], Callable[..., Any]], args: tuple[Tensor, ...], dry: bool
) -> dict[str, Call]:
    """Return calls of ``make(transforms, numpy-like)`` in each library.

    ``make`` is given the library of the transforms and that of the functions: torch, or
    ``jax.numpy``. All must accept the few calls that the workloads make.
    """
    ours = make(jaxtorch, torch)
    theirs = make(torch.func, torch)
    staged = jaxtorch.jit(ours)

    def without_kernels() -> Any:
        with jaxtorch.kernels_mode("off"):
            return ours(*args)

    calls: dict[str, Call] = {
        "jaxtorch.jit": lambda: staged(*args),
        "jaxtorch": lambda: ours(*args),
        "jaxtorch, kernels off": without_kernels,
        "torch.func": lambda: theirs(*args),
    }
    if not dry:
        compiled = torch.compile(theirs)
        calls["torch.compile"] = lambda: compiled(*args)
    if HAS_JAX:
        calls["jax.jit"] = in_jax(make, args)
    return calls


def in_jax(make: Callable[[Any, Any], Any], args: tuple[Tensor, ...]) -> Call:
    """Return the call in jax, on its own copies of the arguments.

    The result is waited for and handed to torch without a copy.
    """
    func = jax.jit(make(jax, jax.numpy))
    own = [jax.dlpack.from_dlpack(a.contiguous()) for a in args]
    return lambda: torch.from_dlpack(jax.block_until_ready(func(*own)))


def dense_loss(library: Any) -> Callable[..., Any]:
    """Return the loss of a network of two layers."""

    def loss(first: Any, second: Any, x: Any) -> Any:
        hidden = library.tanh(x @ first.T)
        return (hidden @ second.T).sum() ** 2

    return loss


def drawn(device: str, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Draw tensors of which a sum over the last dim is of size one."""
    return tuple(torch.randn(s, device=device) / s[-1] ** 0.5 for s in shapes)


def per_sample_gradients(device: str, dry: bool) -> dict[str, Call]:
    """Differentiate for each row: outer products."""
    n, width = (3, 8) if dry else (1024, 1024)

    def make(transforms: Any, library: Any) -> Callable[..., Any]:
        gradient = transforms.grad(dense_loss(library))
        return transforms.vmap(gradient, (None, None, 0))

    args = drawn(device, (width, width), (10, width), (n, width))
    return contenders(make, args, dry)


def per_sample_gradients_of_sequences(device: str, dry: bool) -> dict[str, Call]:
    """Differentiate for each sequence: products of matrices."""
    n, length, width = (3, 4, 8) if dry else (64, 128, 1024)

    def make(transforms: Any, library: Any) -> Callable[..., Any]:
        gradient = transforms.grad(dense_loss(library))
        return transforms.vmap(gradient, (None, None, 0))

    args = drawn(device, (width, width), (10, width), (n, length, width))
    return contenders(make, args, dry)


def hessians(device: str, dry: bool) -> dict[str, Call]:
    """Make the Hessian of a network by its input, for each row."""
    n, width = (2, 4) if dry else (64, 128)

    def make(transforms: Any, library: Any) -> Callable[..., Any]:
        hessian = transforms.hessian(dense_loss(library), argnums=2)
        return transforms.vmap(hessian, (None, None, 0))

    args = drawn(device, (4 * width, width), (10, 4 * width), (n, width))
    return contenders(make, args, dry)


def jacobian(device: str, dry: bool) -> dict[str, Call]:
    """Make the Jacobian of a wide layer."""
    width = 6 if dry else 2048

    def make(transforms: Any, library: Any) -> Callable[..., Any]:
        return transforms.jacrev(lambda w, x: library.tanh(w @ x), argnums=1)

    return contenders(make, drawn(device, (width, width), (width,)), dry)


WORKLOADS: dict[str, Callable[[str, bool], dict[str, Call]]] = {
    "per-sample gradients": per_sample_gradients,
    "per-sample gradients of sequences": per_sample_gradients_of_sequences,
    "Hessians of examples": hessians,
    "Jacobian": jacobian,
}
