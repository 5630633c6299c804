"""jaxtorch: composable function transforms for PyTorch."""

from jaxtorch.transforms.forward import jvp, linearize
from jaxtorch.transforms.gradient import grad, grad_and_value, value_and_grad
from jaxtorch.transforms.hvp import hvp
from jaxtorch.transforms.jacobian import hessian, jacfwd, jacrev
from jaxtorch.transforms.vjp import vjp
from jaxtorch.transforms.vmap import vmap

__all__ = [
    "grad",
    "grad_and_value",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "value_and_grad",
    "vjp",
    "vmap",
]
