"""`sqlite:///`: the embedded storage, for one node.

Kept true: a group is one transaction, and on the disk before its commit returns. Reads do not wait for writes.
"""

from storage.sqlite.backend import SqliteStorage

__all__ = ["SqliteStorage"]
