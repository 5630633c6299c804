"""What a benchmark is: a workload, its contenders, their check and measurement.

A file ``test_*.py`` beside this one asks one question: it has ``workloads(size)`` and
no code that measures. ``measure`` checks each contender against a float64 reference,
and times, in turns, those that are right.
"""

import copy
import functools
import importlib
import pkgutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.func
from torch import Tensor, nn

import benchmarks
import jaxtorch
from benchmarks.account import account
from benchmarks.memory import peak_bytes
from benchmarks.timing import Call, Timing, time_in_turns

SIZES = ("tiny", "cpu", "gpu")
ABSENT = "is not installed"
JIT = "jaxtorch jit"
NOT_COMPILED = "left out because it takes long to compile"
Array = Any
Params = dict[str, Array]
Setup = Callable[..., Call]


def optional(name: str) -> Any:
    """Import a peer; None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        return None


jax = optional("jax")
jnp = optional("jax.numpy")


class Library(NamedTuple):
    """A namespace of transforms and the namespace of the functions that they take."""

    transforms: Any
    np: Any


JAXTORCH = Library(jaxtorch, torch)
TORCH_FUNC = Library(torch.func, torch)
JAX = Library(jax, jnp)
Build = Callable[[Library], Callable[..., Any]]


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    Attributes:
        setup: takes the inputs, returns the call that is timed.
        needs: the package without which it is left out; ``"jax"`` gets jax arrays.
        compiles: takes seconds to get ready; left out of quick looks and the tiny size.
    """

    setup: Setup
    needs: str = "torch"
    compiles: bool = False


@dataclass(frozen=True, eq=False)
class Workload:
    """One job, and all the ways to do it that are compared.

    Attributes:
        name: short and unique, what ``--only`` selects.
        title: what the report calls it.
        inputs: makes the inputs, in NumPy.
        contenders: the ways, by name.
        reference: the job done slowly, with float64 inputs.
        tolerance: the largest error allowed, relative to the largest number of a leaf.
        sweep: what is varied and its value, for one of a row of sizes.
        counted: among the workloads of the means; else it is only a point of a row.
        threads: of torch; None for all cores.
    """

    name: str
    title: str
    inputs: Callable[[], tuple[Any, ...]]
    contenders: Mapping[str, Contender]
    reference: Setup
    tolerance: float = 1e-4
    sweep: tuple[str, int] | None = None
    counted: bool = True
    threads: int | None = None


@dataclass
class Outcome:
    """What became of a contender.

    Attributes:
        left_out: why it has no timing, if it has none.
        shares: of its time, where it goes; known of ``jit``.
    """

    left_out: str = ""
    first_call: float = 0.0
    error: float = 0.0
    peak: int | None = None
    shares: dict[str, float] = field(default_factory=dict)
    timing: Timing | None = None
    call: Call | None = field(default=None, repr=False)


class Compiled:
    """A jitted JAX function with its arguments, which waits for the result."""

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.func = jax.jit(func)
        self.args = args

    def __call__(self) -> Any:
        return jax.block_until_ready(self.func(*self.args))

    def peak_bytes(self) -> int:
        """Return what XLA reserves for intermediate and final results."""
        analysis = self.func.lower(*self.args).compile().memory_analysis()
        return int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)


def transformed(
    build: Build, *, inductor: bool = True, compiled: bool = True
) -> dict[str, Contender]:
    """Return the contenders that run the same transforms of the same function.

    Args:
        build: writes the job with a library's transforms and functions.
        inductor: with ``jit``'s second back end.
        compiled: with ``torch.compile``.
    """

    def bind(lib: Library, stage: Callable[..., Any], slow: bool = False) -> Contender:
        def setup(*inputs: Any) -> Call:
            return functools.partial(stage(build(lib)), *inputs)

        return Contender(setup, compiles=slow)

    ours = jaxtorch.jit
    fused = functools.partial(ours, backend="inductor")
    ways = {
        "jaxtorch": bind(JAXTORCH, lambda func: func),
        JIT: bind(JAXTORCH, ours),
        "jit inductor": bind(JAXTORCH, fused, slow=True),
        "torch.func": bind(TORCH_FUNC, lambda func: func),
        "torch.compile": bind(TORCH_FUNC, torch.compile, slow=True),
        "jax.jit": Contender(lambda *inputs: Compiled(build(JAX), inputs), "jax"),
    }
    if not inductor:
        del ways["jit inductor"]
    if not compiled:
        del ways["torch.compile"]
    return ways


