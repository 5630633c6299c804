"""How error texts name the transform and the user's function. Nothing else."""

from typing import Any


class Where:
    """Names a transformed function, worded only when an error is raised."""

    __slots__ = ("transform", "func", "options")

    def __init__(self, transform: str, func: Any, **options: Any) -> None:
        self.transform = transform
        self.func = func
        self.options = options

    def __str__(self) -> str:
        name = getattr(self.func, "__name__", None) or repr(self.func)
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"{self.transform}({name}{options})"
