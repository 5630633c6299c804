"""Running a batched call in chunks and joining the results."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Run = Callable[[list[Any], int], tuple[list[Any], Any, list[Any]]]


def map_chunks(
    run: Run,
    leaves: Sequence[Any],
    dims: Sequence[Any],
    size: int,
    chunk_size: int,
    same_randomness: bool,
) -> tuple[list[Any], Any]:
    """Call ``run`` on slices of at most ``chunk_size`` examples; join along out_dims.

    Where every example must see the same random numbers the generators are set back
    before each chunk.
    """
    state = generator_states() if same_randomness else None
    pieces = []
    spec = flat_dims = None
    for start in range(0, size, chunk_size):
        if state is not None and start:
            restore_generators(state)
        length = min(chunk_size, size - start)
        chunk = [
            leaf if dim is None else leaf.narrow(dim, start, length)
            for leaf, dim in zip(leaves, dims, strict=True)
        ]
        outs, spec, flat_dims = run(chunk, length)
        pieces.append(outs)
    columns = zip(*pieces, strict=True)
    joined = [join(list(c), d) for c, d in zip(columns, flat_dims or [], strict=True)]
    return joined, spec


def join(pieces: list[Any], dim: int | None) -> Any:
    """Concatenate one output's pieces; an output that is not batched is the same."""
    if dim is None or not isinstance(pieces[0], Tensor):
        return pieces[0]
    return torch.cat(pieces, dim)


def generator_states() -> tuple[Tensor, list[Tensor]]:
    """Read the states of torch's default generators."""
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if on_cuda else []


def restore_generators(state: tuple[Tensor, list[Tensor]]) -> None:
    """Set the default generators back."""
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
