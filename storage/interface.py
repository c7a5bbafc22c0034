"""The promises of a storage backend. `tests/storage/` holds the suite that every backend passes.

One object serves one database. The broker is the only caller of `commit`, one group at a time; everything else may be
called at any time, also while a commit runs. All methods are coroutines that never block the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from storage.records import Device, DeviceKey, InboxEntry, JobState, Message, Operation, Token


class Committer(Protocol):
    """The one way to write."""

    async def commit(self, group: Sequence[Operation]) -> None:
        """Apply the operations in order, durably and as one.

        When it returns, everything is durable (fsync'd; in MongoDB a majority has it in its journal), and every operation's
        result fields are filled. Sequences are assigned here: each timeline goes on at its last + 1, without gaps.

        An `Append` may be of a subclass; what that adds is of no concern here.

        An operation that can never be applied gets its ``error`` set (`MessageRefused`) and takes no sequence; the rest of
        the group commits.

        Raises `StorageUnavailable` when the outcome is not a durable commit, or is unknown. The caller keeps the group and
        calls again with the very same objects: messages that did get stored are found by id and are not
        stored twice, and their sequences are filled in. Raises `FencedOut` when another node serves the database, and
        `StorageUnusable` when the data turns out to be damaged: a person must act, and trying again will not help.
        """


class InboxReader(Protocol):
    """Reads of the `sync` collection."""

    async def inbox_head(self, user: str) -> int:
        """The last sequence of a user's inbox; 0 where it is empty."""

    async def inbox_bounds(self, user: str) -> tuple[int, int]:
        """(first kept sequence, last sequence) of a user's inbox; (1, 0) where nothing was ever stored."""

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]:
        """Up to ``limit`` entries with sequence > ``after``, ascending, without gaps after the first kept one.

        Stops early once payloads add up to ``max_bytes``, yet gives at least one entry where one exists.
        Only committed entries are seen. An entry whose message was removed by retention comes with message None (a message
        that is still retained comes whole); one that retention of the inbox removed does not come at all.
        """


class ConversationReader(Protocol):
    """Reads of the `store` collection."""

    async def conversation_bounds(self, topic: str) -> tuple[int, int]:
        """(first kept sequence, last sequence) of a topic; (1, 0) where nothing was ever stored."""

    async def read_conversation(
        self,
        topic: str,
        *,
        after: int = 0,
        before: int = 0,
        limit: int = 100,
        newest_first: bool = False,
        max_bytes: int = 1 << 20,
    ) -> list[Message]:
        """Messages with ``after`` < seq < ``before`` (0: no upper bound), ascending, or descending if ``newest_first``.

        At most ``limit``, and stops early at ``max_bytes`` of payload as `InboxReader.read_inbox` does.
        """

    async def sequence_at(self, topic: str, time: int) -> int:
        """The lowest kept sequence whose message has server time >= ``time``; last sequence + 1 where there is none."""

    async def read_message(self, message_id: int) -> Message | None:
        """The message with this id in the store; None where it never was there, or was removed."""


class Tail(Protocol):
    """Everything that was stored, in commit order: for indexers, and for slow clients without an inbox."""

    async def last_id(self) -> int:
        """The highest id of any committed message, removed ones included; 0 where there never was one."""

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """Up to ``limit`` stored messages with id > ``after_id``, by rising id; bytes bounded as in `read_inbox`."""


class State(Protocol):
    """What a broker loads when it starts."""

    def devices(self) -> AsyncIterator[Device]:
        """Every device, in no order, read in pages: no read transaction is held between two of them."""

    async def device(self, key: DeviceKey) -> Device | None:
        """One device as stored."""


class Subscribed(NamedTuple):
    """That a device has a filter."""

    user: str
    client_id: str
    filter: str


class Due(NamedTuple):
    """Devices whose session or will is due, the earliest first; and the next deadline after the time that was asked about, 0
    where there is none."""

    devices: list[DeviceKey]
    next: int


class DeviceIndex(Protocol):
    """What a broker asks of the devices that it does not hold in memory. Only what is committed is seen."""

    async def device_count(self) -> int:
        """How many devices are stored."""

    def subscribed(self) -> AsyncIterator[list[Subscribed]]:
        """Every subscription of every device, in no order, in pages."""

    def undated(self, now: int) -> AsyncIterator[list[Device]]:
        """The devices whose deadlines a start must look at, in pages: those with a will, those that are stored as connected
        though their session ends some time, and those whose end is more than their whole expiry after ``now`` (ms)."""

    async def due(self, now: int, limit: int = 500) -> Due:
        """Devices with ``expires_at``, or ``will_at``, above 0 and at or before ``now`` (ms); up to ``limit``."""

    async def devices_of(self, user: str) -> list[Device]:
        """A user's devices, by client id (as UTF-8 bytes)."""

    async def lowest_offset(self, user: str) -> int | None:
        """The lowest offset of the devices that read an inbox; None where none does."""

    def lowest_offsets(self) -> AsyncIterator[list[tuple[str, int]]]:
        """The same for every inbox that a device reads, by user key, in pages."""


