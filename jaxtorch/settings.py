"""Settings: whether kernels run. Imports nothing but the errors."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from jaxtorch.errors import ArgumentError, explain

KERNELS = ("auto", "off", "force")
OVERRIDE: ContextVar[str | None] = ContextVar("jaxtorch.kernels", default=None)


def checked(mode: str) -> str:
    """Refuse a mode that is not known."""
    if mode not in KERNELS:
        known = ", ".join(map(repr, KERNELS))
        raise ArgumentError(
            explain(
                "kernels", f"the mode {mode!r} is not known.", f"pass one of {known}"
            )
        )
    return mode


class Config:
    """The settings, in ``jaxtorch.config``.

    Attributes:
        kernels: ``"auto"``: Triton kernels run where all tensors are on a CUDA device
            and the kernel supports them. ``"off"``: everything runs on ATen.
            ``"force"``: as ``"auto"``, and on the CPU too where Triton interprets
            (``TRITON_INTERPRET=1`` set before the start); for tests. Setting it is for
            all threads; ``jaxtorch.kernels_mode`` overrides it in one.

    Examples:
        >>> import jaxtorch
        >>> jaxtorch.config.kernels
        'auto'
    """

    __slots__ = ("default",)

    def __init__(self) -> None:
        self.default = "auto"

    @property
    def kernels(self) -> str:
        return OVERRIDE.get() or self.default

    @kernels.setter
    def kernels(self, mode: str) -> None:
        self.default = checked(mode)


config = Config()


@contextlib.contextmanager
def kernels_mode(mode: str) -> Iterator[None]:
    """Set ``jaxtorch.config.kernels`` in this thread while the context is open.

    Args:
        mode: ``"auto"``, ``"off"`` or ``"force"``.

    Raises:
        ArgumentError: (a ValueError) for another mode.

    Examples:
        >>> import jaxtorch
        >>> with jaxtorch.kernels_mode("off"):
        ...     print(jaxtorch.config.kernels)
        off
    """
    token = OVERRIDE.set(checked(mode))
    try:
        yield
    finally:
        OVERRIDE.reset(token)
