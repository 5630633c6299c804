"""Every error jaxtorch raises, and the one helper that words them. Imports nothing.

Each class also inherits the builtin exception that a ``torch.func`` user would
catch, so code that moves over keeps its ``except`` clauses.
"""


class JaxtorchError(Exception):
    """Base class of every error raised on purpose by jaxtorch."""


class ArgumentError(JaxtorchError, ValueError):
    """An argument of a transform has a wrong value (shape, dim, structure)."""


class ArgumentTypeError(JaxtorchError, TypeError):
    """An argument of a transform has a wrong type."""


class OutDimError(JaxtorchError, IndexError):
    """An entry of ``out_dims`` lies outside the output it refers to."""


class DimError(JaxtorchError, IndexError):
    """A dim that one example does not have, though its batch may."""


class UsageError(JaxtorchError, RuntimeError):
    """A transform was used on a function or value that it does not accept."""


class InputError(UsageError, ValueError):
    """An input that is to be differentiated is no tensor, or has no derivative."""


class MissingRuleError(JaxtorchError, NotImplementedError):
    """An operator has no rule under a transform; the text says where to add one."""


class DataDependentError(JaxtorchError, RuntimeError):
    """Control flow or a shape depends on the values of a batched tensor."""


class RandomnessError(JaxtorchError, RuntimeError):
    """A random operation ran under a ``vmap`` that does not allow it."""


class MutationError(JaxtorchError, RuntimeError):
    """A write into a tensor that was captured from outside the transform."""


class EscapedTensorError(JaxtorchError, RuntimeError):
    """A batched tensor was used after its ``vmap`` had returned."""


def explain(where: object, what: str, fix: str, *details: str) -> str:
    """Word an error in its three parts: where and what, the details, the remedy."""
    lines = [f"{where}: {what}", *(f"  {detail}" for detail in details)]
    return "\n".join([*lines, f"  Fix: {fix}"])
