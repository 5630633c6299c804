"""The library whose laws are checked: jaxtorch, unless a comparison puts in another."""

from types import SimpleNamespace

from torch import Tensor

import jaxtorch

Tensors = list[Tensor]

LIBRARY = SimpleNamespace(
    vmap=jaxtorch.vmap,
    vjp=jaxtorch.vjp,
    jvp=jaxtorch.jvp,
    linearize=jaxtorch.linearize,
)
