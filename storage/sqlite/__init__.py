"""`sqlite:///`: the embedded storage, for one node."""

from storage.sqlite.backend import SqliteStorage

__all__ = ["SqliteStorage"]
