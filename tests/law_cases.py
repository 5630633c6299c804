"""The cases of the laws: functions of tensors with examples. No law is stated here."""

import functools
import itertools
import random
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests import direct_cases

Function = Callable[..., list[Tensor]]

EXAMPLES = 2
CANDIDATES = 60
MOST_CANDIDATES = 400
MAX_NUMEL = 4000
DTYPES = (
    torch.float64,
    torch.float32,
    torch.int64,
    torch.bool,
    torch.complex128,
    torch.uint8,
)


class NotApplicableError(Exception):
    """A law says nothing about a case."""


@dataclass(frozen=True)
class Case:
    """One call of an operator, as a function of all the tensors that it takes.

    Attributes:
        name: the operator's name in the database and the number of the sample.
        func: takes one tensor per entry of an example, returns a list of tensors.
        examples: alike calls with other values; each a tuple of tensors.
        wanted: the positions of the tensors to differentiate.
        rng: whether the operator draws random numbers; ``func`` then seeds first.
        writes: whether the operator writes into arguments; ``func`` then copies first.
    """

    name: str
    func: Function
    examples: tuple[tuple[Tensor, ...], ...]
    wanted: tuple[int, ...]
    rng: bool = False
    writes: bool = False


def differentiable(tensor: Tensor) -> bool:
    """Tell whether a tensor's dtype has derivatives."""
    return tensor.is_floating_point() or tensor.is_complex()


# Operators whose values nobody defines.
UNDEFINED = ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty")
# Operators that write running statistics, though their schema does not say so.
WRITE = ("native_batch_norm", "nn.functional.batch_norm")
OPS = {
    op.full_name: op
    for op in op_db
    if op.full_name not in (*UNDEFINED, "new_empty_strided")
}
NAMES = tuple(OPS) + tuple(f"direct:{name}" for name in direct_cases.DIRECT)


@functools.lru_cache(maxsize=4)
def cases(name: str, count: int, dtype: torch.dtype | None = None) -> tuple[Case, ...]:
    """Return at most ``count`` cases of one operator, spread over its samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("direct:"):
            return (direct_case(name),)
        return database_cases(name, count, dtype)


def direct_case(name: str) -> Case:
    """Return the case of an overload that the database does not reach."""
    func, make = direct_cases.DIRECT[name.removeprefix("direct:")]
    examples = []
    for seed in range(EXAMPLES):
        torch.manual_seed(seed)
        examples.append(tuple(make()))
    own = tensors_of(func)
    rng, written = watch(own, examples[0])
    if written:
        own = on_copies(own)
    if rng:
        own = seeded(own)
    wanted = wanted_by(own, examples[0])
    return Case(name, own, tuple(examples), wanted, rng, written)


def tensors_of(func: Callable[..., Any]) -> Function:
    """Let ``func`` return the list of the tensors among its results."""

    def call(*tensors: Tensor) -> list[Tensor]:
        return [t for t in pytree.tree_leaves(func(*tensors)) if isinstance(t, Tensor)]

    return call


def database_cases(
    name: str, count: int, dtype: torch.dtype | None
) -> tuple[Case, ...]:
    """Build cases of an operator of PyTorch's database."""
    op = OPS[name]
    kinds = [dtype] if dtype else DTYPES
    kind = next((d for d in kinds if op.supports_dtype(d, "cpu")), None)
    if kind is None:
        raise NotApplicableError("not on this dtype")
    runs = [draw_samples(op, kind, seed) for seed in range(EXAMPLES)]
    found = []
    for index in spread([size_of(s) for s in runs[0]], count):
        samples = [run[index] if index < len(run) else runs[0][index] for run in runs]
        found.append(case_of(op, f"{name}[{index}]", samples))
    return tuple(found)


def draw_samples(op: Any, dtype: torch.dtype, seed: int) -> list[Any]:
    """Draw the first samples of an operator; the same seed gives the same values."""
    torch.manual_seed(seed)
    random.seed(seed)
    make = op.sample_inputs("cpu", dtype, requires_grad=False)
    found: list[Any] = []
    for sample in itertools.islice(make, MOST_CANDIDATES):
        if is_strided(sample):
            found.append(sample)
        if len(found) >= CANDIDATES and any(map(size_of, found)):
            break
    return found


def is_strided(sample: Any) -> bool:
    """Tell whether a sample holds no sparse tensors."""
    leaves = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    return all(t.layout is torch.strided for t in leaves if isinstance(t, Tensor))


