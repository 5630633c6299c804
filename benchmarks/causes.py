"""Why a peer is faster than ``jit`` on a workload: what was measured, in words."""

PRODUCTS = (
    "products are {} % of jit's time (profiler), and torch's come from MKL, which "
    "reaches 94 GFLOP/s in float32 on one core of this processor; XLA reaches 200, and "
    "oneDNN 185 (2048 x 64 by 64 x 64: 177, 85 and 88 us)"
)
TANH = "; torch's tanh of 131,072 numbers takes 299 us, XLA's 60"
CALLS = (
    "{} calls of ATen from Python, at 0.6 to 1 us each, are the time; XLA makes a few "
    "loops of them, and is called once"
)

CAUSES: dict[str, str] = {
    "ggn-1": PRODUCTS.format(85) + TANH,
    "hvp-1": PRODUCTS.format(91) + TANH,
    "jacobian-wide-1024": PRODUCTS.format(84),
    "jacobian-bottleneck-512": PRODUCTS.format(85),
    "maml-25": (
        "618 calls of ATen on 25 x 10 x 40 numbers take 1.5 ms; of these 26 products "
        "of matrices take 0.29 ms and 8 tanh 0.18 ms; XLA makes a few loops of them"
    ),
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
    "jacobian-tridiagonal-4096": (
        "memory: 268 MB are alive at once, four times the result, since rows are "
        "scattered into zeros one term after the other; XLA writes the result once"
    ),
    "small-gradients": CALLS.format(5),
    "small-deep": CALLS.format(158),
    "small-hessian": CALLS.format(20),
    "small-dispatch": CALLS.format(6),
    "overhead-vmap-10": CALLS.format(10),
    "overhead-vmap-50": CALLS.format(50),
    "overhead-grad-10": CALLS.format(28),
    "overhead-grad-50": CALLS.format(148),
    "overhead-vmap-grad-10": CALLS.format(28),
    "overhead-vmap-grad-50": CALLS.format(148),
    "overhead-jvp-10": CALLS.format(30),
    "overhead-jvp-50": CALLS.format(150),
    "overhead-vmap-jacrev-1": CALLS.format(3),
    "overhead-vmap-jacrev-10": CALLS.format(25),
    "overhead-vmap-jacrev-50": CALLS.format(125),
    "overhead-vmap-hessian-1": CALLS.format(5),
    "overhead-vmap-hessian-10": CALLS.format(64),
    "overhead-vmap-hessian-50": CALLS.format(344),
}
