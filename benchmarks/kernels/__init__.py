"""The sizes on which each family of kernels is measured and compiled."""

import importlib

from jaxtorch import kernels

FAMILIES = {
    name: importlib.import_module(f"benchmarks.kernels.{name}")
    for name in kernels.FAMILIES
}
