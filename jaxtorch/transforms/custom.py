"""``custom``, ``custom_jvp`` and ``custom_vjp``: functions with rules of their own."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core.batching import BatchLevel
from jaxtorch.core.custom import Leaves, apply
from jaxtorch.core.opaque import opaque
from jaxtorch.errors import UsageError, explain
from jaxtorch.transforms.deriving import Likes, Rules, is_differentiable
from jaxtorch.transforms.naming import Where

Function = Callable[..., Any]


@dataclass(frozen=True)
class MapInfo:
    """What a ``vmap`` rule is told.

    Attributes:
        batch_size: the number of examples.
        randomness: the argument of that name of ``vmap``.
    """

    batch_size: int
    randomness: str


@opaque
def custom(
    func: Function | None = None,
    *,
    jvp: Function | None = None,
    vjp: tuple[Function, Function] | None = None,
    vmap: Function | None = None,
    nondiff_argnums: Sequence[int] = (),
) -> Any:
    """Give a function derivative and batching rules of its own.

    Any of the rules may be given. What is missing is derived: ``jvp`` from ``vjp``, and
    ``vjp`` from ``jvp``, by transposing it; ``vmap`` by mapping the rules. Without
    ``jvp`` and ``vjp`` the derivative is that of the code of ``func``.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same.
        jvp: ``jvp(primals, tangents) -> (output, tangent)``, as ``jaxtorch.jvp``; both
            arguments are tuples. An argument that is no tensor of floating point or
            complex dtype has the tangent None.
        vjp: the pair ``(fwd, bwd)`` with ``fwd(*args) -> (output, residuals)`` and
            ``bwd(residuals, cotangent) -> cotangents``, a tuple with one entry per
            argument; None is a zero. ``bwd`` must be linear in the cotangent where
            forward mode goes through it.
        vmap: ``vmap(info, in_dims, *args) -> (output, out_dims)``, where ``info`` has
            ``batch_size`` and ``randomness``, and ``in_dims`` has one entry per
            argument (None where it is not mapped).
        nondiff_argnums: positions of arguments without derivative, such as functions.
            ``jvp`` and ``bwd`` get them before their own arguments, and have no
            tangents and cotangents for them.

    Returns:
        A function of the same arguments. Without ``func``, a decorator. It has methods
        ``defjvp``, ``defvjp`` and ``defvmap`` that set a rule.

    Raises:
        UsageError: (a RuntimeError) when it is called, for rules that return other
            structures than these, or that use values of a transform which are not
            among the arguments.

    Examples:
        >>> import torch, jaxtorch
        >>> def fwd(x):
        ...     return x.abs().sqrt(), x
        >>> def bwd(x, cotangent):
        ...     return (cotangent * x.sign() / (2 * x.abs().sqrt() + 1e-6),)
        >>> safe = jaxtorch.custom(lambda x: x.abs().sqrt(), vjp=(fwd, bwd))
        >>> jaxtorch.grad(safe)(torch.tensor(0.0))
        tensor(0.)

    Source: ``jax.custom_jvp``, ``jax.custom_vjp``, and the ``vmap`` of
    ``torch.autograd.Function``.
    """
    if func is None:
        return functools.partial(
            custom, jvp=jvp, vjp=vjp, vmap=vmap, nondiff_argnums=nondiff_argnums
        )
    return CustomFunction(func, jvp, vjp, vmap, nondiff_argnums)


@opaque
def custom_jvp(
    func: Function | None = None, nondiff_argnums: Sequence[int] = ()
) -> Any:
    """Let a function have its own derivative rule, set by ``defjvp``.

    As ``custom``, with JAX's way to set the rule. Reverse mode transposes it.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same.
        nondiff_argnums: positions of arguments without derivative, such as functions.
            The rule gets them before its own arguments.

    Returns:
        A function of the same arguments with a method ``defjvp``. Without ``func``, a
        decorator.

    Raises:
        UsageError: (a RuntimeError) when it is called, as ``custom``.

    Examples:
        >>> import torch, jaxtorch
        >>> @jaxtorch.custom_jvp
        ... def log1pexp(x):
        ...     return torch.log1p(torch.exp(x))
        >>> @log1pexp.defjvp
        ... def log1pexp_jvp(primals, tangents):
        ...     (x,), (dx,) = primals, tangents
        ...     return log1pexp(x), (1 - 1 / (1 + x.exp())) * dx
        >>> jaxtorch.grad(log1pexp)(torch.tensor(100.0))
        tensor(1.)

    Source: ``jax.custom_jvp``.
    """
    return custom(func, nondiff_argnums=nondiff_argnums)


@opaque
def custom_vjp(
    func: Function | None = None, nondiff_argnums: Sequence[int] = ()
) -> Any:
    """Let a function have its own pullback, set by ``defvjp(fwd, bwd)``.

    As ``custom``, with JAX's way to set the rule. Forward mode transposes ``bwd``.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same.
        nondiff_argnums: positions of arguments without derivative, such as functions.
            ``bwd`` gets them before its own arguments.

    Returns:
        A function of the same arguments with a method ``defvjp``. Without ``func``, a
        decorator.

    Raises:
        UsageError: (a RuntimeError) when it is called, as ``custom``.

    Examples:
        >>> import torch, jaxtorch
        >>> @jaxtorch.custom_vjp
        ... def reversed_gradient(x):
        ...     return x.clone()
        >>> reversed_gradient.defvjp(lambda x: (x.clone(), None), lambda _, c: (-c,))
        >>> jaxtorch.grad(reversed_gradient)(torch.tensor(1.0))
        tensor(-1.)

    Source: ``jax.custom_vjp``.
    """
    return custom(func, nondiff_argnums=nondiff_argnums)


class CustomFunction:
    """A function and its rules; see ``custom``."""

    def __init__(
        self,
        func: Function,
        jvp: Function | None,
        vjp: tuple[Function, Function] | None,
        vmap: Function | None,
        nondiff_argnums: Sequence[int],
    ) -> None:
        functools.update_wrapper(self, func)
        self.func = func
        self.jvp = jvp
        self.vjp = vjp
        self.vmap = vmap
        self.nondiff_argnums = tuple(nondiff_argnums)
        self.where = Where("custom", func)

    def defjvp(self, jvp: Function) -> Function:
        """Set the rule ``jvp(primals, tangents) -> (output, tangent)``."""
        self.jvp = jvp
        return jvp

    def defjvps(self, *rules: Function | None) -> None:
        """Set one rule ``rule(tangent, output, *args) -> tangent`` per argument."""

        def jvp(primals: Any, tangents: Any) -> Any:
            out = self(*primals)
            parts = [
                rule(tangent, out, *primals)
                for rule, tangent in zip(rules, tangents, strict=True)
                if rule is not None and tangent is not None
            ]
            leaves, spec = pytree.flatten(out)
            total = [torch.zeros_like(leaf) for leaf in leaves]
            for own in parts:
                part = pytree.flatten(own)[0]
                total = [a + b for a, b in zip(total, part, strict=True)]
            return out, pytree.unflatten(total, spec)

        self.jvp = jvp

    def defvjp(self, fwd: Function, bwd: Function) -> None:
        """Set the rules ``fwd`` and ``bwd``."""
        self.vjp = (fwd, bwd)

    def defvmap(self, vmap: Function) -> Function:
        """Set the rule ``vmap(info, in_dims, *args) -> (output, out_dims)``."""
        self.vmap = vmap
        return vmap

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    @opaque
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            bound = inspect.signature(self.func).bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        call = Call(self, args, kwargs)
        return pytree.unflatten(apply(call.rules(), call.leaves), call.out_spec)


class Call:
    """One call: its arguments flattened, and the rules over flat lists."""

    def __init__(self, function: CustomFunction, args: Any, kwargs: Any) -> None:
        self.function = function
        self.where = function.where
        self.kwargs = kwargs
        self.leaves, self.spec = pytree.flatten(args)
        self.out_spec: Any = None
        count = len(args)
        self.fixed = sorted(num % count for num in function.nondiff_argnums)
        self.open = [i for i in range(count) if i not in self.fixed]

    def rules(self) -> Rules:
        """Return the rules that were given."""
        function = self.function
        has_vjp = function.vjp is not None
        return Rules(
            str(self.where),
            self.run,
            self.fwd if has_vjp else None,
            self.bwd if has_vjp else None,
            None if function.jvp is None else self.tangents,
            None if function.vmap is None else self.mapped,
        )

    def flat_output(self, out: Any) -> Leaves:
        """Flatten an output and note its structure."""
        leaves, self.out_spec = pytree.flatten(out)
        return leaves

    def run(self, leaves: Leaves) -> Leaves:
        args = pytree.unflatten(leaves, self.spec)
        return self.flat_output(self.function.func(*args, **self.kwargs))

    def split(self, leaves: Leaves) -> tuple[list[Any], tuple[Any, ...]]:
        """Return the arguments without and with a derivative."""
        args = pytree.unflatten(leaves, self.spec)
        return [args[i] for i in self.fixed], tuple(args[i] for i in self.open)

    def fwd(self, leaves: Leaves) -> tuple[Leaves, Any]:
        args = pytree.unflatten(leaves, self.spec)
        pair = self.function.vjp[0](*args, **self.kwargs)  # type: ignore[index]
        out, residuals = self.pair(pair, "fwd", "(output, residuals)")
        fixed = [args[i] for i in self.fixed]
        flat = self.flat_output(out)
        return flat, (residuals, fixed, Likes(leaves), Likes(flat))

    def bwd(self, residuals: Any, cotangents: Leaves) -> Leaves:
        own, fixed, inputs, outputs = residuals
        full = outputs.fill(cotangents)
        rule = self.function.vjp[1]  # type: ignore[index]
        pulled = rule(*fixed, own, pytree.unflatten(full, self.out_spec))
        flat = self.spread(pulled, "bwd")
        if not inputs.match(flat):
            raise self.mismatch("bwd", "cotangents of the arguments' shapes")
        return flat

    def tangents(self, leaves: Leaves, pushed: Leaves) -> tuple[Leaves, Leaves]:
        fixed, primals = self.split(leaves)
        _, own = self.split(pushed)
        pair = self.function.jvp(*fixed, primals, own)  # type: ignore[misc]
        out, tangent = self.pair(pair, "jvp", "(output, tangent)")
        flat = self.flat_output(out)
        flat_tangent = pytree.broadcast_prefix(tangent, self.out_spec)
        if flat_tangent is None:
            raise self.mismatch("jvp", "a tangent in the structure of its output")
        for value, own_tangent in zip(flat, flat_tangent, strict=True):
            if isinstance(own_tangent, Tensor) and own_tangent.shape != value.shape:
                raise self.mismatch("jvp", "a tangent of the output's shape")
        return flat, [
            t if isinstance(t, Tensor) and is_differentiable(o) else None
            for o, t in zip(flat, flat_tangent, strict=True)
        ]

    def mapped(
        self, level: BatchLevel, values: Leaves, dims: Leaves
    ) -> tuple[Leaves, Leaves]:
        args = pytree.unflatten(values, self.spec)
        in_dims = pytree.unflatten(dims, self.spec)
        info = MapInfo(level.size, level.randomness)
        pair = self.function.vmap(info, tuple(in_dims), *args, **self.kwargs)  # type: ignore[misc]
        out, out_dims = self.pair(pair, "vmap", "(output, out_dims)")
        flat = self.flat_output(out)
        flat_dims = pytree.broadcast_prefix(out_dims, self.out_spec)
        if flat_dims is None:
            raise self.mismatch("vmap", "out_dims in the structure of its output")
        return flat, [
            d % o.dim() if isinstance(o, Tensor) and d is not None else None
            for o, d in zip(flat, flat_dims, strict=True)
        ]

    def spread(self, pulled: Any, rule: str) -> Leaves:
        """Give every leaf its cotangent out of one entry per open argument."""
        if not isinstance(pulled, (tuple, list)) or len(pulled) != len(self.open):
            raise self.mismatch(rule, f"a tuple of {len(self.open)} cotangents")
        entries: list[Any] = [None] * (len(self.open) + len(self.fixed))
        for place, own in zip(self.open, pulled, strict=True):
            entries[place] = own
        flat = pytree.broadcast_prefix(tuple(entries), self.spec)
        if flat is None:
            raise self.mismatch(rule, "cotangents in the structure of the arguments")
        return flat

    def pair(self, result: Any, rule: str, expected: str) -> tuple[Any, Any]:
        """Refuse what is not a pair."""
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise self.mismatch(rule, f"a pair {expected}")
        return result[0], result[1]

    def mismatch(self, rule: str, expected: str) -> UsageError:
        """Return the error for a rule that returned something else."""
        return UsageError(
            explain(
                self.where,
                f"the rule {rule} must return {expected}.",
                "see the docstring of jaxtorch.custom",
            )
        )
