"""An ensemble of CNNs called at once: ``vmap`` over stacked weights.

Every model sees its own minibatch, then all see the same one; with ``functional_call``
on dicts of weights and with functorch's ``combine_state_for_ensemble``.

    python -m examples.ensembling [--tiny] [--models M]
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from examples.common import SmallCnn, agree, options, seconds
from jaxtorch import (
    combine_state_for_ensemble,
    functional_call,
    stack_module_state,
    vmap,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the ensemble with its models called one by one."""
    args = options(
        __doc__, argv, models=(10, 3), batch=(64, 2), size=(28, 8), width=(32, 2)
    )
    torch.manual_seed(0)
    models = [SmallCnn(args.size, args.width).requires_grad_(False)]
    models += [
        SmallCnn(args.size, args.width).requires_grad_(False)
        for _ in range(args.models - 1)
    ]
    minibatches = torch.randn(args.models, args.batch, 1, args.size, args.size)
    params, buffers = stack_module_state(models)

    def call(
        params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor
    ) -> Tensor:
        out: Tensor = functional_call(models[0], (params, buffers), x)
        return out

    def one_by_one() -> Tensor:
        pairs = zip(models, minibatches, strict=True)
        return torch.stack([model(own) for model, own in pairs])

    own = vmap(call)(params, buffers, minibatches)
    agree("each model on its own minibatch", own, one_by_one())
    shared = vmap(call, in_dims=(0, 0, None))(params, buffers, minibatches[0])
    expected = torch.stack([model(minibatches[0]) for model in models])
    agree("all models on the same minibatch", shared, expected)
    func, weights, rest = combine_state_for_ensemble(models)
    agree(
        "with combine_state_for_ensemble", vmap(func)(weights, rest, minibatches), own
    )
    loop = seconds(one_by_one)
    mapped = seconds(lambda: vmap(call)(params, buffers, minibatches))
    print(f"  {args.models} models: one by one {loop:.3f} s, vmap {mapped:.3f} s")


if __name__ == "__main__":
    main()
