"""Why a peer is faster than ``jit`` on a workload: what was measured, in words."""

CAUSES: dict[str, str] = {}
