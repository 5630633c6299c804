"""Errors of PyTorch that speak of its inner workings, told in the user's terms."""

from jaxtorch.errors import UsageError, explain

REWORDED = {
    "its data is not allocated yet": (
        "an operator read the numbers of a tensor of this transform in C++, where it "
        "has none; torch.tensor([x, y]) of tensors does, and tensor_split with a "
        "tensor of indices.",
        "join tensors with torch.stack; pass Python numbers (a list of ints), or a "
        "tensor made outside",
    ),
    "There was no rule registered for HigherOrderOperator": (
        "PyTorch's operators on functions (torch.cond, flex_attention) can't run under "
        "a transform.",
        "use jaxtorch.cond, while_loop, scan or map; scaled_dot_product_attention with "
        "attn_mask",
    ),
}


def reworded(transform: str, error: BaseException) -> UsageError | None:
    """Return the error to raise in the place of one that came out of PyTorch."""
    if isinstance(error, RuntimeError):  # NotImplementedError is one
        text = str(error)
        for part, (what, fix) in REWORDED.items():
            if part in text:
                return UsageError(explain(transform, what, fix))
    return None
