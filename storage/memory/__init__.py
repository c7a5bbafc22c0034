"""`memory://`: everything in memory, for tests and for what may be lost at the end.

Kept true: the promises of `storage.interface` but for the end of the process, in bounded memory.

`MemoryDatabase` and `MemoryNode` are a cluster in one process, for tests.
"""

from storage.memory.database import MemoryDatabase
from storage.memory.node import Faults, MemoryNode
from storage.memory.storage import ENTRY_OVERHEAD, OVERHEAD, MemoryStorage

__all__ = ["ENTRY_OVERHEAD", "OVERHEAD", "Faults", "MemoryDatabase", "MemoryNode", "MemoryStorage"]
