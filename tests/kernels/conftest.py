"""Every kernel test gets memory full of NaN, so that what is not written shows."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Let ``torch.empty`` return NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    with np.errstate(all="ignore"):  # Triton's interpreter computes with numpy
        yield
    torch.use_deterministic_algorithms(before)
