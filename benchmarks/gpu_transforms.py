"""Workloads of the transforms for the GPU, in jaxtorch, torch.func and jax."""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.func
from torch import Tensor

import jaxtorch

try:
    jax: Any = importlib.import_module("jax")
except ImportError:
    jax = None
else:  # torch's float32 is not made of tf32 either
    jax.config.update("jax_default_matmul_precision", "highest")


@dataclass(frozen=True)
class Contender:
    """A call, and how its result becomes torch's.

    Attributes:
        call: starts it on the device.
        read: waits for the result where the library has streams of its own.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Any] = lambda out: out

    def wait(self, out: Any) -> Any:
        """Wait for a result and return it as torch's."""
        own = self.read(out)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return own

    def result(self) -> Any:
        """Call and wait."""
        return self.wait(self.call())


def contenders(
    make: Callable[[Any, Any], Callable[..., Any]], args: tuple[Tensor, ...], dry: bool
) -> dict[str, Contender]:
    """Return calls of ``make(transforms, numpy-like)`` in each library.

    ``make`` is given the library of the transforms and that of the functions: torch, or
    ``jax.numpy``. All must accept the few calls that the workloads make.
    """
    ours = make(jaxtorch, torch)
    theirs = make(torch.func, torch)

    def without_kernels() -> Any:
        with jaxtorch.kernels_mode("off"):
            return ours(*args)

    calls = {
        "jaxtorch.jit": functools.partial(jaxtorch.jit(ours), *args),
        "jaxtorch.jit, no CUDA graph": functools.partial(
            jaxtorch.jit(ours, backend="python"), *args
        ),
        "jaxtorch": functools.partial(ours, *args),
        "jaxtorch, kernels off": without_kernels,
        "torch.func": functools.partial(theirs, *args),
    }
    if not dry:
        calls["torch.compile"] = functools.partial(torch.compile(theirs), *args)
    own = {name: Contender(call) for name, call in calls.items()}
    if jax is not None:
        own["jax.jit"] = in_jax(make, args)
    return own


def in_jax(make: Callable[[Any, Any], Any], args: tuple[Tensor, ...]) -> Contender:
    """Return the call in jax, on its own copies of the arguments."""

    @functools.cache
    def prepared() -> Callable[[], Any]:
        func = jax.jit(make(jax, jax.numpy))
        own = [jax.dlpack.from_dlpack(a.contiguous()) for a in args]
        return functools.partial(func, *own)

    def read(out: Any) -> Any:
        return torch.from_dlpack(jax.block_until_ready(out))

    return Contender(lambda: prepared()(), read)


def dense_loss(library: Any) -> Callable[..., Any]:
    """Return the loss of a network of two layers."""

    def loss(first: Any, second: Any, x: Any) -> Any:
        hidden = library.tanh(x @ first.T)
        return (hidden @ second.T).sum() ** 2

    return loss


def drawn(device: str, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Draw tensors of which a sum over the last dim is of size one."""
    return tuple(torch.randn(s, device=device) / s[-1] ** 0.5 for s in shapes)


def per_sample_gradients(device: str, dry: bool) -> dict[str, Contender]:
    """Differentiate for each row: outer products."""
    n, width = (3, 8) if dry else (1024, 1024)

    def make(transforms: Any, library: Any) -> Callable[..., Any]:
        gradient = transforms.grad(dense_loss(library))
        return transforms.vmap(gradient, (None, None, 0))

    args = drawn(device, (width, width), (10, width), (n, width))
    return contenders(make, args, dry)


def per_sample_gradients_of_sequences(device: str, dry: bool) -> dict[str, Contender]:
    """Differentiate for each sequence: products of matrices."""
    n, length, width = (3, 4, 8) if dry else (64, 128, 1024)

    def make(transforms: Any, library: Any) -> Callable[..., Any]:
        gradient = transforms.grad(dense_loss(library))
        return transforms.vmap(gradient, (None, None, 0))

    args = drawn(device, (width, width), (10, width), (n, length, width))
    return contenders(make, args, dry)


def clipped_sums_of_sequences(device: str, dry: bool) -> dict[str, Contender]:
    """Sum the gradients of sequences, each scaled to a norm of at most one."""
    n, length, width = (3, 4, 8) if dry else (64, 128, 1024)

    def make(transforms: Any, library: Any) -> Callable[..., Any]:
        gradients = transforms.vmap(
            transforms.grad(dense_loss(library)), (None, None, 0)
        )

        def clipped(first: Any, second: Any, x: Any) -> Any:
            g = gradients(first, second, x)
            norms = library.sqrt((g * g).sum((1, 2)))
            return library.einsum("b,boi->oi", library.clip(1 / norms, max=1), g)

        return clipped

    args = drawn(device, (width, width), (10, width), (n, length, width))
    return contenders(make, args, dry)


def hessians(device: str, dry: bool) -> dict[str, Contender]:
    """Make the Hessian of a network by its input, for each row."""
    n, width = (2, 4) if dry else (64, 128)

    def make(transforms: Any, library: Any) -> Callable[..., Any]:
        hessian = transforms.hessian(dense_loss(library), argnums=2)
        return transforms.vmap(hessian, (None, None, 0))

    args = drawn(device, (4 * width, width), (10, 4 * width), (n, width))
    return contenders(make, args, dry)


def jacobian(device: str, dry: bool) -> dict[str, Contender]:
    """Make the Jacobian of a wide layer."""
    width = 6 if dry else 2048

    def make(transforms: Any, library: Any) -> Callable[..., Any]:
        return transforms.jacrev(lambda w, x: library.tanh(w @ x), argnums=1)

    return contenders(make, drawn(device, (width, width), (width,)), dry)


WORKLOADS: dict[str, Callable[[str, bool], dict[str, Contender]]] = {
    "per-sample gradients": per_sample_gradients,
    "per-sample gradients of sequences": per_sample_gradients_of_sequences,
    "clipped sums of sequences": clipped_sums_of_sequences,
    "Hessians of examples": hessians,
    "Jacobian": jacobian,
}
