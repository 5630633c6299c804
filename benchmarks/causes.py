"""Why a peer is faster than ``jit`` on a workload: what was measured, in words."""

PRODUCTS = (
    "products of matrices, in oneDNN or MKL, are {} % of jit's time (each call timed); "
    "a call of oneDNN costs 20 us before it multiplies"
)
TANH = "; tanh of 16,384 numbers takes 26 us in oneDNN, 36 in ATen"
CALLS = (
    "{} calls of ATen from Python, at 0.6 to 1 us each, are the time; XLA makes a few "
    "loops of them, and is called once"
)

CAUSES: dict[str, str] = {
    "ggn-1": PRODUCTS.format(71) + TANH,
    "hvp-1": PRODUCTS.format(74) + TANH,
    "jacobian-wide-1024": PRODUCTS.format(94),
    "maml-25": (
        "618 calls of ATen on 25 x 10 x 40 numbers take 1.5 ms; of these 26 products "
        "of matrices take 0.29 ms and 8 tanh 0.18 ms; XLA makes a few loops of them"
    ),
    "laplacian-3": PRODUCTS.format(65),
    "hessian-batched-8": (
        "45 calls of ATen take 120 us; of these a batch of 256 products of 8 x 8 takes "
        "26 us; XLA makes a few loops of them"
    ),
    "hvp-50": PRODUCTS.format(55),
    "jacobian-tall-1024": PRODUCTS.format(87),
    "jacobian-tridiagonal-4096": (
        "the system clears 16,385 pages for the result of 67 MB in each call, which is "
        "more than half of the time (getrusage)"
    ),
    "lennard-jones-forces-343": (
        "gathers and scatters of 58,653 x 3 numbers by index are 75 % of jit's time "
        "(each call timed); ATen's index may be negative, which its faster calls refuse"
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
