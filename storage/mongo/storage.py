"""`mongodb://`: the backend for more than one machine's data."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from storage.errors import NoDatabase, StorageError, StorageUnavailable, StorageUnusable
from storage.interface import Due, Membership, Pointer, Subscribed
from storage.mongo import absent, participation, reads
from storage.mongo.commit import Writer
from storage.mongo.connection import Address, Connection, storage_errors
from storage.mongo.documents import Collections
from storage.mongo.late import finish_late, keep_looking
from storage.mongo.lease import Lease, Sighting
from storage.mongo.prune import prune, read_pointers
from storage.mongo.recovery import recover
from storage.mongo.state import State
from storage.records import Device, DeviceKey, InboxEntry, JobState, Message, Operation, Token

log = logging.getLogger(__name__)

SCHEMA = 1
_MOMENT = 0.2
"""Seconds in which a server that answers takes the lease back."""


class MongoStorage:
    """A `storage.interface.Storage`, and a `storage.interface.Catalogue`, over one database of a MongoDB server.

    ``url`` is the driver's, with a database's name; ``tideline_lease_ms`` in its query is the time after which a crashed node's
    database is taken over (10000). Writes are ``w: majority, j: true``, reads of the majority's data, from the primary.

    ``read_only`` takes no lease, creates nothing and recovers nothing: to look at a database beside its broker.

    ``shared`` takes no lease either, so that several writers append to the same timelines, which stay contiguous, and each
    inbox has a publisher's messages in their order, also where the publisher moved on from a writer that crashed. A device must
    have one writer at a time, the rest of a crash's fan-out is finished by the next `open` that is not shared, and reads may
    see a group that is under way. For tests and for tools, until nodes share their subscriptions.
    """

    def __init__(self, url: str, read_only: bool = False, *, shared: bool = False) -> None:
        self._address = Address.parse(url)
        self._read_only = read_only
        self._shared = shared
        self._connection: Connection | None = None
        self._opened: State | None = None
        self._lease: Lease | None = None
        self._holder = Sighting()
        self._writer: Writer | None = None
        self._looking: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._committing: asyncio.Task[None] | None = None

    # --- opening ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `storage.interface.Storage`. Waits up to the lease's time for a crashed predecessor's lease to run out; called
        again after `StorageInUse`, it goes on from what it has seen of the holder."""
        self._connection = Connection.make(self._address)
        try:
            await self._prepare(self._connection)
        except BaseException:
            await self._disconnect()
            raise

    async def _prepare(self, connection: Connection) -> None:
        collections = connection.bound.collections
        with storage_errors(opening=True):
            await connection.client.admin.command("ping")
            schema = await collections.meta.find_one({"_id": "schema"})
        if schema is not None and schema["version"] != SCHEMA:
            raise StorageUnusable(
                f"database {self._address.database!r} has schema {schema['version']}, this version of tideline knows {SCHEMA}"
            )
        state = State(collections, shared=self._shared, serving=not self._read_only)
        if self._read_only:
            if schema is None:
                raise NoDatabase(f"database {self._address.database!r}: there is nothing of tideline's in it")
            self._opened = state
            return
        self._lease = lease = Lease(collections.lease, self._address.database, self._address.lease_ms)
        await (lease.share() if self._shared else lease.acquire(self._holder))
        with storage_errors(opening=True):
            await connection.bound.ensure_indexes()
            await collections.meta.update_one({"_id": "schema"}, {"$set": {"version": SCHEMA}}, upsert=True)
        state.late = lease.watches
        await self._recover(state, lease)
        self._writer = writer = Writer(state, lease)
        self._opened = state

        async def look() -> None:
            async with self._turn:
                await writer.finish_late()

        pause = self._address.lease_ms / 1000
        self._looking = asyncio.create_task(keep_looking(state, pause, look), name="mongodb late messages")

    async def _recover(self, state: State, lease: Lease) -> None:
        if not state.shared:
            missing, highest = await recover(state, lease.done, was_shared=lease.was_shared)
            if missing:
                log.warning("finished an interrupted commit: %d inbox entries were missing", missing)
            lease.watches.recovered(lease.base, highest)
            await finish_late(state)
        state.last_id = await reads.last_id(state)
        with storage_errors():
            newest = await state.collections.store.find_one({}, {"time": 1}, sort=[("mid", -1)])
        state.clock = newest["time"] if newest else 0
        if not state.shared:
            lease.done = state.last_id
            await lease.renew()

    async def close(self) -> None:
        """See `storage.interface.Storage`."""
        committing = self._committing
        if committing is not None:
            try:
                await asyncio.wait([committing])
            except asyncio.CancelledError:
                # Its plan stays, so the lease is given back as one after which something may still come.
                committing.cancel()
                self._writer = None
                await self._disconnect(_MOMENT)
                raise
        self._writer = None
        await self._disconnect()

    async def _disconnect(self, patience: float | None = None) -> None:
        """``patience``: seconds that the server has to take the lease back; None leaves it to the driver."""
        lease, self._lease = self._lease, None
        connection, self._connection = self._connection, None
        state, self._opened = self._opened, None
        try:
            if self._looking is not None:
                self._looking.cancel()
                await asyncio.gather(self._looking, return_exceptions=True)
                self._looking = None
            if lease is not None:
                await lease.release(settled=state is not None and state.plan is None, patience=patience)
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

    async def prune_conversation(self, topic: str, before_seq: int, limit: int = 1000) -> int:
        """See `storage.interface.Pruner`."""
        return await self._prune("topic", topic, before_seq, limit)

    async def prune_inbox(self, user: str, before_seq: int, limit: int = 1000) -> int:
        """See `storage.interface.Pruner`."""
        return await self._prune("user", user, before_seq, limit)

    async def _prune(self, kind: str, name: str, before_seq: int, limit: int) -> int:
        state = self._state
        if self._lease is None:
            raise StorageUnavailable("mongodb storage is open for reading only")
        return await prune(state, self._lease, kind, name, before_seq, limit)

    async def read_pointers(self, user: str, after: int, limit: int = 5000) -> list[Pointer]:
        """See `storage.interface.Pruner`."""
        return await read_pointers(self._state, user, after, limit)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def inbox_head(self, user: str) -> int:
        """See `storage.interface.InboxReader`."""
        return await self._state.inbox_head(user)

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

    async def sequence_at(self, topic: str, time: int) -> int:
        """See `storage.interface.ConversationReader`."""
        return await reads.sequence_at(self._state, topic, time)

    async def read_message(self, message_id: int) -> Message | None:
        """See `storage.interface.ConversationReader`."""
        return await reads.read_message(self._state, message_id)

    async def last_id(self) -> int:
        """See `storage.interface.Tail`."""
        state = self._state
        return state.last_id if state.serving and not state.shared else await reads.last_id(state)

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """See `storage.interface.Tail`."""
        return await reads.read_tail(self._state, after_id, limit, max_bytes)

    def devices(self) -> AsyncIterator[Device]:
        """See `storage.interface.State`."""
        return reads.devices(self._state)

    async def device_count(self) -> int:
        """See `storage.interface.DeviceIndex`."""
        return await absent.device_count(self._state)

    def subscribed(self) -> AsyncIterator[list[Subscribed]]:
        """See `storage.interface.DeviceIndex`."""
        return absent.subscribed(self._state)

    def undated(self, now: int) -> AsyncIterator[list[Device]]:
        """See `storage.interface.DeviceIndex`."""
        return absent.undated(self._state, now)

    async def due(self, now: int, limit: int = 500) -> Due:
        """See `storage.interface.DeviceIndex`."""
        return await absent.due(self._state, now, limit)

    async def devices_of(self, user: str) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        return await absent.devices_of(self._state, user)

    async def lowest_offset(self, user: str) -> int | None:
        """See `storage.interface.DeviceIndex`."""
        return await absent.lowest_offset(self._state, user)

    def lowest_offsets(self) -> AsyncIterator[list[tuple[str, int]]]:
        """See `storage.interface.DeviceIndex`."""
        return absent.lowest_offsets(self._state)

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

    async def token(self, digest: str) -> Token | None:
        """See `storage.interface.Tokens`."""
        return await participation.token(self._state, digest)

    async def tokens(self, user: str) -> list[Token]:
        """See `storage.interface.Tokens`."""
        return await participation.tokens(self._state, user)

    async def jobs(self) -> list[JobState]:
        """See `storage.interface.Jobs`."""
        return await participation.jobs(self._state)

    # --- listings --------------------------------------------------------------------------------------------------

    def conversations(self, prefix: str = "") -> AsyncIterator[tuple[str, int, int]]:
        """See `storage.interface.Catalogue`."""
        return reads.conversations(self._state, prefix)

    def inboxes(self) -> AsyncIterator[tuple[str, int, int]]:
        """See `storage.interface.Catalogue`."""
        return reads.inboxes(self._state)


def _retrieved(task: asyncio.Task[None]) -> None:
    """Look at the outcome of a commit whose caller was cancelled."""
    if not task.cancelled() and isinstance(error := task.exception(), StorageError):
        log.debug("a commit ended: %s", error)
