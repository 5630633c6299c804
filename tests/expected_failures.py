"""Laws that do not hold: operator, law, reason. Strict: a row that passes fails."""

from collections.abc import Iterable, Iterator

Row = tuple[str, str, str]


def rows(ops: Iterable[str], laws: Iterable[str], reason: str) -> Iterator[Row]:
    """Make the rows of several operators and laws that fail for one reason."""
    kinds = list(laws)
    for op in ops:
        for law in kinds:
            yield op, law, reason


DEPENDS_ON_VALUES = "the result's shape, or a branch, depends on the values"
NO_DERIVATIVE = "no derivative is known; the error says so"
STORAGE = (
    "reads its storage by absolute offset: under vmap the offset counts from the start "
    "of each example, as in torch.func"
)
CHUNKED = (
    "nn.functional.linear_cross_entropy.chunked",
    "nn.functional.linear_cross_entropy.chunked_none",
)
SEGMENTS = ("_segment_reduce.lengths", "_segment_reduce.offsets")
STRIDED = ("as_strided", "as_strided.partial_views", "as_strided_copy")
SHAPES = (
    "argwhere",
    "bincount",
    "nn.functional.one_hot",
    "nonzero",
    "unique",
    "unique_consecutive",
)

TABLE: tuple[Row, ...] = (
    *rows(SHAPES, ("batch",), DEPENDS_ON_VALUES),
    *rows(("masked_select",), ("batch", "vmap_vjp"), DEPENDS_ON_VALUES),
    *rows(
        ("nn.functional.gaussian_nll_loss",),
        ("batch", "vmap_vjp"),
        "branches on whether any variance is negative, as in torch.func",
    ),
    *rows(
        ("tensor_split",),
        ("batch", "vmap_vjp"),
        "a tensor of indices is read in C++, which needs its storage",
    ),
    *rows((*CHUNKED, *SEGMENTS), ("vjp", "transpose", "vmap_vjp"), NO_DERIVATIVE),
    *rows(("to_sparse",), ("vjp", "transpose", "vmap_vjp"), NO_DERIVATIVE),
    *rows(("to_sparse",), ("batch",), "each example stores its own number of elements"),
    *rows(STRIDED, ("batch", "vmap_vjp"), STORAGE),
    *rows(
        ("resize_", "resize_as_"),
        ("batch", "transpose"),
        "a tensor can't change its number of elements inside a transform",
    ),
    *rows(("as_strided_scatter",), ("batch",), STORAGE),
    *rows(
        ("as_strided_scatter",),
        ("vjp", "vmap_vjp"),
        "torch.autograd's derivative in the written-over tensor is not zero there",
    ),
    *rows(
        ("nn.functional.max_unpool3d",),
        ("transpose",),
        "indices that occur twice: the kernel keeps one, its backward serves both",
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
