"""How several writers fared: see `bench.storage_writers`."""

from __future__ import annotations

from dataclasses import dataclass

WRITERS = (1, 2, 4, 8, 16)
SIZE = 16
"""Messages in a group."""


@dataclass
class Writing:
    """``writers`` on inboxes: what they committed together in ``seconds``, and how the first and the last of them fared."""

    writers: int
    one_inbox: bool
    seconds: float = 0.0
    groups: int = 0
    fewest: int = 0
    most: int = 0
    longest_ms: float = 0.0
    """The longest commit of any."""
    failed: int = 0
    """Commits that ended with `StorageUnavailable`, and were tried again."""
    cpu_us: float = 0.0
    """Processor time of a writer for a message."""
    trouble: str = ""
