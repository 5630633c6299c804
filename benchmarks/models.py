"""The networks of the benchmarks: as modules for torch, as formulas for JAX."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Array, Library, Params, jax

HEADS = 4


def mlp(widths: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Return linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def mlp_formula(np: Any, params: Params, x: Array) -> Array:
    """Return what ``mlp`` does, with tanh."""
    layers = sorted(int(name.partition(".")[0]) for name in params if "weight" in name)
    for layer in layers:
        x = x @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]
        x = np.tanh(x) if layer != layers[-1] else x
    return x


def cnn(side: int, channels: int) -> nn.Sequential:
    """Return a network for images of ``side`` x ``side``, with group normalization."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.GroupNorm(4, channels),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
        nn.GroupNorm(4, 2 * channels),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * channels * (side // 2) ** 2, 10),
    )


def cnn_formula(np: Any, params: Params, x: Array) -> Array:
    """Return what ``cnn`` does."""

    def convolve(x: Array, layer: int, stride: int) -> Array:
        weight, bias = params[f"{layer}.weight"], params[f"{layer}.bias"]
        strides, padding = (stride, stride), ((1, 1), (1, 1))
        x = jax.lax.conv_general_dilated(x, weight, strides, padding)
        return x + bias[:, None, None]

    def normalize(x: Array, layer: int) -> Array:
        groups = x.reshape(x.shape[0], 4, -1)
        mean = groups.mean(-1, keepdims=True)
        variance = groups.var(-1, keepdims=True)
        x = ((groups - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
        weight, bias = params[f"{layer}.weight"], params[f"{layer}.bias"]
        return x * weight[:, None, None] + bias[:, None, None]

    x = jax.nn.relu(normalize(convolve(x, 0, 1), 1))
    x = jax.nn.relu(normalize(convolve(x, 3, 2), 4))
    x = x.reshape(x.shape[0], -1)
    return x @ params["7.weight"].T + params["7.bias"]


class Block(nn.Module):
    """A transformer block and a linear head on the mean over the sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [batch, 10] of sequences [batch, length, width]."""
        x = x + self.out(self.attend(self.qkv(self.norm1(x))))
        x = x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return self.head(x.mean(-2))

    def attend(self, qkv: Tensor) -> Tensor:
        """Return what the heads have read."""
        heads = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        return read.transpose(1, 2).flatten(2)


def block_formula(np: Any, params: Params, x: Array) -> Array:
    """Return what ``Block`` does."""

    def linear(x: Array, name: str) -> Array:
        return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]

    def normalize(x: Array, name: str) -> Array:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
        return x * params[f"{name}.weight"] + params[f"{name}.bias"]

    batch, length, width = x.shape
    qkv = linear(normalize(x, "norm1"), "qkv")
    q, k, v = np.moveaxis(qkv.reshape(batch, length, 3, HEADS, -1), 2, 0)
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(width // HEADS)
    read = np.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    x = x + linear(read.reshape(x.shape), "out")
    x = x + linear(jax.nn.gelu(linear(normalize(x, "norm2"), "up")), "down")
    return linear(x.mean(-2), "head")


def cross_entropy(lib: Library, logits: Array, labels: Array) -> Array:
    """Return the mean cross entropy of logits [batch, classes]."""
    if lib.np is torch:
        return F.cross_entropy(logits, labels)
    log_shares = jax.nn.log_softmax(logits)
    return -np_take(log_shares, labels).mean()


def np_take(rows: Array, columns: Array) -> Array:
    """Return one entry of each row."""
    return rows[jax.numpy.arange(rows.shape[0]), columns]
