"""`memory://`: everything in memory, for tests and for what may be lost at the end."""

from storage.memory.storage import ENTRY_OVERHEAD, OVERHEAD, MemoryStorage

__all__ = ["ENTRY_OVERHEAD", "OVERHEAD", "MemoryStorage"]
