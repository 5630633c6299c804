"""The gradient of attention: sizes, builds."""

from benchmarks.kernels.attention import HALF, SINGLE, build, case
from jaxtorch.kernels.attention_backward import attention_backward

CASES = (
    case("attention_backward", 4, 2, 4096, 64, True),
    case("attention_backward", 4, 2, 4096, 128, False),
    case("attention_backward", 4, 2, 2048, 64, True, SINGLE),
)
BUILDS = (
    build(attention_backward, 4, 2, 64, HALF),
    build(attention_backward, 4, 2, 128, HALF),
    build(attention_backward, 4, 2, 256, HALF),
    build(attention_backward, 4, 2, 64, SINGLE),
    build(attention_backward, 4, 2, 128, SINGLE),
)
