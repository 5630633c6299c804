"""Connectionist temporal classification (Graves et al. 2006): ctc_loss.

PyTorch's backward kernel adds ``exp(log_probs)`` to the gradient, which makes no
difference behind a log_softmax. Here that term is taken off again, so that the
derivative is the one of the loss as a function of ``log_probs``.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.operator import General, Output
from jaxtorch.rules.batching import batched_at_front, tracked
from jaxtorch.rules.record import Record

aten = torch.ops.aten
forward = aten._ctc_loss.default
forward_by_tensor = aten._ctc_loss.Tensor
kernel = aten._ctc_loss_backward.default
kernel_by_tensor = aten._ctc_loss_backward.Tensor
IMPOSSIBLE = -1e30


def samples_of_all(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Fold the batch dim into the samples, dim 1 of [time, samples, classes]."""
    if dim is None:
        x = x.unsqueeze(1).expand(-1, size, *x.shape[1:])
    else:
        x = x.movedim(dim, 1)
    return x.flatten(1, 2)


def ctc_batch(
    size: int,
    dims: Any,
    x: Tensor,
    targets: Tensor,
    times: Any,
    lengths: Any,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Any:
    """Fold the batch dim into the samples."""
    samples = x.shape[-2]
    if size == 0:
        return (x.new_zeros(0, samples), x.new_zeros(0, samples, 0, 0)), 0
    nll, alpha = forward(
        samples_of_all(x, dims[0], size),
        *targets_of_all(size, dims, targets, times, lengths),
        blank,
        zero_infinity,
    )
    split = (size, samples)
    return (nll.unflatten(0, split), alpha.unflatten(0, split)), 0


def targets_of_all(
    size: int, dims: Any, targets: Tensor, times: Any, lengths: Any
) -> tuple[Tensor, list[int], list[int]]:
    """Return targets and lengths of all samples of all examples.

    Lengths given as tensors may differ between the examples. ``dims`` starts as in the
    call of ctc_loss.
    """
    targets = batched_at_front(targets, dims[1], size)
    if not isinstance(times, Tensor):
        return targets.flatten(0, 1), list(times) * size, list(lengths) * size
    rows: list[list[int]] = batched_at_front(lengths, dims[3], size).tolist()
    every: list[int] = batched_at_front(times, dims[2], size).flatten().tolist()
    own = [n for row in rows for n in row]
    if targets.dim() > 2:
        return targets.flatten(0, 1), every, own
    starts = [
        b * targets.shape[1] + sum(row[:n])
        for b, row in enumerate(rows)
        for n in range(len(row))
    ]
    return padded(targets.flatten(), starts, max(own, default=0)), every, own


def ctc_linearize(
    wanted: Any,
    x: Tensor,
    targets: Tensor,
    times: Any,
    lengths: Any,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Any:
    """``d nll = -sum posterior(time, class) dx``."""
    rest = (targets, times, lengths)
    call = forward_by_tensor if isinstance(times, Tensor) else forward
    nll, alpha = call(x, *rest, blank, zero_infinity)

    def slope() -> Tensor:
        ones = torch.ones_like(nll)
        pulled = backward(ones, x, *rest, nll, alpha, blank, zero_infinity)
        kept = running(x, times)
        if zero_infinity:
            kept = kept & (nll < torch.inf).unsqueeze(1)
        return torch.where(kept, pulled - torch.exp(x), 0)

    def apply(t: Tensor) -> Tensor:
        return torch.sum(slope() * t, [0, 2])

    def transpose(c: Tensor) -> Tensor:
        return slope() * c.unsqueeze(1)

    return (nll, alpha), (Output(General(apply, transpose), 0, 2),)


def running(x: Tensor, times: Any) -> Tensor:
    """Return a mask [time, sample, 1] of the times before the end of each sample."""
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return (steps < torch.as_tensor(times, device=x.device)).unsqueeze(2)


def backward(g: Tensor, x: Tensor, *rest: Any) -> Tensor:
    """The kernel, or plain operators where torch.autograd asks for a derivative."""
    if tracked(g, x):
        return ctc_backward_decompose(g, x, *rest)
    call = kernel_by_tensor if isinstance(rest[1], Tensor) else kernel
    return call(g, x, *rest)  # type: ignore[no-any-return]


def ctc_backward_batch(
    size: int,
    dims: Any,
    g: Tensor,
    x: Tensor,
    targets: Tensor,
    times: Any,
    lengths: Any,
    nll: Tensor,
    alpha: Tensor,
    blank: int,
    zero_infinity: bool = False,
) -> Any:
    """Fold the batch dim into the samples."""
    samples = x.shape[-2]
    if size == 0:
        return batched_at_front(x, dims[1], size), 0
    g, nll, alpha = (
        batched_at_front(t, d, size).flatten(0, 1)
        for t, d in ((g, dims[0]), (nll, dims[5]), (alpha, dims[6]))
    )
    out = backward(
        g,
        samples_of_all(x, dims[1], size),
        *targets_of_all(size, dims[1:], targets, times, lengths),
        nll,
        alpha,
        blank,
        zero_infinity,
    )
    return out.unflatten(1, (size, samples)), 1


def ctc_backward_decompose(
    g: Tensor,
    x: Tensor,
    targets: Tensor,
    times: Any,
    lengths: Any,
    nll: Tensor,
    alpha: Tensor,
    blank: int,
    zero_infinity: bool = False,
) -> Tensor:
    """The kernel by the forward-backward algorithm in plain operators.

    ``nll`` and ``alpha`` are computed anew, so all depends on ``x`` alone.
    """
    if isinstance(times, Tensor):
        times, lengths = times.tolist(), lengths.tolist()
    labels = extended(targets, lengths, blank, x)
    emit = torch.gather(x, 2, labels.expand(x.shape[0], *labels.shape))
    samples, states = labels.shape
    state = torch.arange(states, device=x.device)
    end = 2 * torch.tensor(lengths, device=x.device).unsqueeze(1)
    skip = (state >= 2) & (labels != blank) & (labels != torch.roll(labels, 2, 1))
    alphas = sweep(emit, torch.where((state < 2) & (state <= end), 0, IMPOSSIBLE), skip)
    live = running(x, times)
    last = torch.where((state == end) | (state == end - 1), 0, IMPOSSIBLE)
    betas = sweep_back(emit, last, skip, times)
    total = torch.logsumexp(alphas[0] + betas[0] - emit[0], 1)
    possible = (total > IMPOSSIBLE / 2).unsqueeze(1)
    total = torch.where(possible, total.unsqueeze(1), 0)
    joint = torch.exp(torch.stack(alphas) + torch.stack(betas) - emit - total)
    joint = torch.where(live, joint, 0)
    place = labels.expand(x.shape[0], samples, states)
    posterior = torch.scatter_add(torch.zeros_like(x), 2, place, joint)
    slope = torch.where(live, torch.exp(x) - posterior, 0)
    if zero_infinity:
        slope = torch.where(possible, slope, 0)
    return slope * g.unsqueeze(1)


def extended(targets: Tensor, lengths: Any, blank: int, x: Tensor) -> Tensor:
    """Return the labels of each sample with blanks between them and around."""
    samples, longest = len(lengths), max(lengths, default=0)
    if targets.dim() == 1:
        starts = [sum(lengths[:n]) for n in range(samples)]
        targets = padded(targets, starts, longest)
    targets = targets[:, :longest].to(torch.int64)
    position = torch.arange(longest, device=x.device)
    inside = position < torch.tensor(lengths, device=x.device).unsqueeze(1)
    targets = torch.where(inside, targets, blank)
    pairs = torch.stack([torch.full_like(targets, blank), targets], 2).flatten(1)
    return torch.cat([pairs, torch.full_like(pairs[:, :1], blank)], 1)


def padded(targets: Tensor, starts: list[int], longest: int) -> Tensor:
    """Cut the targets of every sample out of all of them in a row."""
    place = torch.tensor(starts, device=targets.device).unsqueeze(1)
    place = place + torch.arange(longest, device=targets.device)
    place = torch.clamp(place, 0, max(targets.shape[0] - 1, 0))
    return torch.index_select(targets, 0, place.flatten()).reshape(-1, longest)


def moved(x: Tensor, by: int) -> Tensor:
    """Move the states on, filling in what is impossible."""
    fill = torch.full_like(x[:, : abs(by)], IMPOSSIBLE)
    if by > 0:
        return torch.cat([fill, x], 1)[:, : x.shape[1]]
    return torch.cat([x, fill], 1)[:, -x.shape[1] :]


def arrive(before: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Add the probabilities of staying, of one step and of a skip."""
    return torch.logsumexp(torch.stack([before, near, far]), 0)


def sweep(emit: Tensor, start: Tensor, skip: Tensor) -> list[Tensor]:
    """Return the log probabilities of each state with all before it, per time."""
    alphas = [emit[0] + start]
    for t in range(1, emit.shape[0]):
        old = alphas[-1]
        far = torch.where(skip, moved(old, 2), IMPOSSIBLE)
        alphas.append(emit[t] + arrive(old, moved(old, 1), far))
    return alphas


def sweep_back(emit: Tensor, last: Tensor, skip: Tensor, times: Any) -> list[Tensor]:
    """Return the log probabilities of each state with all after it, per time."""
    ends = torch.tensor(times, device=emit.device).unsqueeze(1) - 1
    steps = emit.shape[0]
    betas = [emit[steps - 1] + last]
    for t in range(steps - 2, -1, -1):
        old = betas[-1]
        far = moved(torch.where(skip, old, IMPOSSIBLE), -2)
        onward = arrive(old, moved(old, -1), far)
        betas.append(emit[t] + torch.where(ends > t, onward, last))
    return betas[::-1]


RECORDS = (
    Record(forward, ctc_batch, ctc_linearize),
    Record(forward_by_tensor, ctc_batch, ctc_linearize),
    Record(kernel, ctc_backward_batch, decompose=ctc_backward_decompose),
    Record(kernel_by_tensor, ctc_backward_batch, decompose=ctc_backward_decompose),
)