class RetainedReader(Protocol):
    """Reads of the `retained` collection: each topic's last message. Only those of committed groups are sure to be seen."""

    async def retained_range(self, prefix: str, after: str, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """Up to ``limit`` retained messages whose topics begin with ``prefix`` and come after ``after`` (empty: all do).

        By topic, as its characters' code points order it; bytes bounded as in `InboxReader.read_inbox`. Expired ones come too.
        """

    async def retained_count(self) -> int:
        """How many topics have one. May take a tenth of a second for a million."""

    async def retained_expired(self, now: int, limit: int) -> list[tuple[str, int]]:
        """(topic, message id) of up to ``limit`` retained messages that have expired at ``now`` (ms), by when they did."""


class Pointer(NamedTuple):
    """Where an entry of an inbox points to: a conversation and the message's sequence there.

    ``topic`` is empty and ``message_seq`` 0 where the store has the message no longer.
    """

    seq: int
    topic: str
    message_seq: int


class Pruner(Protocol):
    """Removal from the old end. A timeline's last sequence survives even when every entry is gone.

    A message that is retained survives as such. Whether a device still waits for what is removed is for the caller to know, who
    finds out by `read_pointers`.
    """

    async def read_pointers(self, user: str, after: int, limit: int = 5000) -> list[Pointer]:
        """As `InboxReader.read_inbox`, without the messages: up to ``limit`` entries with sequence > ``after``, ascending."""

    async def prune_conversation(self, topic: str, before_seq: int, limit: int = 1000) -> int:
        """Remove up to ``limit`` stored messages with seq < ``before_seq``, oldest first; how many were removed."""

    async def prune_inbox(self, user: str, before_seq: int, limit: int = 1000) -> int:
        """Remove up to ``limit`` inbox entries with seq < ``before_seq``, oldest first; how many were removed."""


@runtime_checkable
class Catalogue(Protocol):
    """Listing, for `tideline inspect` and the HTTP API; a reader may open the backend read-only beside a broker."""

    def conversations(self, prefix: str = "") -> AsyncIterator[tuple[str, int, int]]:
        """(topic, first kept sequence, last sequence) by topic name, read in pages."""

    def inboxes(self) -> AsyncIterator[tuple[str, int, int]]:
        """(user key, first kept sequence, last sequence), read in pages."""


class Membership(NamedTuple):
    """A conversation that a user takes part in: its first kept and last sequence, and how far the user has read."""

    topic: str
    first: int
    last: int
    position: int


@runtime_checkable
class Participation(Protocol):
    """Who takes part in which conversation, and has read how far. Written by `records.Join` and `records.MarkRead`."""

    async def memberships(self, user: str, after: str = "", limit: int = 100) -> list[Membership]:
        """Up to ``limit`` conversations of a user with a name > ``after``, by name (as UTF-8 bytes)."""

    async def takes_part(self, user: str, topic: str) -> bool:
        """Whether a `records.Join` of the pair was committed."""

    async def read_position(self, user: str, topic: str) -> int:
        """The sequence up to which the user has read; 0 where nothing was marked."""

    async def expired_between(self, topic: str, after: int, now: int) -> int:
        """How many kept messages with seq > ``after`` have expired at ``now`` (ms): what is subtracted from an unread count."""


@runtime_checkable
class Jobs(Protocol):
    """What is remembered of the jobs. Written by `records.SaveJob`."""

    async def jobs(self) -> list[JobState]:
        """The state of every job that was ever saved, by name."""


@runtime_checkable
class Tokens(Protocol):
    """Bearer tokens. Written by `records.SaveToken` and `records.DropTokens`."""

    async def token(self, digest: str) -> Token | None:
        """The token of a digest, expired or not."""

    async def tokens(self, user: str) -> list[Token]:
        """A user's tokens, by creation; all users' where ``user`` is empty."""


class Storage(
    Committer,
    InboxReader,
    ConversationReader,
    Tail,
    State,
    DeviceIndex,
    RetainedReader,
    Pruner,
    Catalogue,
    Participation,
    Jobs,
    Tokens,
    Protocol,
):
    """All of it, which is what a backend is: the broker asks once, before it opens one, whether it `lacks` anything."""

    async def open(self) -> None:
        """Create or migrate the schema, take the lease, recover an interrupted commit.

        Raises `StorageInUse`, `StorageUnusable` with what to do, or `StorageUnavailable`; opened to be read only, also
        `NoDatabase`, where it would have to make one.
        """

    async def close(self) -> None:
        """Finish the commit under way, give the lease back, close files and connections. May be called twice.

        Cancelled, it waits no longer for storage that does not answer, and leaves the rest to the next `open`, as a crash does.
        """


def lacks(backend: object) -> list[str]:
    """The methods of `Storage` that an object has not, by name: for a backend of another maker, which no type checker saw."""
    promised = {name for part in Storage.__mro__ for name in vars(part) if not name.startswith("_") and part is not object}
    return sorted(name for name in promised if not callable(getattr(backend, name, None)))
