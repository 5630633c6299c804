"""The gradient of attention: sizes, builds."""

from benchmarks.kernels.attention import FULL, HALF, SINGLE, builds, case
from jaxtorch.kernels.attention_backward import attention_backward

CASES = (
    case("attention_backward", 4, 2, 4096, 64, True),
    case("attention_backward", 4, 2, 4096, 128, False),
    case("attention_backward", 4, 2, 2048, 64, True, SINGLE),
)
BUILDS = (
    *builds(attention_backward, 4, 2, 64, HALF),
    *builds(attention_backward, 4, 2, 128, HALF),
    *builds(attention_backward, 4, 2, 256, HALF, small=FULL),
    *builds(attention_backward, 4, 2, 64, SINGLE),
    *builds(attention_backward, 4, 2, 128, SINGLE, small=FULL),
)
