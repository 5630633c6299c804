"""Where the time of a call goes, as the profiler sees it. Nothing of workloads."""

import time

from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Call

NAMED = 3  # the dearest operations, which are named
LEAST = 0.03  # a share of the time that is worth a word
SECONDS = 0.1  # of profiling, roughly


def account(call: Call) -> dict[str, float]:
    """Return the shares of the time of a call: its dearest operations, and the rest.

    Python, and the loops in C that ``jit`` made, are what is outside of operations.
    """
    start = time.perf_counter()
    call()
    repeats = max(3, min(100, int(SECONDS / (time.perf_counter() - start))))
    with profile(activities=[ProfilerActivity.CPU]):
        call()  # the profiler's own first steps are not the call's
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        total = time.perf_counter() - start
    found = {
        event.key.partition("::")[2] or event.key: event.self_cpu_time_total / 1e6
        for event in prof.key_averages()
    }
    dearest = sorted(found, key=found.__getitem__, reverse=True)[:NAMED]
    shares = {name: found[name] / total for name in dearest}
    shares = {name: share for name, share in shares.items() if share >= LEAST}
    outside = 1.0 - sum(found.values()) / total
    others = 1.0 - outside - sum(shares.values())
    shares["other operations"] = others
    shares["Python and loops in C"] = outside
    return {name: round(share, 3) for name, share in shares.items() if share >= LEAST}


def words(shares: dict[str, float]) -> str:
    """Write the shares in percent."""
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
