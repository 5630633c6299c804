"""Modules as functions: the public names of this folder."""

from jaxtorch.nn.batch_norm import replace_all_batch_norm_modules_
from jaxtorch.nn.ensemble import stack_module_state
from jaxtorch.nn.functional import functional_call
from jaxtorch.nn.legacy import (
    FunctionalModule,
    FunctionalModuleWithBuffers,
    combine_state_for_ensemble,
    make_functional,
    make_functional_with_buffers,
)

__all__ = [
    "FunctionalModule",
    "FunctionalModuleWithBuffers",
    "combine_state_for_ensemble",
    "functional_call",
    "make_functional",
    "make_functional_with_buffers",
    "replace_all_batch_norm_modules_",
    "stack_module_state",
]
