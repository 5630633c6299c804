"""The most memory that a call of torch holds at once, as the allocator reports it."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Call


def peak_bytes(call: Call, device: str = "cpu") -> int:
    """Return the most bytes alive at once during a call, its inputs not counted.

    On the CPU the profiler's allocation events are added up, so that compiled code and
    the workspaces of kernels count as well as tensors that Python sees.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        result = call()
    del result
    now = peak = 0
    for event in sorted(allocations(prof), key=lambda e: int(e.start_ns())):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def allocations(prof: profile) -> list[Any]:
    """Return the events of memory given and taken back."""
    assert prof.profiler is not None
    assert prof.profiler.kineto_results is not None
    events = prof.profiler.kineto_results.events()
    return [event for event in events if event.name() == "[memory]"]
