"""The second derivative of attention: sizes, builds."""

from benchmarks.kernels.attention import HALF, SINGLE, build, case
from jaxtorch.kernels.attention_hessian import attention_hessian

CASES = (
    case("attention_hessian", 8, 4, 4096, 64, True),
    case("attention_hessian", 8, 4, 4096, 128, False),
    case("attention_hessian", 8, 4, 2048, 64, True, SINGLE),
)
BUILDS = (
    build(attention_hessian, 8, 4, 64, HALF),
    build(attention_hessian, 8, 4, 128, HALF),
    build(attention_hessian, 8, 4, 64, SINGLE),
)
