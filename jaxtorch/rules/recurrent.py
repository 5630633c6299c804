"""Layers of recurrent networks that come as one fused call. Cells are composite."""

import torch
from torch import Tensor

from jaxtorch.rules.record import Record

aten = torch.ops.aten


def mkldnn_rnn_layer_decompose(
    x: Tensor,
    weight_input: Tensor,
    weight_hidden: Tensor,
    bias_input: Tensor,
    bias_hidden: Tensor,
    hidden: Tensor,
    cell: Tensor,
    reverse: bool,
    batch_sizes: list[int],
    mode: int,
    hidden_size: int,
    num_layers: int,
    has_biases: bool,
    bidirectional: bool,
    batch_first: bool,
    train: bool,
) -> tuple[Tensor, Tensor, Tensor, None]:
    """One direction of one layer of an LSTM, as ``torch.nn.LSTM`` defines it.

    ``c = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h = sigmoid(o) tanh(c)``, where ``i, f,
    g, o`` are the quarters of ``W_input x + W_hidden h + b``. ``x`` is ``[T, B, I]``
    also with ``batch_first``; the fourth output serves only the fused backward.
    """
    bias = bias_input + bias_hidden if has_biases else None
    steps = torch.nn.functional.linear(x, weight_input, bias).unbind()
    outs = []
    for step in reversed(steps) if reverse else steps:
        i, f, g, o = (step + hidden @ weight_hidden.t()).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outs.append(hidden)
    return torch.stack(outs[::-1] if reverse else outs), hidden, cell, None


RECORDS = [
    Record(aten.mkldnn_rnn_layer.default, decompose=mkldnn_rnn_layer_decompose),
]
