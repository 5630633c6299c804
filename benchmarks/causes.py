"""Why a peer is faster than ``jit`` on a workload, in words; figures are measured.

The report prints beside them where ``jit``'s time goes, of the run that it reports.
"""

UNKNOWN = "not known"
PAGES = (
    "the result is new memory, whose pages the system clears in each call; that is "
    "most of the time, and the same for everyone up to what the allocator keeps"
)
PRODUCTS = (
    "most of the time is in products of matrices, in oneDNN or MKL, and not in what "
    "jit writes"
)
CALLS = (
    "calls of ATen that are no loops: products and views of tiny matrices, each a call "
    "from Python; XLA makes one program of them"
)
ENTRY = (
    "the loops are one program in C; what is left is the call itself, in Python: the "
    "arguments are checked and the results are allocated there"
)

CAUSES: dict[str, str] = {
    "dp-sgd-cnn-64": PRODUCTS,
    "ggn-1": PRODUCTS,
    "hvp-1": PRODUCTS,
    "hvp-50": PRODUCTS
    + "; tanh's derivative and the sums around the products are passes over memory",
    "jacobian-arm-4096": (
        "sines and cosines of 7 x 4096 angles and what is made of them are loops in C "
        "on one thread; torch.compile's run on all"
    ),
    "jacobian-wide-1024": PRODUCTS,
    "jacobian-tall-1024": PRODUCTS,
    "jacobian-tridiagonal-1024": PAGES,
    "jacobian-tridiagonal-4096": PAGES,
    "laplacian-3": PRODUCTS,
    "lennard-jones-forces-343": (
        "gathers and scatters of 58,653 x 3 numbers by index; ATen's index may be "
        "negative, which its faster calls refuse"
    ),
    "hessian-batched-8": CALLS,
    "maml-25": CALLS,
    "optimizer-diagonal": (
        "sin and cos of 4096 numbers are the time on both sides; compiled loops and "
        "ATen's need as long for them"
    ),
    "optimizer-factorization": (
        "both clear and fill a tensor of 0.9 MB; jit's call has its arguments checked "
        "besides"
    ),
    "per-sample-gradients-mlp-256": PAGES,
    "per-sample-gradients-batch-256": PAGES,
    "per-sample-gradients-width-1024": PAGES,
    "per-sample-norms-batch-16": CALLS,
    "per-sample-norms-batch-256": PRODUCTS,
    "small-deep": ENTRY,
    "small-dispatch": ENTRY,
    "small-gradients": ENTRY,
    "small-hessian": ENTRY,
    "small-jacobian": PRODUCTS,
    **{
        f"overhead-{what}-{length}": ENTRY
        for what in ("vmap", "grad", "vmap-grad", "jvp", "vmap-jacrev", "vmap-hessian")
        for length in (1, 10, 50)
    },
}
