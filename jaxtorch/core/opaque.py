"""Functions that torch.compile runs as they are, with all that they call."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch._C._dynamo import eval_frame

Func = TypeVar("Func", bound=Callable[..., Any])

SKIP = eval_frame._FrameExecStrategy(
    eval_frame._FrameAction.SKIP, eval_frame._FrameAction.SKIP
)
REASON = (
    "torch.compile does not see into the transforms of jaxtorch. Use jaxtorch.jit, "
    "which does, or compile without fullgraph=True."
)


def opaque(func: Func) -> Func:
    """Keep torch.compile from tracing ``func``, whose levels mean nothing to it.

    The attributes make a compiled caller break its graph at the call; the strategy
    leaves the frame of the call, and those below it, to the interpreter.
    """
    mark: Any = func
    mark._torchdynamo_disable = True
    mark._torchdynamo_disable_msg = REASON
    eval_frame.set_code_exec_strategy(mark.__code__, SKIP)
    return func


def standing_for(func: Callable[..., Any]) -> Callable[[Func], Func]:
    """Return a decorator: ``opaque``, with the name and the docstring of ``func``."""

    def decorate(transformed: Func) -> Func:
        functools.update_wrapper(transformed, func, updated=())
        return opaque(transformed)

    return decorate
