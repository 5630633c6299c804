"""What a function captures, kept so that it can be run again later with other values.

Found are wrappers in closures, default arguments, partials, methods, containers,
callable objects and modules. They are handles: for a second run they are turned into
shells of other values, and put back.
"""

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from jaxtorch.core.custom import Leaves
from jaxtorch.core.forward import ForwardLevel, wrap
from jaxtorch.core.level import DEAD, Level, Wrapper
from jaxtorch.transforms.forward import dual_parts

SHELL = Level()
SHELL.depth = DEAD


class Barrier(ForwardLevel):
    """A level whose values are all constants: no plain tensor meets a shell.

    torch.autograd would record such a call itself, and miss what the shell stands for.
    """

    transform = "checkpoint"

    def __init__(self, inputs: Leaves) -> None:
        super().__init__()
        self.inputs = self.own(inputs)

    def own(self, leaves: Leaves) -> Leaves:
        """Wrap the tensors."""
        return [wrap(self, x, None) if isinstance(x, Tensor) else x for x in leaves]

    def results(self, outs: Leaves) -> Leaves:
        """Unwrap the tensors."""
        return [dual_parts(self, out)[0] for out in outs]


class Clear(contextlib.nullcontext[None]):
    """Stands for the barrier where nothing is captured."""

    def __init__(self, inputs: Leaves) -> None:
        super().__init__()
        self.inputs = inputs

    def own(self, leaves: Leaves) -> Leaves:
        """Return the values."""
        return leaves

    def results(self, outs: Leaves) -> Leaves:
        """Return the results."""
        return outs


class Captured:
    """What a function captures now.

    Attributes:
        handles: the wrappers.
        tracked: whether there is a plain tensor that requires grad.
        places: cells and entries of modules, with what is in them: a loop may have
            rebound a captured variable, and ``functional_call`` have put back the
            parameters of a module, before the function runs again.
    """

    def __init__(self, func: Any) -> None:
        found: dict[int, Any] = {}
        self.places: list[tuple[Any, str | None, Any]] = []
        self.tracked = False
        seen: set[int] = set()
        stack = [func]
        while stack:
            each = stack.pop()
            if id(each) in seen:
                continue
            seen.add(id(each))
            if isinstance(each, Wrapper):
                found[id(each)] = each
            elif isinstance(each, Tensor):
                self.tracked = self.tracked or each.requires_grad
            else:
                stack.extend(self.parts(each))
        self.handles = list(found.values())

    def parts(self, each: Any) -> list[Any]:
        """Return what a function, a container, a module or a callable object holds."""
        if isinstance(each, (list, tuple, set)):
            return list(each)
        if isinstance(each, dict):
            return list(each.values())
        if isinstance(each, types.FunctionType):
            cells = [cell for cell in each.__closure__ or () if filled(cell)]
            self.places.extend((cell, None, cell.cell_contents) for cell in cells)
            contents = [cell.cell_contents for cell in cells]
            return [*contents, each.__defaults__, each.__kwdefaults__]
        if isinstance(each, types.MethodType):
            return [each.__self__, each.__func__]
        if isinstance(each, functools.partial):
            return [each.func, each.args, each.keywords]
        if isinstance(each, nn.Module):
            for entries in (each._parameters, each._buffers):
                self.places.extend((entries, k, v) for k, v in entries.items())
            return list(vars(each).values())
        if isinstance(each, type) or not callable(each):
            return []
        return list(getattr(each, "__dict__", {}).values())

    @contextlib.contextmanager
    def standing_for(self, values: Leaves, inputs: Leaves) -> Iterator[Any]:
        """Within it all is as it was captured, but the handles stand for ``values``."""
        barrier = Barrier(inputs) if self.handles else Clear(inputs)
        kept = [(handle.level, handle.value, handle.alias) for handle in self.handles]
        now = [(place, key, read(place, key)) for place, key, _ in self.places]
        for place, key, content in self.places:
            write(place, key, content)
        for handle, value in zip(self.handles, values, strict=True):
            if value is not handle:
                own = barrier.own([value])[0]
                handle.level, handle.value, handle.alias = SHELL, own, None
        try:
            with barrier:
                yield barrier
        finally:
            for handle, own in zip(self.handles, kept, strict=True):
                handle.level, handle.value, handle.alias = own
            for place, key, content in now:
                write(place, key, content)


def filled(cell: Any) -> bool:
    """Tell whether a closure's cell has a value yet."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def read(place: Any, key: str | None) -> Any:
    """Read a cell, or an entry of a dict."""
    return place.cell_contents if key is None else place[key]


def write(place: Any, key: str | None, content: Any) -> None:
    """Set a cell, or an entry of a dict."""
    if key is None:
        place.cell_contents = content
    else:
        place[key] = content
