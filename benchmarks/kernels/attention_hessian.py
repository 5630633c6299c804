"""The second derivative of attention: sizes, builds."""

from benchmarks.kernels.attention import FULL, HALF, SINGLE, builds, case
from jaxtorch.kernels.attention_hessian import attention_hessian

CASES = (
    case("attention_hessian", 8, 4, 4096, 64, True),
    case("attention_hessian", 8, 4, 4096, 128, False),
    case("attention_hessian", 8, 4, 2048, 64, True, SINGLE),
)
BUILDS = (
    *builds(attention_hessian, 8, 4, 64, HALF),
    *builds(attention_hessian, 8, 4, 128, HALF, small=FULL),
    *builds(attention_hessian, 8, 4, 64, SINGLE, small=FULL),
)
