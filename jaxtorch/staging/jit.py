"""``jit``: stage a function once per signature, then replay its graph."""

import collections
import functools
import logging
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, fx

from jaxtorch import pytree
from jaxtorch.core.level import STATE
from jaxtorch.core.opaque import opaque
from jaxtorch.errors import ArgumentError, ArgumentTypeError, explain
from jaxtorch.staging.guards import Reads, layout_of
from jaxtorch.staging.lowered import Lowered
from jaxtorch.staging.running.backends import BACKENDS
from jaxtorch.staging.signature import (
    PARTS,
    Key,
    Static,
    change_in_words,
    is_of_tensors,
    key_of,
)
from jaxtorch.staging.sizes import NotLinearError, changed_places, generalize, with_size
from jaxtorch.staging.staged import Staged
from jaxtorch.staging.structure import with_structure

CACHE_SIZE = 256
OPTIMIZE = ("none", "safe", "full")
UNKNOWN: Any = None, None
"""Stands where the last key, and what was staged for it, is kept."""
logger = logging.getLogger("jaxtorch.jit")


class CacheInfo(NamedTuple):
    """Counts of a jitted function's cache, as ``functools.lru_cache`` has them."""

    hits: int
    misses: int
    maxsize: int
    currsize: int


class Jitted:
    """A function that is staged once per signature; made by ``jit``."""

    __name__: str

    def __init__(
        self,
        func: Callable[..., Any],
        static: tuple[tuple[int, ...], tuple[str, ...]],
        optimize: str,
        backend: str,
        dynamic: bool,
    ) -> None:
        functools.update_wrapper(self, func)
        self.__name__ = getattr(func, "__name__", type(func).__name__)
        self.func = func
        self.given = static, optimize, backend, dynamic
        self.static_argnums, self.static_argnames = static
        self.has_static = static != ((), ())
        self.optimize = optimize
        self.backend = backend
        self.dynamic = dynamic
        self.cache: collections.OrderedDict[Any, Staged] = collections.OrderedDict()
        self.reads: dict[Key, Reads] = {}
        self.sized: list[Sized] = []
        self.last = UNKNOWN
        self.hits = self.misses = 0

    @opaque
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if STATE.levels:
            return self.func(*args, **kwargs)
        if self.has_static:
            args, kwargs = self.marked(args, kwargs)
        key, tensors = key_of(args, kwargs)
        last, staged = self.last
        if key == last and (staged.kinds is None or staged.kinds.hold()):
            self.hits += 1  # cheaper than to hash the key
            return staged(tensors)
        return self.lookup(key, tensors, args, kwargs)(tensors)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __reduce__(self) -> Any:
        """Copy and pickle a decorated function by name, any other with no cache."""
        found: Any = sys.modules.get(self.__module__)
        for name in getattr(self, "__qualname__", "").split("."):
            found = getattr(found, name, None)
        return (
            self.__qualname__ if found is self else (Jitted, (self.func, *self.given))
        )

    def lookup(
        self, key: Key, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]
    ) -> Staged:
        """Return the staged function for a call, staged now where it is new."""
        entry = self.find(key, tensors)
        if entry is None:
            entry = self.stage_anew(key, tensors, args, kwargs)
        if is_of_tensors(key) and key not in self.reads:
            self.last = key, entry
        return entry

    def find(self, key: Key, tensors: list[Tensor]) -> Staged | None:
        """Return the staged function for a call, if there is one that still holds."""
        try:
            full = self.with_layout(key, tensors)
            entry = self.cache.get(full)
        except TypeError as error:
            raise ArgumentTypeError(
                explain(
                    f"jit({self.__name__})",
                    f"an argument that is not a tensor can't be hashed: {error}.",
                    "pass tensors, or hashable Python values",
                )
            ) from error
        if entry is None and self.dynamic:
            entry = next((s.staged for s in self.sized if s.accepts(full)), None)
        if entry is None or not entry.holds():
            return None
        self.hits += 1
        return entry

    def with_layout(self, key: Key, tensors: list[Tensor]) -> Key:
        """Return the key with the layout of the tensors, where that was read."""
        reads = self.reads.get(key) if self.reads else None
        return (*key, layout_of(tensors, reads)) if reads else key

    def stage_anew(
        self, key: Key, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]
    ) -> Staged:
        """Stage for a call that is new, and keep what was staged."""
        self.misses += 1
        leaves, spec = pytree.flatten((args, kwargs))
        leaves = [leaf.value if type(leaf) is Static else leaf for leaf in leaves]
        full = self.with_layout(key, tensors)
        if logger.isEnabledFor(logging.INFO):
            logger.info("jit(%s) stages: %s", self.__name__, self.reason(full))
        self.drop_outdated()
        wide = self.dynamic and bool(self.cache)
        entry = self.generalized(full, leaves, spec) if wide else None
        if entry is None:
            entry = self.stage(leaves, spec, self.backend)
            if entry.reads > self.reads.get(key, Reads.NOTHING):
                self.reads[key] = entry.reads
                full = self.with_layout(key, tensors)
            self.cache[full] = entry
        if len(self.cache) > CACHE_SIZE:
            dropped, _ = self.cache.popitem(last=False)
            self.reads.pop(dropped[:-1], None)
        del self.sized[:-CACHE_SIZE]
        return entry

    def drop_outdated(self) -> None:
        """Forget what was staged for captured tensors that have changed since."""
        for key in [key for key, staged in self.cache.items() if not staged.holds()]:
            del self.cache[key]
        self.sized = [sized for sized in self.sized if sized.staged.holds()]

    def stage(
        self, leaves: list[Any], spec: Any, backend: str, fold: bool = True
    ) -> Staged:
        """Trace, optimize and compile for these leaves."""
        return Staged(self.func, leaves, spec, self.optimize, backend, fold)

    def generalized(self, key: Any, leaves: list[Any], spec: Any) -> Staged | None:
        """Stage for every batch size, if ``key`` differs from the last one in that."""
        last = next(reversed(self.cache))
        changed = changed_places(last, key)
        if changed is None:
            return None
        places, old = changed
        size = key[places[0]][0][0]
        sizes = (size, old, size + old + 1)
        sized = [place - PARTS for place in places]
        traces = [
            self.stage(with_size(leaves, sized, n), spec, "python", False)
            for n in sizes
        ]
        staged = traces[0]
        try:
            own = staged.interface()
            if staged.ruled or any(t.reads or t.interface() != own for t in traces):
                raise NotLinearError
            generalize([t.graph for t in traces], sizes)
        except NotLinearError:
            self.dynamic = False
            logger.info("jit(%s): no graph fits every batch size", self.__name__)
            return None
        staged.install(sum(isinstance(x, Tensor) for x in leaves[: sized[0]]))
        self.sized.append(Sized(key, places, staged))
        return staged

    def marked(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Mark the static arguments of a call."""
        nums, names = self.static_argnums, self.static_argnames
        args = tuple(Static(a) if i in nums else a for i, a in enumerate(args))
        return args, {k: Static(v) if k in names else v for k, v in kwargs.items()}

    def reason(self, key: Any) -> str:
        """Say in words why a signature is new."""
        if not self.cache:
            return "the first call"
        outdated = self.cache.get(key)
        if outdated is not None and outdated.kinds is not None:
            change = outdated.kinds.change()
            if change is not None:
                return change
        return change_in_words(next(reversed(self.cache)), key)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Stage for these arguments without running; returns what can be inspected."""
        args, kwargs = self.marked(args, kwargs)
        return Lowered(self.lookup(*key_of(args, kwargs), args, kwargs))

    def cache_info(self) -> CacheInfo:
        """Return the counts of hits, misses and staged signatures."""
        return CacheInfo(
            self.hits, self.misses, CACHE_SIZE, len(self.cache) + len(self.sized)
        )

    def clear_cache(self) -> None:
        """Forget all staged signatures."""
        self.cache.clear()
        self.reads.clear()
        self.sized.clear()
        self.last = UNKNOWN
        self.hits = self.misses = 0


class Sized:
    """A staged function for every length of dim 0 of some arguments."""

    def __init__(self, key: Any, places: list[int], staged: Staged) -> None:
        self.key = key
        self.places = places
        self.staged = staged

    def accepts(self, key: Any) -> bool:
        """Tell whether a call's key differs in the batch size at most."""
        if key == self.key:
            return True
        changed = changed_places(self.key, key)
        return changed is not None and changed[0] == self.places


@opaque
def jit(
    func: Callable[..., Any] | None = None,
    *,
    static_argnums: int | tuple[int, ...] = (),
    static_argnames: str | tuple[str, ...] = (),
    optimize: str = "full",
    backend: str = "auto",
    dynamic: bool = False,
    structure: bool = False,
) -> Any:
    """Stage a function once per signature and replay its optimized graph.

    The graph goes through all transforms inside ``func``. A call under an open
    transform is seen through: ``grad(jit(f))`` and ``vmap(jit(f))`` work. Tensors that
    the function reads from outside are captured by reference.

    Args:
        func: a function of pytrees of tensors and hashable Python values, which are
            part of the signature.
        static_argnums: positional arguments that are part of the signature as a whole.
        static_argnames: the same for keyword arguments.
        optimize: ``"none"``; ``"safe"``: the passes that keep every bit; ``"full"``:
            also those that change rounding, and take ``0 * x`` for zero.
        backend: ``"python"`` runs the graph call by call; ``"native"`` compiles calls
            on small CPU tensors to loops in C; ``"inductor"`` compiles the graph, in
            some seconds, to fused kernels; ``"cudagraph"`` records it on a CUDA device
            and replays it, where that is possible; ``"auto"`` chooses.
        dynamic: stage once for every batch size: where two calls differ only in the
            length of dim 0 of some arguments, the second stages for all lengths above
            one, if the function allows it.
        structure: return a matrix, or a batch of them, as ``Banded`` where the graph
            tells that only some diagonals are not zero; no dense one is made. What has
            no such structure stays a tensor. Such a function can't be called inside
            of other transforms.

    Returns:
        A function of the same arguments, with ``lower``, ``cache_info`` and
        ``clear_cache``.

    Raises:
        DataDependentError: (a RuntimeError) where the function needs a value to go on.
        ArgumentError: (a ValueError) for an unknown ``optimize`` or ``backend``.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.jit(lambda x: torch.cos(x) * 2)(torch.zeros(2))
        tensor([2., 2.])

    Source: the behaviour of ``jax.jit``.
    """
    check_choice("optimize", optimize, OPTIMIZE)
    check_choice("backend", backend, BACKENDS)
    nums = (static_argnums,) if isinstance(static_argnums, int) else static_argnums
    names = (static_argnames,) if isinstance(static_argnames, str) else static_argnames
    options = ((nums, names), optimize, backend, dynamic)

    def staged(func: Callable[..., Any]) -> Jitted:
        return Jitted(with_structure(func) if structure else func, *options)

    return staged if func is None else staged(func)


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not among the known ones."""
    if value not in known:
        choices = ", ".join(map(repr, known))
        raise ArgumentError(
            explain("jit", f"{name}={value!r} is not known.", f"pass one of {choices}")
        )


@opaque
def make_graph(func: Callable[..., Any]) -> Callable[..., fx.Graph]:
    """Return a function that traces ``func`` and returns the graph, not optimized.

    Args:
        func: a function of pytrees of tensors and Python values.

    Returns:
        A function of the same arguments that returns a ``torch.fx`` graph of ATen
        calls. Its placeholders are the tensors among the arguments, then those that
        ``func`` reads from outside.

    Raises:
        DataDependentError: (a RuntimeError) where the function needs a value to go on.

    Examples:
        >>> import torch, jaxtorch
        >>> graph = jaxtorch.make_graph(torch.sin)(torch.zeros(2))
        >>> [node.name for node in graph.nodes]
        ['x0', 'sin_default', 'output']

    Source: ``jax.make_jaxpr``.
    """

    @opaque
    def traced(*args: Any, **kwargs: Any) -> fx.Graph:
        leaves, spec = pytree.flatten((args, kwargs))
        return Staged(func, leaves, spec, "none").graph

    return traced
