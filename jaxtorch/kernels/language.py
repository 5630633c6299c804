"""The one place that imports Triton, and how its kernels are launched."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

try:
    import triton
    import triton.language
    from triton.runtime import interpreter
except ImportError:  # no Triton for this platform: the references run
    triton = None

HAS_TRITON = triton is not None
tl: Any = (
    triton.language
    if HAS_TRITON
    else SimpleNamespace(constexpr=lambda value: value, tensor=None)
)
if TYPE_CHECKING:
    constexpr: TypeAlias = Any  # noqa: PYI042 - Triton's names
    tensor: TypeAlias = Any  # noqa: PYI042
else:
    constexpr = tl.constexpr
    tensor = tl.tensor  # what an argument of a kernel is: a pointer or a number

LARGEST_GRID = 2**31 - 1
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""What kernels take. They accumulate in float32; float64 runs on ATen."""


def jit(func: Callable[..., Any]) -> Any:
    """Make a Triton kernel of ``func``; without Triton leave it a function."""
    return triton.jit(func) if HAS_TRITON else func


INTERPRETED = HAS_TRITON and triton.knobs.runtime.interpret
if INTERPRETED and triton.__version__.startswith("3.6."):
    # Its loops make a number of an array of one element, which numpy 2.4 refuses.
    patch_tensor = interpreter._patch_lang_tensor

    def patch_loops(kind: Any, scope: Any) -> None:
        """Let the bounds of loops be arguments, as later versions do."""
        patch_tensor(kind, scope)
        scope.set_attr(kind, "__index__", lambda x: int(x.handle.data.item()))

    interpreter._patch_lang_tensor = patch_loops
WIDENED = tl.constexpr(INTERPRETED)


@jit
def dot(a: tensor, b: tensor, acc: tensor, PRECISION: constexpr) -> tensor:
    """Add the product of two tiles to ``acc``; the kernels' only way to tensor cores.

    The interpreter takes the bits of a bfloat16 for a number and is given float32.
    """
    if WIDENED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@dataclass(frozen=True)
class Config:
    """One way to launch a kernel.

    Attributes:
        why: the case that it is for.
        blocks: the values of constexpr parameters that it decides.
    """

    why: str
    blocks: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2


def launch(
    kernel: Any, grid: tuple[int, ...], config: Config, *args: Any, **constants: Any
) -> None:
    """Run a kernel on the device of its first argument; on an empty grid do nothing."""
    if 0 in grid:
        return
    first: Tensor = args[0]
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if first.is_cuda and first.get_device() != torch.cuda.current_device():
        with torch.cuda.device(first.device):
            kernel[grid](*args, **config.blocks, **constants, **options)
        return
    kernel[grid](*args, **config.blocks, **constants, **options)


def warp_groups() -> bool:
    """Tell whether tensor cores read shared memory: Hopper, data center Blackwell.

    Elsewhere their operands lie in registers, which leaves fewer for results.
    """
    if INTERPRETED:
        return True
    capability: int = triton.runtime.driver.active.get_current_target().arch
    return 90 <= capability < 120


def cdiv(size: int, block: int) -> int:
    """Return how many blocks cover ``size``."""
    return -(-size // block)


def dot_precision(dtype: torch.dtype) -> str:
    """Return how ``tl.dot`` multiplies float32, by torch's setting.

    Three products in tf32 are as precise as float32, and run on tensor cores.
    """
    if dtype is not torch.float32:
        return "ieee"
    exact = torch.get_float32_matmul_precision() == "highest"
    return "tf32x3" if exact else "tf32"
