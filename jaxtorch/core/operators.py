"""Python operators of wrappers that reach dispatch without a way through C++."""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten
OPERANDS = (Tensor, int, float)


def direct(overload: OpOverload, slow: Any, reflected: bool = False) -> Any:
    """Return a binary operator for a wrapper class that calls its dispatch at once.

    About 2 us faster than ``slow``, the ordinary operator. Only where no dispatch mode
    is on, that is within rules and while a tape is read.
    """

    def operator(self: Any, other: Any) -> Any:
        if torch._C._len_torch_dispatch_stack() or not isinstance(other, OPERANDS):
            return slow(self, other)
        args = (other, self) if reflected else (self, other)
        return self.__torch_dispatch__(overload, (), args)

    return operator


def negative(self: Any) -> Any:
    """The negation, as ``direct``."""
    if torch._C._len_torch_dispatch_stack():
        return Tensor.__neg__(self)
    return self.__torch_dispatch__(aten.neg.default, (), (self,))


class DirectOperators:
    """The operators that rules use most, for a class with ``__torch_dispatch__``."""

    __slots__ = ()

    __add__ = direct(aten.add.Tensor, Tensor.__add__)
    __radd__ = direct(aten.add.Tensor, Tensor.__radd__, reflected=True)
    __sub__ = direct(aten.sub.Tensor, Tensor.__sub__)
    __rsub__ = direct(aten.sub.Tensor, Tensor.__rsub__, reflected=True)
    __mul__ = direct(aten.mul.Tensor, Tensor.__mul__)
    __rmul__ = direct(aten.mul.Tensor, Tensor.__rmul__, reflected=True)
    __neg__ = negative
