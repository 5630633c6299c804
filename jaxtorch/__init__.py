"""jaxtorch: composable function transforms for PyTorch."""

from jaxtorch.nn import (
    FunctionalModule,
    FunctionalModuleWithBuffers,
    combine_state_for_ensemble,
    functional_call,
    make_functional,
    make_functional_with_buffers,
    replace_all_batch_norm_modules_,
    stack_module_state,
)
from jaxtorch.settings import config, kernels_mode
from jaxtorch.staging.banded import Banded
from jaxtorch.staging.jit import jit, make_graph
from jaxtorch.transforms.bands import jacobian_bands
from jaxtorch.transforms.checkpoint import checkpoint
from jaxtorch.transforms.control_flow.branching import cond
from jaxtorch.transforms.control_flow.looping import fori_loop, while_loop
from jaxtorch.transforms.control_flow.mapping import map
from jaxtorch.transforms.control_flow.scanning import scan
from jaxtorch.transforms.custom import custom, custom_jvp, custom_vjp
from jaxtorch.transforms.diagonals import (
    divergence,
    hessian_diag,
    jacobian_diag,
    laplacian,
)
from jaxtorch.transforms.forward import jvp, linearize
from jaxtorch.transforms.gradient import grad, grad_and_value, value_and_grad
from jaxtorch.transforms.hvp import hvp
from jaxtorch.transforms.jacobian import hessian, jacfwd, jacrev
from jaxtorch.transforms.replacing import install as _install
from jaxtorch.transforms.vjp import vjp
from jaxtorch.transforms.vmap import vmap
from jaxtorch.transforms.watching import strict, vmap_report

__all__ = [
    "Banded",
    "FunctionalModule",
    "FunctionalModuleWithBuffers",
    "checkpoint",
    "combine_state_for_ensemble",
    "cond",
    "config",
    "custom",
    "custom_jvp",
    "custom_vjp",
    "divergence",
    "fori_loop",
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "hessian_diag",
    "hvp",
    "jacfwd",
    "jacobian_bands",
    "jacobian_diag",
    "jacrev",
    "jit",
    "jvp",
    "kernels_mode",
    "laplacian",
    "linearize",
    "make_functional",
    "make_functional_with_buffers",
    "make_graph",
    "map",
    "replace_all_batch_norm_modules_",
    "scan",
    "stack_module_state",
    "strict",
    "value_and_grad",
    "vjp",
    "vmap",
    "vmap_report",
    "while_loop",
]

_install()
