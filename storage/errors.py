"""What can go wrong in storage, by who must act.

StorageError
├── StorageUnavailable    away, locked, full or slow: acknowledge nothing, try the same group again later
│   └── DiskFull              its disk has no room for more: somebody must make some
├── StorageUnusable       the data or the URL is wrong: a person must act; the broker does not start
│   ├── StorageInUse      another broker serves this data
│   ├── NoDatabase        nothing is there, and this caller only looks at what is
│   └── UnreadableInbox   one inbox is damaged; the others are not
├── FencedOut             this node lost its lease: stop serving at once
├── Superseded            a newer connection has the device: this one operation changed nothing
├── Unfinished            another node is about to store this very message: its publisher is to ask again
└── MessageRefused        this one message can never be stored; the rest of its group commits
    ├── IdempotencyConflict   the same key was used for another content
    └── RowChanged            a row is at another revision than was expected
"""


class StorageError(Exception):
    """The root of all storage errors."""


class StorageUnavailable(StorageError):
    """Storage cannot be reached or cannot write now; whether the group was committed may be unknown."""


class DiskFull(StorageUnavailable):
    """The disk has no room for what is to be written, or would have too little afterwards."""


class StorageUnusable(StorageError):
    """The data or its address is wrong, and trying again will not help."""


class StorageInUse(StorageUnusable):
    """Another process serves this data."""


class NoDatabase(StorageUnusable):
    """Nothing was ever stored at this address. Only raised where the backend is opened to be read."""


class UnreadableInbox(StorageUnusable):
    """An inbox cannot be read from entry ``first`` on. What is before that can."""

    def __init__(self, text: str, first: int) -> None:
        super().__init__(text)
        self.first = first


class FencedOut(StorageError):
    """Another node took the lease over."""


class Superseded(StorageError):
    """An operation on a device came with an older epoch than the device has, and changed nothing. Only in a cluster: an
    `Operation.error`, never raised by a commit."""


class Unfinished(StorageError):
    """A message that is taken only as a repeat (`Append.refusal`) is one that another node has begun to store, under its key,
    and may bring to its end or not. Only in a cluster: an `Append.error`, never raised by a commit."""


class MessageRefused(StorageError):
    """One message can never be stored."""


class IdempotencyConflict(MessageRefused):
    """An idempotency key came again with another topic or payload."""


class RowChanged(MessageRefused):
    """A row has another revision than was expected: ``revision``, 0 where there is no such row."""

    def __init__(self, table: str, part: str, key: str, expected: int, revision: int) -> None:
        found = f"is at revision {revision}" if revision else "is not there"
        wanted = f"revision {expected}" if expected else "none"
        super().__init__(f"row {key[:100]!r} of {table[:100]!r}, {part[:100]!r}, {found}: {wanted} was expected")
        self.revision = revision
