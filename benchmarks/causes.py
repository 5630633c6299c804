"""Why a peer is faster than ``jit`` on a workload: what was measured, in words."""

PRODUCTS = (
    "products are {} % of jit's time (profiler), and torch's come from MKL, which "
    "reaches 94 GFLOP/s in float32 on one core of this processor; XLA reaches 200, and "
    "oneDNN 185 (2048 x 64 by 64 x 64: 177, 85 and 88 us)"
)
TANH = "; torch's tanh of 131,072 numbers takes 299 us, XLA's 60"

CAUSES: dict[str, str] = {
    "ensemble-16": PRODUCTS.format(88),
    "ggn-1": PRODUCTS.format(85) + TANH,
    "hvp-1": PRODUCTS.format(91) + TANH,
    "jacobian-wide-1024": PRODUCTS.format(84),
    "jacobian-bottleneck-512": PRODUCTS.format(85),
    "ntk-32": PRODUCTS.format(99),
    "laplacian-3": PRODUCTS.format(54) + TANH,
    "laplacian-10": PRODUCTS.format(54) + TANH,
    "hessian-batched-8": (
        "42 calls of ATen at about 2 us each are half of the time, on 256 x 8 x 8 "
        "numbers; XLA makes a few loops of them"
    ),
    "hessian-single-512": PRODUCTS.format(81),
    "hessian-logistic-64": PRODUCTS.format(49),
    "hvp-50": PRODUCTS.format(88),
    "jacobian-tall-1024": PRODUCTS.format(68),
    "jacobian-elementwise-1024": (
        "jit chooses Inductor, whose one loop computes sin and cos anew in each of the "
        "1024 rows: 3131 us, against 485 us with backend='python'"
    ),
    "jacobian-tridiagonal-4096": (
        "memory: 268 MB are alive at once, four times the result, since rows are "
        "scattered into zeros one term after the other; XLA writes the result once"
    ),
}
