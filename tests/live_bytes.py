"""Counts the bytes that are held at once, tensor by tensor."""

from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jaxtorch.core.level import Wrapper


class LiveBytes(TorchDispatchMode):
    """Notes each storage that a call returns, and the most bytes alive after a call.

    It lies below the transforms and sees what the rules of the innermost level do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            for tensor in insides(leaf):
                storage = tensor.untyped_storage()
                entry = StorageWeakRef(storage), storage.nbytes()
                self.storages[entry[0].cdata] = entry
        self.peak = max(self.peak, self.now())
        return out

    def now(self) -> int:
        """Return the bytes alive."""
        self.storages = {
            key: entry for key, entry in self.storages.items() if not entry[0].expired()
        }
        return sum(size for _, size in self.storages.values())


def insides(leaf: Any) -> list[Tensor]:
    """Return the plain tensors in a value: itself, or its primal and its tangent."""
    if isinstance(leaf, Wrapper):
        return [*insides(leaf.value), *insides(getattr(leaf, "tangent", None))]
    return [leaf] if isinstance(leaf, Tensor) and leaf.device.type != "meta" else []


def peak_bytes(func: Any, *args: Any) -> int:
    """Return the most bytes alive at once while ``func`` runs, without its inputs."""
    with LiveBytes() as mode:
        out = func(*args)
    del out
    return mode.peak


def held_bytes(func: Any, *args: Any) -> int:
    """Return the bytes that stay alive with the result of ``func``."""
    with LiveBytes() as mode:
        out = func(*args)
    size = mode.now()
    del out
    return size
