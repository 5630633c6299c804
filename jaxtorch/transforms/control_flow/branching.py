"""``cond``: one of two functions, as a predicate says."""

from collections.abc import Callable
from typing import Any

from jaxtorch.core.opaque import opaque
from jaxtorch.errors import ArgumentTypeError, explain
from jaxtorch.staging.regions.branch import Branch, select
from jaxtorch.staging.subgraph import kind_of
from jaxtorch.staging.tracer import user_line
from jaxtorch.transforms.control_flow.forms import (
    BATCHED,
    TRACED,
    Form,
    as_flag,
    close,
    is_traced,
    read_flag,
    separate,
)
from jaxtorch.transforms.naming import Where


@opaque
def cond(
    pred: Any,
    true_fun: Callable[..., Any],
    false_fun: Callable[..., Any],
    *operands: Any,
) -> Any:
    """Return ``true_fun(*operands)`` or ``false_fun(*operands)``, as ``pred`` says.

    One function runs where ``pred`` is one truth: also under ``grad`` and ``jvp``, and
    under ``jit``, where both are staged. Under ``vmap`` with a ``pred`` that differs
    between the examples both run on all of them, and ``torch.where`` chooses. The
    derivative of the operands is cut off where a function is not chosen, so that an
    infinite slope there gives no NaN; pass such values as operands, not by closure.

    Args:
        pred: a bool, a number, or a tensor without dims.
        true_fun: a function of the operands.
        false_fun: a function of the operands that returns the same structure, shapes
            and dtypes.
        operands: pytrees of tensors and Python numbers.

    Returns:
        What the chosen function returns; Python numbers in it become tensors.

    Raises:
        ArgumentTypeError: (a TypeError) for a ``pred`` that is no scalar, and where
            both functions are traced or run and return different structures, shapes or
            dtypes.

    Examples:
        >>> import torch, jaxtorch
        >>> def half(x):
        ...     return jaxtorch.cond(x > 4, lambda x: x / 2, lambda x: x, x)
        >>> jaxtorch.vmap(half)(torch.tensor([2.0, 8.0]))
        tensor([2., 4.])

    Source: the signature and behaviour of ``jax.lax.cond``.
    """
    where = Where("cond", true_fun)
    state = read_flag(where, pred)
    if state is not BATCHED and state is not TRACED:
        tensors, form = separate((true_fun if state else false_fun)(*operands))
        return form.join(tensors)
    values, given = separate(operands)
    functions = true_fun, false_fun
    if state is TRACED:
        return staged_cond(where, as_flag(pred), functions, values, given)
    forms: list[Form] = []
    kinds: list[Any] = []

    def call(function: Callable[..., Any]) -> Callable[..., list[Any]]:
        def run(*leaves: Any) -> list[Any]:
            tensors, form = separate(function(*given.join(leaves)))
            forms.append(form)
            kinds.append([kind_of(t) for t in tensors])
            if len(forms) == 2:
                refuse_different(where, forms, kinds)
            return tensors

        return run

    outs = select(as_flag(pred), call(true_fun), call(false_fun), values)
    return forms[0].join(outs)


def staged_cond(
    where: object, flag: Any, functions: Any, values: list[Any], given: Form
) -> Any:
    """Stage both functions and put the branch into the graph."""
    kinds = [kind_of(value) for value in values]
    first, second = (
        close(where, lambda v, f=function: f(*given.join(v)), kinds)
        for function in functions
    )
    refuse_different(
        where, [first.form, second.form], [first.graph.outs, second.graph.outs]
    )
    count = len(values)
    end = count + len(first.captured)
    region = Branch(
        lambda *v: first.graph(*v[:end]),
        lambda *v: second.graph(*v[:count], *v[end:]),
    )
    return first.form.join(region(flag, *values, *first.captured, *second.captured))


def refuse_different(where: object, forms: list[Form], kinds: list[Any]) -> None:
    """Refuse functions that return different things."""
    first, second = forms
    if first.fits(second) and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(*kinds, strict=True)
    ):
        return
    texts = [
        str(form.join([str(kind) for kind in own])).replace("'", "")
        for form, own in zip(forms, kinds, strict=True)
    ]
    raise ArgumentTypeError(
        explain(
            where,
            "true_fun and false_fun must return the same structure, shapes and dtypes.",
            "convert what one of them returns with .to(dtype) or .expand(shape)",
            f"true_fun returns {texts[0]};",
            f"false_fun returns {texts[1]}.",
            *([f"at {user_line()}"] if is_traced() else []),
        )
    )
