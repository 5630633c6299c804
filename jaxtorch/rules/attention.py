"""Attention: fused kernels under vmap, the mathematical form for derivatives.

The mathematical form is ``softmax(scale q k^T + mask) v`` (Vaswani et al. 2017), whose
matrix products and softmax have derivatives of every order.
"""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.rules import fast
from jaxtorch.rules.batching import batched_at_front
from jaxtorch.rules.planes import fold, unfold
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return ``softmax(scale q k^T + mask) v`` for [*, heads, length, features].

    Half precision is computed in single precision, as the kernels do. A query that may
    look at nothing gives zeros.
    """
    if query.dim() > 3 and key.shape[-3] != query.shape[-3]:
        key, value = share_heads(key, query), share_heads(value, query)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    if dropout_p == 0:
        out = fast.attention(query, key, value, mask, is_causal, scale)
        if out is not None:
            return out
    dtype = query.dtype
    if dtype in (torch.float16, torch.bfloat16):
        query, key, value = query.float(), key.float(), value.float()
    scores = torch.matmul(query * scale, key.mT)
    if is_causal:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = torch.where(ones.tril(), scores, -torch.inf)
    if mask is None:
        weights = torch.softmax(scores, -1)
    elif mask.dtype is torch.bool:
        weights = masked_softmax(torch.where(mask, scores, -torch.inf))
    else:
        weights = masked_softmax(scores + mask)
    if dropout_p > 0:
        weights = torch.dropout(weights, dropout_p, True)
    return torch.matmul(weights, value).to(dtype)


def masked_softmax(scores: Tensor) -> Tensor:
    """Softmax that gives zeros where a whole row is -inf, without a NaN on the way."""
    empty = torch.all(scores == -torch.inf, -1, True)
    weights = torch.softmax(torch.where(empty, 0.0, scores), -1)
    return torch.where(empty, 0.0, weights)


def share_heads(x: Tensor, query: Tensor) -> Tensor:
    """Repeat each head of keys or values for its group of query heads."""
    count = query.shape[-3] // x.shape[-3]
    shape = (*x.shape[:-2], count, *x.shape[-2:])
    return x.unsqueeze(-3).expand(shape).flatten(-4, -3)


def last_dense(x: Tensor) -> Tensor:
    """Lay the features side by side, as the kernel reads them without a check."""
    return x if x.stride(-1) == 1 else x.contiguous()


def cpu_flash_batch(
    size: int,
    dims: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> Any:
    """Fold the examples into N; a mask that differs along N is repeated."""
    overload = aten._scaled_dot_product_flash_attention_for_cpu.default
    parts = zip((query, key, value), dims, strict=False)
    folded = [last_dense(fold(x, d, size, 2)) for x, d in parts]
    mask = attn_mask
    if mask is not None and mask.dim() == 4 and mask.shape[0] != 1:
        mask = batched_at_front(mask, None, size).flatten(0, 1)
    out = overload(*folded, dropout_p, is_causal, attn_mask=mask, scale=scale)
    return unfold(out, query, dims[0], size, 2), 0


def cpu_flash_decompose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, None]:
    """The mathematical form; the second output serves only the fused backward."""
    out = attend(query, key, value, attn_mask, dropout_p, is_causal, scale)
    return out, None


def biased_decompose(overload: OpOverload) -> Record:
    """Make the record of a fused kernel ``(q, k, v, bias, compute_log_sumexp, ...)``.

    Only the first of its outputs is an output of attention.
    """

    def decompose(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        compute_log_sumexp: bool,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        return_debug_mask: bool = False,
        *,
        scale: float | None = None,
    ) -> Any:
        out = attend(query, key, value, bias, dropout_p, is_causal, scale)
        return out, *padding(overload)

    return Record(overload, decompose=decompose)


def padding(overload: OpOverload) -> list[Any]:
    """Return what stands for the outputs of a fused kernel that its backward reads."""
    kinds = [str(r.type) for r in overload._schema.returns[1:]]
    return [None if kind == "Tensor" else 0 for kind in kinds]


def gpu_flash_decompose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> Any:
    """The mathematical form."""
    out = attend(query, key, value, None, dropout_p, is_causal, scale)
    return out, *padding(aten._scaled_dot_product_flash_attention.default)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Turn [N, length, E] into [N, heads, length, E / heads]."""
    return torch.unflatten(x, -1, (heads, x.shape[-1] // heads)).transpose(1, 2)


def mask_scores(mask: Tensor, mask_type: int | None) -> Tensor:
    """Broadcast the mask of the fast paths to [N, heads, L, S]; True forbids."""
    if mask.dtype is not torch.bool:
        mask = mask != 0
    if mask_type == 1 and mask.dim() == 2:
        return mask[:, None, None, :]
    return mask


def native_multi_head_attention_decompose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The fast path of ``nn.MultiheadAttention``, step by step."""
    linear = torch.nn.functional.linear
    weights = torch.chunk(qkv_weight, 3)
    biases = torch.chunk(qkv_bias, 3)
    q, k, v = (
        split_heads(linear(x, w, b), num_head)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.mT)
    if mask is not None:
        scores = torch.where(mask_scores(mask, mask_type), -torch.inf, scores)
    attention = torch.softmax(scores, -1)
    mixed = torch.matmul(attention, v).transpose(1, 2).flatten(2)
    out = linear(mixed, proj_weight, proj_bias)
    if not need_weights:
        return out, None
    return out, attention.mean(1) if average_attn_weights else attention


def transformer_encoder_layer_decompose(
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """The fast path of ``nn.TransformerEncoderLayer``, step by step."""
    functional = torch.nn.functional
    activation = functional.gelu if use_gelu else functional.relu

    def attention(x: Tensor) -> Tensor:
        return native_multi_head_attention_decompose(
            *(x, x, x, embed_dim, num_heads),
            *(qkv_weight, qkv_bias, proj_weight, proj_bias),
            mask,
            False,
            mask_type=mask_type,
        )[0]

    def feed_forward(x: Tensor) -> Tensor:
        hidden = activation(functional.linear(x, ffn_weight_1, ffn_bias_1))
        return functional.linear(hidden, ffn_weight_2, ffn_bias_2)

    def norm_1(x: Tensor) -> Tensor:
        return torch.layer_norm(x, [embed_dim], norm_weight_1, norm_bias_1, eps)

    def norm_2(x: Tensor) -> Tensor:
        return torch.layer_norm(x, [embed_dim], norm_weight_2, norm_bias_2, eps)

    if norm_first:
        x = src + attention(norm_1(src))
        return x + feed_forward(norm_2(x))
    x = norm_1(src + attention(src))
    return norm_2(x + feed_forward(x))


RECORDS = (
    Record(
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        cpu_flash_batch,
        decompose=cpu_flash_decompose,
    ),
    biased_decompose(aten._scaled_dot_product_efficient_attention.default),
    biased_decompose(aten._scaled_dot_product_cudnn_attention.default),
    Record(
        aten._scaled_dot_product_flash_attention.default,
        decompose=gpu_flash_decompose,
    ),
    Record(
        aten._native_multi_head_attention.default,
        decompose=native_multi_head_attention_decompose,
    ),
    Record(
        aten._transformer_encoder_layer_fwd.default,
        decompose=transformer_encoder_layer_decompose,
    ),
)
