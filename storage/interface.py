"""The promises of a storage backend. `tests/storage/` holds the suite that every backend passes.

One object serves one database. The broker is the only caller of `commit`, one group at a time; everything else may be
called at any time, also while a commit runs. All methods are coroutines that never block the event loop.

Over 300 lines: the promises are read in one place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from storage.cluster import Cluster
from storage.records import DataEpoch, Device, DeviceKey, InboxEntry, JobState, Message, Operation, Row, Setting, Token


class Committer(Protocol):
    """The one way to write."""

    async def commit(self, group: Sequence[Operation]) -> None:
        """Apply the operations in order, durably and as one.

        When it returns, everything is durable (fsync'd; in MongoDB a majority has it in its journal), and every operation's
        result fields are filled. Sequences are assigned here: each timeline goes on at its last + 1, without gaps.

        An `Append` may be of a subclass; what that adds is of no concern here.

        An operation that can never be applied gets its ``error`` set (`MessageRefused`; in a cluster also `Superseded`, see
        `storage.cluster`, or `Unfinished`) and takes no sequence; the rest of the group commits.

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


class Newest(NamedTuple):
    """A conversation's last kept message: its sequence, and its server time in ms. Both are 0 where none is kept."""

    seq: int
    time: int


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

    async def newest(self, topics: Sequence[str]) -> list[Newest]:
        """The last message of each of up to 1,000 topics, in their order, without what is in it: where many conversations are
        sorted, one call reads the ends of all of them."""

    async def sequence_at(self, topic: str, time: int) -> int:
        """The lowest kept sequence whose message has server time >= ``time``; last sequence + 1 where there is none."""

    async def read_message(self, message_id: int) -> Message | None:
        """The message with this id in the store; None where it never was there, or was removed."""

    async def read_messages(self, ids: Sequence[int]) -> list[Message]:
        """Those of the messages with these ids that the store has, in the order of ``ids``."""


class Tail(Protocol):
    """Everything that was stored, in commit order: for indexers, and for slow clients without an inbox."""

    async def last_id(self) -> int:
        """The highest id of any committed message, removed ones included; 0 where there never was one. In a cluster: of those
        that have this node's number."""

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """Up to ``limit`` stored messages with id > ``after_id``, by rising id; bytes bounded as in `read_inbox`.

        In a cluster that is no way to follow what is stored: what another node commits late may have a lower id than what was
        read before: see `Tails`.
        """


LATE = 1 << 10
"""In place of a node's number, above all of them: the tail of what was stored late, under an id that may have been read past by
then. Its positions are places in that tail, from 1 on."""


class TailPage(NamedTuple):
    """Messages of a tail, and the position behind them."""

    messages: list[Message]
    position: int


def page_of_ids(messages: list[Message], through: int) -> TailPage:
    """A page of a tail whose positions are ids; without messages it is the end."""
    return TailPage(messages, messages[-1].id if messages else through)


class Tails(Protocol):
    """Everything that was stored, a tail for each node: whoever follows several keeps a position for each node's number."""

    async def tails(self) -> dict[int, int]:
        """How far each node's messages are complete, by its number (`storage.cluster.number_of`): whatever has that number and
        an id up to this one is stored, if it ever will be, or comes in the tail `LATE`, which is there once it has anything. A
        node that is new, or takes a number over, is there once it has joined. One entry, of number 0, where one node serves."""

    async def read_tail_of(self, number: int, after: int, through: int, limit: int, max_bytes: int = 1 << 20) -> TailPage:
        """As `read_tail`, of one tail, of what is behind a position and not behind ``through``, which `tails` told. Without
        messages it is the end, and its position is ``through``."""


class TextPage(NamedTuple):
    """Messages of a tail, the position behind them, and how many that are before it were passed over."""

    messages: list[Message]
    position: int
    passed: int


@runtime_checkable
class TextTails(Protocol):
    """What a store may have beside `Tails`, for whoever reads texts alone: most of the rest need not leave the store then."""

    async def read_texts_of(self, number: int, after: int, through: int, limit: int, max_bytes: int = 1 << 20) -> TextPage:
        """As `Tails.read_tail_of`, but messages are passed over that have no properties and a payload that is no UTF-8 text
        without NUL: not all such, and nothing else; a few times ``limit`` at most. Without messages, and with none passed over,
        it is the end."""


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

    async def devices_of(self, user: str, after: str = "", limit: int = 0) -> list[Device]:
        """A user's devices, by client id (as UTF-8 bytes): those with an id > ``after``, up to ``limit``; 0 for all."""

    async def devices_from(self, key: DeviceKey, limit: int) -> list[Device]:
        """Up to ``limit`` devices from a key on, by user and client id (as UTF-8 bytes). Costs what it gives."""

    async def devices_named(self, client_id: str, user: str, limit: int) -> list[Device]:
        """Up to ``limit`` devices with this client id, from a user on, by user (as UTF-8 bytes). Costs what it gives."""

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
    finds out by `read_pointers`. Where several nodes write, what is younger than several leases stays: who stored it may be
    about to be told so. That is as of ``now``, in ms, by the clock that messages are stamped with; 0: by the database's.
    """

    async def read_pointers(self, user: str, after: int, limit: int = 5000) -> list[Pointer]:
        """As `InboxReader.read_inbox`, without the messages: up to ``limit`` entries with sequence > ``after``, ascending."""

    async def prune_conversation(self, topic: str, before_seq: int, limit: int = 1000, now: int = 0) -> int:
        """Remove up to ``limit`` stored messages with seq < ``before_seq``, oldest first; how many were removed."""

    async def prune_inbox(self, user: str, before_seq: int, limit: int = 1000, now: int = 0) -> int:
        """Remove up to ``limit`` inbox entries with seq < ``before_seq``, oldest first; how many were removed."""


@runtime_checkable
class Catalogue(Protocol):
    """Listing, for `tideline inspect` and the HTTP API; a reader may open the backend read-only beside a broker."""

    def conversations(self, prefix: str = "", after: str = "") -> AsyncIterator[tuple[str, int, int]]:
        """(topic, first kept sequence, last sequence) by topic name (as UTF-8 bytes), read in pages: of the topics that begin
        with ``prefix`` and come after ``after``."""

    def inboxes(self) -> AsyncIterator[tuple[str, int, int]]:
        """(user key, first kept sequence, last sequence) by user key, read in pages."""


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

    async def sent_between(self, topic: str, user: str, after: int, now: int) -> int:
        """How many kept messages with seq > ``after`` are a user's own, and have not expired at ``now`` (ms)."""


@runtime_checkable
class Recipients(Protocol):
    """Who has one message. It is found by where it must be: no commit writes anything for these questions."""

    async def participants(self, topic: str, after: str = "", limit: int = 1000) -> list[str]:
        """Up to ``limit`` users with a key > ``after`` who take part in a conversation, by key (as UTF-8 bytes)."""

    async def entries_of(self, message: Message, users: Sequence[str]) -> list[int]:
        """For each inbox the sequence of the message's entry; 0 where there is none, or none any more.

        An entry that is for one device (a retained message for a new subscription) is not the message's own. Where ids do not
        rise along an inbox, as in data that came from a cluster, `NEAR` entries around its place are looked at.
        """

    async def read_positions(self, topic: str, users: Sequence[str]) -> list[int]:
        """For each user `Participation.read_position`."""


NEAR = 1000
"""See `Recipients.entries_of`."""


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


@runtime_checkable
class Settings(Protocol):
    """What an administrator keeps in storage. Written by `records.SaveSetting` and `records.DropSetting`."""

    async def settings(self, kind: str) -> list[Setting]:
        """The settings of a kind, by key (as UTF-8 bytes); all of them, by kind and key, where ``kind`` is empty."""


@runtime_checkable
class Rows(Protocol):
    """What plugins keep, of which there may be much. Written by `records.PutRow` and `records.DropRow`.

    Only what is committed is seen. In a cluster a group's rows become visible one after the other, and a node that dies in the
    midst of a group that nobody was told of may leave some of them written and others not; each one is whole.
    """

    async def row(self, table: str, part: str, key: str) -> Row | None:
        """The row with these names."""

    async def rows(
        self, table: str, part: str, *, after: str = "", prefix: str = "", limit: int = 100, max_bytes: int = 1 << 20
    ) -> list[Row]:
        """Up to ``limit`` rows of a part with a key > ``after`` that begins with ``prefix``, by key (as UTF-8 bytes).

        Stops early once values add up to ``max_bytes``, yet gives at least one where there is one.
        """

    def parts(self, table: str) -> AsyncIterator[list[str]]:
        """The parts of a table that have rows, each once, by name (as UTF-8 bytes), in pages of up to 1 MiB."""


LOW_TIMES = 10
"""Of the low-water mark: with less free space than that it is told that space gets short."""


class Space(NamedTuple):
    """Bytes that are free on a database's disk, and with fewer of which it takes no more messages."""

    free: int
    low_water: int

    @property
    def low(self) -> bool:
        """Whether it is time to make room: long before publishers have to wait."""
        return self.free < LOW_TIMES * self.low_water


@runtime_checkable
class HasDisk(Protocol):
    """A backend that writes to a disk of this machine."""

    def space(self) -> Space | None:
        """How much there is; None where the disk cannot be asked. Blocks for a moment, from any thread."""


@runtime_checkable
class Probed(Protocol):
    """A backend that can tell whether it could store a message, before there is one."""

    async def probe(self) -> None:
        """Raises `StorageUnavailable` where the commit of a small message would, as far as that can be told without writing."""


class Volume(NamedTuple):
    """Bytes that what is stored takes (``used``), and of its disk: ``free`` for more, with what may be used again inside the
    database, and ``total``; both None where they are not known."""

    used: int
    free: int | None = None
    total: int | None = None


@runtime_checkable
class Measured(Protocol):
    """A backend that can tell how much there is."""

    async def volume(self) -> Volume:
        """As it is now."""


class Epochs(Protocol):
    """Which copy of the data this is."""

    async def data_epoch(self) -> DataEpoch:
        """The id that the data was made with, or given when it was restored or imported: a sequence that somebody knows from
        another one may name something else here. It does not change while the storage is open."""


class Storage(
    Committer,
    InboxReader,
    ConversationReader,
    Tail,
    Tails,
    State,
    DeviceIndex,
    RetainedReader,
    Pruner,
    Catalogue,
    Participation,
    Recipients,
    Jobs,
    Tokens,
    Settings,
    Rows,
    Epochs,
    Protocol,
):
    """All of it, which is what a backend is: the broker asks once, before it opens one, whether it `lacks` anything."""

    @property
    def cluster(self) -> Cluster | None:
        """This node's part in the cluster, once open; None where the backend serves one node at a time."""

    async def open(self) -> None:
        """Create or migrate the schema; take the lock and recover an interrupted commit, or join the cluster.

        Raises `StorageInUse`, `StorageUnusable` with what to do, or `StorageUnavailable`; opened to be read only, also
        `NoDatabase`, where it would have to make one.
        """

    async def close(self) -> None:
        """Finish the commit under way, give the lock back or leave the cluster, close all. May be called twice.

        Cancelled, it waits no longer for storage that does not answer, and leaves the rest to the next `open`, as a crash does.
        """


def promised() -> set[str]:
    """The names of all that a `Storage` has."""
    return {name for part in Storage.__mro__ for name in vars(part) if not name.startswith("_") and part is not object}


def lacks(backend: object) -> list[str]:
    """The methods of `Storage` that an object has not, by name: for a backend of another maker, which no type checker saw."""
    return sorted(n for n in promised() if not (hasattr(backend, n) if n == "cluster" else callable(getattr(backend, n, None))))
