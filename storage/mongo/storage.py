"""`mongodb://`: the backend for more than one machine's data.

Over 300 lines: each method of the interface is here, and hands its work to who does it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence

from storage.cluster import Cluster
from storage.ending import end
from storage.errors import NoDatabase, StorageError, StorageUnavailable, StorageUnusable
from storage.interface import Due, Membership, Newest, Pointer, Subscribed, TailPage, Volume
from storage.mongo import device_index, participation, reads, recipients, rows
from storage.mongo.clock import DatabaseClock
from storage.mongo.cluster import MongoCluster
from storage.mongo.commands import BULK_WRITE
from storage.mongo.commit import Writer
from storage.mongo.connection import Address, Connection, is_router, storage_errors
from storage.mongo.documents import Collections
from storage.mongo.earlier_lease import end_serving_alone
from storage.mongo.joining import join
from storage.mongo.lanes import Lanes
from storage.mongo.migrate import SCHEMA, migrate, refuse_unfinished_import
from storage.mongo.node import MongoNode
from storage.mongo.prune import prune, read_pointers
from storage.mongo.routes import Routes
from storage.mongo.state import State
from storage.records import DataEpoch, Device, DeviceKey, InboxEntry, JobState, Message, Operation, Row, RowKey, Setting, Token

log = logging.getLogger(__name__)

_SPARED_LEASES = 4
_MOMENT = 0.2
"""Seconds in which a server that answers learns that this node has ended."""


class MongoStorage:
    """A `storage.interface.Storage`, and a `storage.interface.Catalogue`, over one database of a MongoDB server.

    ``url`` is the driver's, with a database's name; ``tideline_lease_ms`` in its query is the time after which a node that
    shows no beat counts as dead (10000). Writes are ``w: majority, j: true``, reads of the majority's data, from the primary.

    Opened, it is a node among others; ``name`` is what people know it by. ``read_only`` joins nothing, creates nothing and
    changes nothing: to look at a database beside its brokers.
    """

    def __init__(self, url: str, read_only: bool = False, *, name: str = "") -> None:
        self._address = Address.parse(url)
        self._read_only = read_only
        self.name = name
        self.cluster_settings: Mapping[str, str] = {}
        self._connection: Connection | None = None
        self._opened: State | None = None
        self._node: MongoNode | None = None
        self._lanes: Lanes | None = None
        self._part: MongoCluster | None = None
        self._writer: Writer | None = None
        self._turn = asyncio.Lock()
        self._committing: asyncio.Task[None] | None = None

    # --- opening ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `storage.interface.Storage`. What a dead node left half done is finished by `storage.cluster.Cluster.finish`."""
        self._connection = Connection.make(self._address)
        try:
            await self._prepare(self._connection)
        except BaseException:
            await self._disconnect(settled=True)
            raise

    async def _prepare(self, connection: Connection) -> None:
        collections = connection.bound.collections
        with storage_errors(opening=True):
            hello = await connection.client.admin.command("hello")
            schema = await collections.meta.find_one({"_id": "schema"})
        await refuse_unfinished_import(collections.meta, self._address.database)
        version = schema["version"] if schema is not None else 0
        if version > SCHEMA or (self._read_only and 0 < version < SCHEMA):
            raise StorageUnusable(
                f"database {self._address.database!r} has schema {version}, this version of tideline knows {SCHEMA}"
            )
        state = State(collections, connection.client.admin, DatabaseClock(connection.client))
        state.in_turn = hello["maxWireVersion"] >= BULK_WRITE
        if self._read_only:
            if schema is None:
                raise NoDatabase(f"database {self._address.database!r}: there is nothing of tideline's in it")
            self._opened = state
            return
        await end_serving_alone(collections, self._address.database)
        with storage_errors(opening=True):
            await connection.bound.ensure_indexes(sharded=is_router(hello))
        await migrate(collections, version)
        await self._join(connection, state)

    async def _join(self, connection: Connection, state: State) -> None:
        collections = state.collections
        clock = state.database_clock
        node = await join(collections.nodes, clock, self._address.lease_ms, self.name, self.cluster_settings)
        self._node = node
        node.start()
        state.token, state.number = node.token, node.number
        state.last_id = node.done = max(node.done, await reads.last_id(state))
        with storage_errors():
            newest = await collections.store.find_one({}, {"time": 1}, sort=[("mid", -1)])
        state.clock = newest["time"] if newest else 0
        routes = Routes(collections.routes, collections.nodes, node, clock)
        self._lanes = lanes = Lanes(collections.lanes, node, self.read_messages)
        await lanes.start(connection.client)
        self._writer = writer = Writer(state, node, routes.append)
        self._part = part = MongoCluster(state, node, clock, routes, lanes, writer)
        await part.tidy()
        self._opened = state

    async def close(self) -> None:
        """See `storage.interface.Storage`."""
        committing, writer, part = self._committing, self._writer, self._part
        if committing is not None:
            try:
                await asyncio.wait([committing])
            except asyncio.CancelledError:
                # Its group stays half done, so this node ends as one whose last group others must finish.
                await end([committing])
                self._writer = None
                await self._disconnect(settled=False, patience=_MOMENT)
                raise
        self._writer = None
        forwarded = part is None or part.forwarded
        await self._disconnect(settled=forwarded and (writer is None or writer.settled))

    async def _disconnect(self, *, settled: bool, patience: float | None = None) -> None:
        """``patience``: seconds that the server has to learn that this node has ended; None leaves it to the driver."""
        connection, self._connection = self._connection, None
        part, self._part = self._part, None
        node, self._node = self._node, None
        lanes, self._lanes = self._lanes, None
        self._opened = None
        try:
            if lanes is not None:
                await lanes.stop()
            if node is not None and await node.leave(settled=settled, patience=patience) and part is not None:
                await part.leave(patience)
        finally:
            if connection is not None:
                await connection.close()

    @property
    def _state(self) -> State:
        if self._opened is None:
            raise StorageUnavailable("mongodb storage is closed")
        return self._opened

    @property
    def collections(self) -> Collections:
        """The raw collections, for benchmarks and tools."""
        return self._state.collections

    @property
    def cluster(self) -> Cluster | None:
        """See `storage.interface.Storage`."""
        return self._part

    # --- writing ---------------------------------------------------------------------------------------------------

    async def commit(self, group: Sequence[Operation]) -> None:
        """See `storage.interface.Committer`. Cancelling the caller does not stop the writes; `close` waits for them."""
        task = asyncio.create_task(self._commit(group), name="mongodb commit")
        self._committing = task
        task.add_done_callback(_retrieved)
        await asyncio.shield(task)

    async def _commit(self, group: Sequence[Operation]) -> None:
        async with self._turn:
            if self._writer is None:
                raise StorageUnavailable("mongodb storage is closed, or open for reading only")
            await self._writer.commit(group)
            if self._node is not None:
                self._node.done = self._state.last_id

    async def prune_conversation(self, topic: str, before_seq: int, limit: int = 1000, now: int = 0) -> int:
        """See `storage.interface.Pruner`."""
        return await self._prune("topic", topic, before_seq, limit, now)

    async def prune_inbox(self, user: str, before_seq: int, limit: int = 1000, now: int = 0) -> int:
        """See `storage.interface.Pruner`."""
        return await self._prune("user", user, before_seq, limit, now)

    async def _prune(self, kind: str, name: str, before_seq: int, limit: int, now: int) -> int:
        if self._node is None:
            raise StorageUnavailable("mongodb storage is closed, or open for reading only")
        await self._node.confirm()
        return await prune(self._state, kind, name, before_seq, limit, _SPARED_LEASES * self._address.lease_ms, now)

    async def read_pointers(self, user: str, after: int, limit: int = 5000) -> list[Pointer]:
        """See `storage.interface.Pruner`."""
        return await read_pointers(self._state, user, after, limit)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def inbox_head(self, user: str) -> int:
        """See `storage.interface.InboxReader`."""
        _, head = await self._state.inbox_ends(user)
        return head.seq

    async def inbox_bounds(self, user: str) -> tuple[int, int]:
        """See `storage.interface.InboxReader`."""
        return await reads.inbox_bounds(self._state, user)

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]:
        """See `storage.interface.InboxReader`."""
        return await reads.read_inbox(self._state, user, after, limit, max_bytes)

    async def conversation_bounds(self, topic: str) -> tuple[int, int]:
        """See `storage.interface.ConversationReader`."""
        return await reads.conversation_bounds(self._state, topic)

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
        """See `storage.interface.ConversationReader`."""
        return await reads.read_conversation(self._state, topic, after, before, limit, newest_first, max_bytes)

    async def newest(self, topics: Sequence[str]) -> list[Newest]:
        """See `storage.interface.ConversationReader`."""
        return await participation.newest(self._state, topics)

    async def sequence_at(self, topic: str, time: int) -> int:
        """See `storage.interface.ConversationReader`."""
        return await reads.sequence_at(self._state, topic, time)

    async def read_message(self, message_id: int) -> Message | None:
        """See `storage.interface.ConversationReader`."""
        return await reads.read_message(self._state, message_id)

    async def read_messages(self, ids: Sequence[int]) -> list[Message]:
        """See `storage.interface.ConversationReader`."""
        return await reads.read_messages(self._state, ids)

    async def last_id(self) -> int:
        """See `storage.interface.Tail`."""
        return await reads.last_id(self._state)

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """See `storage.interface.Tail`."""
        return await reads.read_tail(self._state, after_id, limit, max_bytes)

    async def tails(self) -> dict[int, int]:
        """See `storage.interface.Tails`."""
        return await reads.tails(self._state)

    async def read_tail_of(self, number: int, after: int, through: int, limit: int, max_bytes: int = 1 << 20) -> TailPage:
        """See `storage.interface.Tails`."""
        return await reads.read_tail_of(self._state, number, after, through, limit, max_bytes)

    def devices(self) -> AsyncIterator[Device]:
        """See `storage.interface.State`."""
        return reads.devices(self._state)

    async def device_count(self) -> int:
        """See `storage.interface.DeviceIndex`."""
        return await device_index.device_count(self._state)

    def subscribed(self) -> AsyncIterator[list[Subscribed]]:
        """See `storage.interface.DeviceIndex`."""
        return device_index.subscribed(self._state)

    def undated(self, now: int) -> AsyncIterator[list[Device]]:
        """See `storage.interface.DeviceIndex`."""
        return device_index.undated(self._state, now)

    async def due(self, now: int, limit: int = 500) -> Due:
        """See `storage.interface.DeviceIndex`."""
        return await device_index.due(self._state, now, limit)

    async def devices_of(self, user: str, after: str = "", limit: int = 0) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        return await device_index.devices_of(self._state, user, after, limit)

    async def devices_from(self, key: DeviceKey, limit: int) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        return await device_index.devices_from(self._state, key, limit)

    async def devices_named(self, client_id: str, user: str, limit: int) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        return await device_index.devices_named(self._state, client_id, user, limit)

    async def lowest_offset(self, user: str) -> int | None:
        """See `storage.interface.DeviceIndex`."""
        return await device_index.lowest_offset(self._state, user)

    def lowest_offsets(self) -> AsyncIterator[list[tuple[str, int]]]:
        """See `storage.interface.DeviceIndex`."""
        return device_index.lowest_offsets(self._state)

    async def retained_range(self, prefix: str, after: str, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """See `storage.interface.RetainedReader`."""
        return await reads.retained_range(self._state, prefix, after, limit, max_bytes)

    async def retained_count(self) -> int:
        """See `storage.interface.RetainedReader`."""
        return await reads.retained_count(self._state)

    async def retained_expired(self, now: int, limit: int) -> list[tuple[str, int]]:
        """See `storage.interface.RetainedReader`."""
        return await reads.retained_expired(self._state, now, limit)

    async def device(self, key: DeviceKey) -> Device | None:
        """See `storage.interface.State`."""
        return await reads.device(self._state, key)

    # --- participation and tokens ----------------------------------------------------------------------------------

    async def memberships(self, user: str, after: str = "", limit: int = 100) -> list[Membership]:
        """See `storage.interface.Participation`."""
        return await participation.memberships(self._state, user, after, limit)

    async def takes_part(self, user: str, topic: str) -> bool:
        """See `storage.interface.Participation`."""
        return await participation.takes_part(self._state, user, topic)

    async def read_position(self, user: str, topic: str) -> int:
        """See `storage.interface.Participation`."""
        return (await participation.read_positions(self._state, [(user, topic)])).get((user, topic), 0)

    async def expired_between(self, topic: str, after: int, now: int) -> int:
        """See `storage.interface.Participation`."""
        return await participation.expired_between(self._state, topic, after, now)

    async def sent_between(self, topic: str, user: str, after: int, now: int) -> int:
        """See `storage.interface.Participation`."""
        return await participation.sent_between(self._state, topic, user, after, now)

    async def participants(self, topic: str, after: str = "", limit: int = 1000) -> list[str]:
        """See `storage.interface.Recipients`."""
        return await recipients.participants(self._state, topic, after, limit)

    async def entries_of(self, message: Message, users: Sequence[str]) -> list[int]:
        """See `storage.interface.Recipients`."""
        return await recipients.entries_of(self._state, message, users)

    async def read_positions(self, topic: str, users: Sequence[str]) -> list[int]:
        """See `storage.interface.Recipients`."""
        positions = await participation.read_positions(self._state, [(user, topic) for user in users])
        return [positions.get((user, topic), 0) for user in users]

    async def token(self, digest: str) -> Token | None:
        """See `storage.interface.Tokens`."""
        return await participation.token(self._state, digest)

    async def tokens(self, user: str) -> list[Token]:
        """See `storage.interface.Tokens`."""
        return await participation.tokens(self._state, user)

    async def jobs(self) -> list[JobState]:
        """See `storage.interface.Jobs`."""
        return await participation.jobs(self._state)

    async def settings(self, kind: str) -> list[Setting]:
        """See `storage.interface.Settings`."""
        return await participation.settings(self._state, kind)

    async def row(self, table: str, part: str, key: str) -> Row | None:
        """See `storage.interface.Rows`."""
        return await rows.row(self._state, RowKey(table, part, key))

    async def rows(
        self, table: str, part: str, *, after: str = "", prefix: str = "", limit: int = 100, max_bytes: int = 1 << 20
    ) -> list[Row]:
        """See `storage.interface.Rows`."""
        return await rows.rows(self._state, table, part, after, prefix, limit, max_bytes)

    def parts(self, table: str) -> AsyncIterator[list[str]]:
        """See `storage.interface.Rows`."""
        return rows.parts(self._state, table)

    async def volume(self) -> Volume:
        """See `storage.interface.Measured`: documents, not compressed, and indexes. Of its disks nothing is told, as what is
        removed stays the files' to be used again."""
        with storage_errors():
            stats = await self._state.collections.meta.database.command("dbStats")
        return Volume(int(stats["dataSize"]) + int(stats["indexSize"]))

    async def data_epoch(self) -> DataEpoch:
        """See `storage.interface.Epochs`."""
        return await reads.data_epoch(self._state)

    # --- listings --------------------------------------------------------------------------------------------------

    def conversations(self, prefix: str = "", after: str = "") -> AsyncIterator[tuple[str, int, int]]:
        """See `storage.interface.Catalogue`."""
        return reads.conversations(self._state, prefix, after)

    def inboxes(self) -> AsyncIterator[tuple[str, int, int]]:
        """See `storage.interface.Catalogue`."""
        return reads.inboxes(self._state)


def _retrieved(task: asyncio.Task[None]) -> None:
    """Look at the outcome of a commit whose caller was cancelled."""
    if not task.cancelled() and isinstance(error := task.exception(), StorageError):
        log.debug("a commit ended: %s", error)