def size_of(sample: Any) -> int:
    """Return the number of elements of a sample's tensors; 0 where one is empty."""
    leaves = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    sizes = [t.numel() for t in leaves if isinstance(t, Tensor)]
    return sum(sizes) if all(sizes) else 0


def spread(sizes: Sequence[int], count: int) -> list[int]:
    """Choose samples: one of some size, then others, few of them empty."""
    some = [i for i, size in enumerate(sizes) if 0 < size <= MAX_NUMEL]
    empty = [i for i, size in enumerate(sizes) if size == 0]
    if not some:
        smallest = sorted(range(len(sizes)), key=sizes.__getitem__)
        return (empty or smallest)[:count]
    first = next((i for i in some if sizes[i] > 2), some[0])
    rest = [i for i in some if i != first]
    wanted = count - 1 - (count > 2 and bool(empty))
    step = max(1, len(rest) // max(1, wanted))
    return [first, *rest[::step][:wanted], *empty[:1]][:count]


def case_of(op: Any, name: str, samples: list[Any]) -> Case:
    """Turn alike samples of an operator into one case."""
    sample = samples[0]
    spec: Any
    leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    target = op.gradcheck_wrapper
    finish = sample.output_process_fn_grad

    def raw(*tensors: Tensor) -> list[Tensor]:
        full = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            full[place] = tensor
        own, args, kwargs = pytree.tree_unflatten(full, spec)
        out = finish(target(op.op, own, *args, **kwargs))
        return [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]

    found = [example_like(s, leaves, spec) for s in samples]
    first = tuple(leaves[i].detach() for i in places)
    examples = tuple(first if e is None else e for e in found)
    func: Function = raw
    rng, written = watch(raw, first)
    written = written or op.full_name in WRITE
    if written:
        func = on_copies(func)
    if rng:
        func = seeded(func)
    return Case(name, func, examples, wanted_by(func, first), rng, written)


def wanted_by(func: Function, example: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the tensors with derivatives, but for those that PyTorch refuses."""
    wanted = []
    for place, tensor in enumerate(example):
        if not differentiable(tensor):
            continue
        leaves = [t.detach() for t in example]
        leaves[place] = leaf = tensor.detach().clone().requires_grad_()
        try:
            outs = [out for out in func(*leaves) if out.requires_grad]
            if outs:
                torch.autograd.grad([o.sum() for o in outs], leaf, allow_unused=True)
        except (RuntimeError, NotImplementedError) as error:
            if re.search("not differentiable|not implemented|cannot have", str(error)):
                continue
        except Exception:
            pass
        wanted.append(place)
    return tuple(wanted)


def example_like(
    sample: Any, leaves: list[Any], spec: Any
) -> tuple[Tensor, ...] | None:
    """Return the tensors of a sample where the rest of it is as in the first sample."""
    own, own_spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    if own_spec != spec:
        return None
    tensors = []
    for mine, other in zip(own, leaves, strict=True):
        if isinstance(mine, Tensor) and isinstance(other, Tensor):
            if mine.shape != other.shape or mine.dtype != other.dtype:
                return None
            tensors.append(mine.detach())
        elif isinstance(mine, Tensor) or isinstance(other, Tensor):
            return None
        elif isinstance(mine, (int, float, bool, str)) and mine != other:
            return None
    return tuple(tensors)


class Watch(TorchDispatchMode):
    """Notes whether any random operator runs, and which storages are written."""

    def __init__(self) -> None:
        super().__init__()
        self.random = False
        self.written: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random = True
        for slot, arg in zip(func._schema.arguments, args, strict=False):
            if slot.alias_info and slot.alias_info.is_write and isinstance(arg, Tensor):
                self.written.add(arg.untyped_storage().data_ptr())
        return func(*args, **(kwargs or {}))


def watch(func: Function, example: Sequence[Tensor]) -> tuple[bool, bool]:
    """Tell whether a call draws random numbers, and whether it writes arguments."""
    copies = [t.clone() for t in example]
    with Watch() as seen:
        try:
            func(*copies)
        except Exception:
            return False, False
    changed = any(
        t.untyped_storage().data_ptr() in seen.written
        or not torch.equal(t.nan_to_num(), old.nan_to_num())
        for t, old in zip(copies, example, strict=True)
        if t.numel()
    )
    return seen.random, changed


def on_copies(func: Function) -> Function:
    """Call on copies of the arguments, which may be written."""
    return lambda *tensors: func(*[t.clone() for t in tensors])


def seeded(func: Function) -> Function:
    """Seed the generator before each call."""

    def call(*tensors: Tensor) -> list[Tensor]:
        torch.manual_seed(7)
        return func(*tensors)

    return call
