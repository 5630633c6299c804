"""Per-sample gradients: their norms, their noise, and who influences whom."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

import jaxtorch
from examples.digits.data import Digits
from examples.digits.model import Params, logits, sample_loss
from examples.digits.report import Row, check


@dataclass(frozen=True)
class Influence:
    """What the per-sample gradients of the training set show.

    Attributes:
        norms: the norm of each training sample's gradient, shape [n].
        found: share of the wrong labels among as many samples of largest norm.
        target: index of the explained test image.
        helpful: training samples whose gradients agree most with the target's.
        harmful: those whose gradients oppose it most.
    """

    norms: Tensor
    found: float
    target: int
    helpful: Tensor
    harmful: Tensor


def per_sample_gradients(params: Params, images: Tensor, labels: Tensor) -> Tensor:
    """Return the flat gradient of each sample's loss, shape [n, parameters]."""
    mapped = jaxtorch.vmap(jaxtorch.grad(sample_loss), in_dims=(None, 0, 0))
    return flatten(mapped(params, images, labels))


def per_sample_gradients_by_loop(
    params: Params, images: Tensor, labels: Tensor
) -> Tensor:
    """The same with torch.autograd, one sample after the other."""
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    rows = []
    for image, label in zip(images, labels, strict=True):
        loss = sample_loss(leaves, image, label)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


def flatten(grads: Params) -> Tensor:
    """Join the gradients of all parameters into one row per sample."""
    return torch.cat([g.flatten(1) for g in grads.values()], 1)


def noise_scale(gradients: Tensor) -> float:
    """Return trace(covariance) / |mean|^2: about the useful size of a batch.

    Source: McCandlish et al., An Empirical Model of Large-Batch Training, 2018.
    """
    mean = gradients.mean(0)
    spread = (gradients - mean).square().sum() / (len(gradients) - 1)
    return (spread / mean.square().sum()).item()


def gradients_in_chunks(
    params: Params,
    digits: Digits,
    progress: Callable[[Iterable[int]], Iterable[int]],
    chunk: int = 256,
) -> Tensor:
    """Return the gradients of the whole training set."""
    starts = progress(range(0, len(digits.labels), chunk))
    return torch.cat(
        [
            per_sample_gradients(
                params,
                digits.images[start : start + chunk],
                digits.labels[start : start + chunk],
            )
            for start in starts
        ]
    )


def explain(params: Params, digits: Digits, gradients: Tensor) -> Influence:
    """Rank the training samples by self-influence and by influence on a test image.

    The self-influence of a sample is the squared norm of its gradient; its influence on
    another is their inner product, here divided by the norms. Source: Pruthi et al.,
    Estimating Training Data Influence by Tracing Gradient Descent, 2020.
    """
    norms = gradients.norm(dim=1)
    wrong = int(digits.wrong.sum())
    suspects = norms.topk(wrong).indices
    found = digits.wrong[suspects].float().mean().item()
    scores = logits(params, digits.test_images)
    losses = torch.nn.functional.cross_entropy(
        scores, digits.test_labels, reduction="none"
    )
    target = int(losses.argmax())
    own = per_sample_gradients(
        params, digits.test_images[target, None], digits.test_labels[target, None]
    )[0]
    agreement = gradients @ own / (norms * own.norm() + 1e-12)
    count = min(5, len(norms) // 2)
    return Influence(
        norms=norms,
        found=found,
        target=target,
        helpful=agreement.topk(count).indices,
        harmful=(-agreement).topk(count).indices,
    )


def study(
    start: Params,
    params: Params,
    digits: Digits,
    sample: int,
    progress: Callable[[Iterable[int]], Iterable[int]],
) -> tuple[Influence, list[Row]]:
    """Check the gradients of ``sample`` images, then study those of all."""
    images, labels = digits.images[:sample], digits.labels[:sample]
    before = noise_scale(per_sample_gradients(start, images, labels))
    gradients = gradients_in_chunks(params, digits, progress)
    influence = explain(params, digits, gradients)
    finding = (
        f"noise scale {before:.1f} -> {noise_scale(gradients):.0f}; "
        f"{influence.found:.0%} of the {int(digits.wrong.sum())} wrong labels have the "
        "largest norms"
    )
    row = check(
        f"per-sample gradients, {sample} images",
        finding,
        lambda: per_sample_gradients(params, images, labels),
        lambda: per_sample_gradients_by_loop(params, images, labels),
    )
    return influence, [row]