def data(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Return random float32 numbers."""
    numbers = np.random.default_rng(seed).standard_normal(shape) * scale
    return np.asarray(numbers, dtype=np.float32)


def labels(count: int, classes: int) -> np.ndarray:
    """Return random class indices."""
    return np.random.default_rng(1).integers(classes, size=count)


def parameters(module: nn.Module) -> Params:
    """Return random parameters of a module's shapes, in NumPy."""
    params = {}
    for seed, (name, param) in enumerate(module.named_parameters()):
        fan_in = max(param[0].numel(), 1) if param.dim() > 1 else 4
        params[name] = data(*param.shape, seed=seed, scale=fan_in**-0.5)
    return params


def load(module: nn.Module, params: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a module with these parameters, in their dtype and device."""
    loaded = copy.deepcopy(module).to(next(iter(params.values())))
    loaded.load_state_dict(dict(params))
    return loaded


def apply(lib: Library, module: nn.Module, formula: Callable[..., Any]) -> Any:
    """Return a function of (parameters, input): the module, or its formula in JAX."""
    if lib is JAX:
        return functools.partial(formula, lib.np)
    call = lib.transforms.functional_call
    return lambda params, x: call(module, params, (x,))


def track(tree: Any) -> Any:
    """Return leaves of torch.autograd with these values."""
    return torch.utils._pytree.tree_map(lambda x: x.detach().requires_grad_(), tree)


def arrays(inputs: Any, make: Callable[[np.ndarray], Array]) -> Any:
    """Turn NumPy inputs into a library's arrays."""
    if isinstance(inputs, dict):
        return {key: arrays(value, make) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(arrays(value, make) for value in inputs)
    return make(inputs) if isinstance(inputs, np.ndarray) else inputs


def tensor(array: np.ndarray, device: str = "cpu", exact: bool = False) -> Tensor:
    """Return a tensor of its own memory, in float64 where it shall be exact."""
    made = torch.tensor(array, device=device)
    return made.double() if exact and made.is_floating_point() else made


def leaves(result: Any) -> Iterator[np.ndarray]:
    """Yield the arrays of a result; dicts in the order of their keys."""
    if isinstance(result, Mapping):
        for key in sorted(result):
            yield from leaves(result[key])
    elif isinstance(result, tuple | list):
        for value in result:
            yield from leaves(value)
    elif isinstance(result, Tensor):
        yield result.detach().cpu().numpy()
    else:
        yield np.asarray(result)


def error_of(result: Any, reference: Sequence[np.ndarray]) -> float:
    """Return the largest error of a leaf relative to its largest number."""
    worst = 0.0
    own = list(leaves(result))
    if [a.shape for a in own] != [b.shape for b in reference]:
        return float("inf")
    for a, b in zip(own, reference, strict=True):
        scale = max(float(np.abs(b).max(initial=0.0)), 1e-30)
        error = float(np.abs(a - b).max(initial=0.0)) / scale
        worst = max(worst, error if error == error else float("inf"))
    return worst


def prepare(
    workload: Workload, device: str = "cpu", compiling: bool = True
) -> dict[str, Outcome]:
    """Call every contender once and compare its result with the reference."""
    inputs = workload.inputs()
    exact = arrays(inputs, lambda a: tensor(a, device, exact=True))
    reference = list(leaves(workload.reference(*exact)()))
    del exact
    outcomes = {}
    for name, contender in workload.contenders.items():
        if optional(contender.needs) is None:
            outcomes[name] = Outcome(left_out=f"{contender.needs} {ABSENT}")
            continue
        if contender.compiles and not compiling:
            outcomes[name] = Outcome(left_out=NOT_COMPILED)
            continue
        is_jax = contender.needs == "jax"
        make = jnp.asarray if is_jax else functools.partial(tensor, device=device)
        try:
            call = contender.setup(*arrays(inputs, make))
            start = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - start
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            outcomes[name] = Outcome(left_out=f"{type(error).__name__}: {reason}")
            continue
        outcome = Outcome(first_call=seconds, error=error_of(result, reference))
        if outcome.error > workload.tolerance:
            outcome.left_out = f"wrong: its error is {outcome.error:.1e}"
        else:
            outcome.call = call
        outcomes[name] = outcome
        del result, call
    return outcomes


@functools.lru_cache(maxsize=1)
def measure(
    workload: Workload, device: str, rounds: int, seconds: float, compiling: bool = True
) -> dict[str, Outcome]:
    """Check, weigh and time all contenders of a workload.

    Args:
        workload: the job.
        device: where torch's tensors are.
        rounds: how often each contender has its turn, at most.
        seconds: how long one contender is timed, at most, beyond three rounds.
        compiling: with the contenders that take seconds to get ready.
    """
    before = torch.get_num_threads()
    if workload.threads:
        torch.set_num_threads(workload.threads)
    try:
        outcomes = prepare(workload, device, compiling)
        right = {name: own for name, own in outcomes.items() if own.call is not None}
        for own in right.values():
            weigh = getattr(own.call, "peak_bytes", None)
            own.peak = weigh() if weigh else peak_bytes(own.call, device)
        timings = time_in_turns(
            {name: own.call for name, own in right.items()},
            rounds=rounds,
            seconds=seconds,
            finish=torch.cuda.synchronize if device == "cuda" else None,
        )
        if device == "cpu" and JIT in right:
            right[JIT].shares = account(right[JIT].call)
    finally:
        torch.set_num_threads(before)
    for name, timing in timings.items():
        right[name].timing = timing
        right[name].call = None
    return outcomes


def questions() -> dict[str, ModuleType]:
    """Return the files that ask a question, by its name."""
    names = [m.name for m in pkgutil.iter_modules(benchmarks.__path__)]
    modules = {
        name.removeprefix("test_"): importlib.import_module(f"benchmarks.{name}")
        for name in names
        if name.startswith("test_")
    }
    return {name: own for name, own in modules.items() if hasattr(own, "workloads")}
