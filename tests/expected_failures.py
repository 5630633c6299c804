"""Laws that do not hold: operator, law, reason. Strict: a row that passes fails."""

from collections.abc import Iterable, Iterator

Row = tuple[str, str, str]


def rows(ops: Iterable[str], laws: Iterable[str], reason: str) -> Iterator[Row]:
    """Make the rows of several operators and laws that fail for one reason."""
    kinds = list(laws)
    for op in ops:
        for law in kinds:
            yield op, law, reason


BATCHING = ("batch", "rule", "sizes", "vmap_vmap")
BATCHED_DERIVATIVES = ("vmap_vjp", "vmap_jvp", "vjp_vmap", "autograd_vmap")
UNSAFE_SHAPES = (
    "argwhere",
    "bincount",
    "nn.functional.one_hot",
    "nonzero",
    "unique",
    "unique_consecutive",
)
STRIDED = ("as_strided", "as_strided.partial_views", "as_strided_copy")
CHUNKED = (
    "nn.functional.linear_cross_entropy.chunked",
    "nn.functional.linear_cross_entropy.chunked_none",
)
UNPOOLED = tuple(f"nn.functional.max_unpool{rank}d" for rank in (1, 2, 3))
NORMAL = ("normal", "normal.number_mean", "direct:normal.float_Tensor")

VALUES = "the result's shape, or a branch, depends on the values of the batch"
STORAGE = "names places in the storage that are no elements of the tensor; refused"
RESIZE = "a tensor can't change its number of elements inside a transform"
OVERWRITTEN = "torch.autograd's derivative is not zero where it was overwritten"
TWICE = "indices that occur twice: the kernel keeps one, its backward serves both"
GAMMA = "the derivative of a draw is implicit: PyTorch has only the first"

TABLE: tuple[Row, ...] = (
    *rows(UNSAFE_SHAPES, BATCHING, VALUES),
    *rows(("item",), ("sizes", "vmap_vmap"), VALUES),
    *rows(("masked_select", "repeat_interleave"), BATCHING, VALUES),
    *rows(("masked_select", "repeat_interleave"), BATCHED_DERIVATIVES, VALUES),
    *rows(
        ("narrow",),
        (*BATCHING, *BATCHED_DERIVATIVES),
        "a start in a batched tensor is read as a number",
    ),
    *rows(
        ("tensor_split",),
        (*BATCHING, *BATCHED_DERIVATIVES),
        "a tensor of indices is read in C++, which needs its storage",
    ),
    *rows(
        ("nn.functional.gaussian_nll_loss",),
        (*BATCHING, *BATCHED_DERIVATIVES),
        "branches on whether any variance is negative, as in torch.func",
    ),
    *rows(
        ("nn.functional.ctc_loss",),
        ("vmap_vmap",),
        "lengths are read as numbers; one level of batched ones is looped over",
    ),
    *rows(
        ("istft",),
        ("sizes",),
        "asks torch.equal whether the window is zero: of an empty batch all is true",
    ),
    *rows(
        CHUNKED,
        ("jvp_vjp", "vjp_vjp", "autograd_vjp"),
        "torch.autograd counts the gradients that the kernel computes as constants",
    ),
    *rows(STRIDED, (*BATCHING, *BATCHED_DERIVATIVES), STORAGE),
    *rows(
        STRIDED[1:2],
        (
            "vjp",
            "transpose",
            "vmap_pull",
            "linearize",
            "jvp_vjp",
            "vjp_vjp",
            "autograd_vjp",
        ),
        STORAGE,
    ),
    *rows(("as_strided_scatter",), BATCHING, STORAGE),
    *rows(("as_strided_scatter",), ("vmap_jvp",), STORAGE),
    *rows(
        ("as_strided_scatter",),
        ("vjp", "jvp_vjp", "vmap_vjp", "vjp_vmap", "autograd_vmap"),
        OVERWRITTEN,
    ),
    *rows(("resize_", "resize_as_"), BATCHING, RESIZE),
    *rows(
        ("resize_", "resize_as_"),
        ("transpose", "difference", "linearize", "vmap_jvp"),
        RESIZE,
    ),
    *rows(UNPOOLED, ("transpose", "vjp_vjp", "autograd_vjp"), TWICE),
    *rows(
        ("nn.functional.embedding",),
        ("difference",),
        "the row padding_idx is a constant by definition",
    ),
    *rows(
        ("nn.functional.embedding",),
        ("autograd_vjp",),
        "scale_grad_by_freq scales the pull-back only, which is then no transpose",
    ),
    *rows(
        ("nn.functional.embedding_bag",),
        ("difference",),
        "max_norm scales rows by a factor that counts as a constant",
    ),
    *rows(NORMAL, ("difference",), "PyTorch's derivative of a normal draw is zero"),
    *rows(
        ("direct:_standard_gamma",),
        ("difference", "jvp_vjp", "vjp_vjp", "autograd_vjp"),
        GAMMA,
    ),
    *rows(
        ("native_layer_norm",),
        ("autograd_vjp",),
        "torch.autograd fails on its kernel with a bias and no weight",
    ),
)


def index(table: Iterable[Row]) -> dict[tuple[str, str], str]:
    """Index the rows; the same row twice is an error."""
    found: dict[tuple[str, str], str] = {}
    for op, law, reason in table:
        if (op, law) in found:
            raise ValueError(f"two rows for {op}, {law}")
        found[op, law] = reason
    return found


EXPECTED = index(TABLE)
