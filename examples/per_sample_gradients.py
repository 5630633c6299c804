"""Per-sample gradients of a CNN: ``vmap(grad(loss))`` instead of a loop over samples.

Each gradient equals the one that a separate backward pass would give; all of them come
from one batched computation. Prints both times.

    python -m examples.per_sample_gradients [--tiny] [--batch N]
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from examples.common import SmallCnn, agree, options, seconds
from jaxtorch import functional_call, grad, vmap

Params = dict[str, Tensor]


def gradients_by_loop(model: nn.Module, images: Tensor, labels: Tensor) -> Params:
    """One backward pass per sample; leaves of shape ``[B, *param.shape]``."""
    rows = []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        loss = nn.functional.cross_entropy(model(image), label)
        rows.append(torch.autograd.grad(loss, list(model.parameters())))
    names = [name for name, _ in model.named_parameters()]
    columns = zip(*rows, strict=True)
    return {n: torch.stack(c) for n, c in zip(names, columns, strict=True)}


def gradients_by_vmap(model: nn.Module, images: Tensor, labels: Tensor) -> Params:
    """The same in one call."""

    def loss(params: Params, image: Tensor, label: Tensor) -> Tensor:
        scores = functional_call(model, params, image.unsqueeze(0))
        return nn.functional.cross_entropy(scores, label.unsqueeze(0))

    params = {name: p.detach() for name, p in model.named_parameters()}
    per_sample: Params = vmap(grad(loss), in_dims=(None, 0, 0))(params, images, labels)
    return per_sample


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the two ways."""
    args = options(__doc__, argv, batch=(64, 3), size=(28, 8), width=(32, 2))
    torch.manual_seed(0)
    model = SmallCnn(args.size, args.width)
    images = torch.randn(args.batch, 1, args.size, args.size)
    labels = torch.randint(10, (args.batch,))
    by_vmap = gradients_by_vmap(model, images, labels)
    by_loop = gradients_by_loop(model, images, labels)
    agree("gradients by vmap and by a loop", by_vmap, by_loop)
    loop = seconds(lambda: gradients_by_loop(model, images, labels), 1)
    mapped = seconds(lambda: gradients_by_vmap(model, images, labels), 1)
    print(f"  {args.batch} samples: loop {loop:.3f} s, vmap {mapped:.3f} s")


if __name__ == "__main__":
    main()
