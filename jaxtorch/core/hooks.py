"""Functions of torch that are replaced while a level is open, and only then.

Some of torch's Python functions never reach the dispatcher: ``Function.apply`` runs the
user's forward without recording, and ``torch.autograd.grad`` asks the C++ engine, which
has not seen our tape. Each replacement is an attribute, set when the first thread opens
a level and set back when the last one closes its own. A replacement begins by asking
whether a level is open in *its* thread, and calls the original where none is.
"""

import threading
from typing import Any

_lock = threading.Lock()
_acquire = _lock.acquire
_release = _lock.release
_table: list[tuple[Any, str, Any, Any]] = []
_threads = 0


def replace(owner: Any, name: str, original: Any, replacement: Any) -> None:
    """Set ``owner.name`` to ``replacement`` while any thread has a level open."""
    _table.append((owner, name, original, replacement))


def hold() -> None:
    """Note that a thread opened its first level."""
    global _threads
    _acquire()
    _threads += 1
    if _threads == 1:
        for owner, name, _, replacement in _table:
            setattr(owner, name, replacement)
    _release()


def drop() -> None:
    """Note that a thread closed its last level."""
    global _threads
    _acquire()
    _threads -= 1
    if not _threads:
        for owner, name, original, _ in _table:
            setattr(owner, name, original)
    _release()
