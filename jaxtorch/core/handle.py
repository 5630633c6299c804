"""What a wrapper answers in Python: methods of tensors that never reach dispatch."""

from typing import Any, NoReturn

import torch
from torch import Tensor

from jaxtorch.core import alias
from jaxtorch.core.operators import DirectOperators
from jaxtorch.errors import UsageError, explain
from jaxtorch.rules.strides import Readings


class Handle(DirectOperators, Tensor):
    """A tensor that stands for a value of a level and has no numbers of its own."""

    __slots__ = ("level", "value", "alias")
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    level: Any
    value: Tensor
    alias: alias.Alias | None

    def describe(self) -> str:
        """Say what kind of value this is, and the value."""
        raise NotImplementedError

    def is_constant(self) -> bool:
        """Tell whether the value does not depend on what its level transforms."""
        return False

    def refuse(self, what: str, fix: str) -> NoReturn:
        """Refuse what only a tensor with numbers of its own can do."""
        raise UsageError(
            explain(self.level.transform, f"{what} a value of the transform.", fix)
        )

    def __repr__(  # type: ignore[override]
        self, *, tensor_contents: Any = None
    ) -> str:
        if self.alias is not None:
            alias.refresh(self)
        return self.describe()

    def __format__(self, spec: str) -> str:
        """Format a tensor without dims as its value."""
        if spec and self.dim() == 0:
            return format(self.item(), spec)
        return str(super().__format__(spec))  # type: ignore[no-untyped-call]

    def tolist(self) -> Any:
        """Return the values as Python numbers in nested lists."""
        if self.alias is not None:
            alias.refresh(self)
        return self.value.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Return the value as an array, if its level does not transform it."""
        own: Any = self.detach() if force else torch.ops.aten.alias.default(self)
        if getattr(own, "level", None) is not self.level:
            return own.numpy(force=force)
        if not own.is_constant():
            self.refuse(
                "NumPy can neither map nor differentiate",
                "use operations of torch; x.detach().numpy() is a constant where no "
                "vmap is around it",
            )
        return own.value.numpy(force=force)

    # Our own code calls Tensor.stride(x): what it reads is not the user's to branch on.

    def stride(self, *args: Any, **kwargs: Any) -> Any:
        """Return the strides of the value; who stages notes that they were read."""
        Readings.strides += 1
        return super().stride(*args, **kwargs)

    def is_contiguous(self, *args: Any, **kwargs: Any) -> bool:
        """Tell whether the value is contiguous; who stages notes that it was read."""
        Readings.strides += 1
        return super().is_contiguous(*args, **kwargs)

    def storage_offset(self) -> Any:
        """Return the offset of the value; who stages notes that it was read."""
        Readings.offsets += 1
        return super().storage_offset()

    @property
    def data(self) -> Tensor:
        """Return the value as a constant of its level."""
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> NoReturn:
        self.refuse(
            "x.data = y (module.to() does it, too) would replace",
            "use y from here on, or write x.copy_(y) under torch.no_grad(); convert "
            "modules outside of the function",
        )

    def register_hook(self, hook: Any) -> Any:
        """Register a hook where torch.autograd records; a tape calls none."""
        if not self.requires_grad:
            self.refuse(
                "register_hook() would not be called for",
                "give an identity function a pullback of its own with "
                "jaxtorch.custom_vjp",
            )
        return super().register_hook(hook)  # type: ignore[no-untyped-call]

    def __copy__(self) -> Tensor:
        return torch.ops.aten.alias.default(self)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_constant():
            self.refuse(
                "deepcopy() can't tell whether to keep the derivative of",
                "write x.clone() to keep it, or x.detach().clone()",
            )
        own = memo[id(self)] = self.clone()
        return own.requires_grad_() if self.requires_grad else own

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self.refuse("pickle and torch.save can't store", "return it, and store that")
