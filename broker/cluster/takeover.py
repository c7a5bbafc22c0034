"""One device, one node: a device that connects here, or is changed here, is first taken from whichever node has it.

- The holder is asked: it closes the connection with 0x8E, and answers once all that the connection brought, its progress and
  its end are durable. What is read of the device here comes after that.
- A holder that does not answer (`Mailbox.ask_surely`) is suspected, once for all of its devices. The device is taken without
  it: by compare-and-set the epoch is raised, so that what it still writes changes nothing, and the device counts as
  disconnected now, by which its will and its expiry go on as after a crash. Then what the holder stored and did not fan out
  is finished.
- Of two nodes that open one device at once storage refuses one (`storage.errors.Superseded`), which closes its connection.
  One that found no session, and opens behind a node that has made one meanwhile, is told so by storage, reads what there is by
  then, and opens it anew (`broker.sessions.lifecycle.Sessions.start_over`).
- A node that learns that its device was taken closes the connection, and writes and publishes nothing for it. What the
  connection brought and no group has stored yet is refused: its client sends that again to the other node, in its order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.cluster.late_messages import LateMessages
from broker.cluster.mailbox import AskFailed
from broker.packets import SHARE, ReasonCode, shown
from broker.pipeline import Operations
from broker.sessions import Read, disconnected_now, is_channel, member_key, member_of
from storage.cluster import HELD, Change, Wake
from storage.ending import end
from storage.errors import StorageError, StorageUnavailable, Superseded
from storage.records import Announce, Append, CloseSession, Device, DeviceKey, OpenSession, Operation

if TYPE_CHECKING:
    from broker.cluster.cluster import Cluster
    from broker.sessions import Session

log = logging.getLogger(__name__)

_GIVE = "give"
_TAKEN = "taken over by a newer connection to another node"
_AT_ONCE = 50
_AGAIN = 0.5
"""Seconds between two tries, while storage is away."""


class _Turns:
    """Of the CONNECTs of one device."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class Takeover:
    """Takes devices from other nodes, and gives them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._server = cluster.server
        self._finishing: dict[int, asyncio.Task[None]] = {}
        """By token: the next `Cluster.finish` of a silent node, which has not begun yet."""
        self._finish_lock: dict[int, asyncio.Lock] = {}
        self._taking: dict[DeviceKey, tuple[int, asyncio.Task[None]]] = {}
        """From whom devices are being taken."""
        self._late = LateMessages(self._server.pipeline.submit)
        self.late = self._late.below
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: dict[DeviceKey, list[asyncio.Event]] = {}
        self._turns: dict[DeviceKey, _Turns] = {}
        cluster.mailbox.on(_GIVE, self._give)

    # --- taking --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def in_turn(self, key: DeviceKey) -> AsyncIterator[None]:
        """One CONNECT of a device after the other, as they came. Else an older one, which waited for another node's answer,
        takes the device from a newer one, which had not to."""
        turns = self._turns.setdefault(key, _Turns())
        turns.waiting += 1
        try:
            async with turns.lock:
                yield
        finally:
            turns.waiting -= 1
            if not turns.waiting:
                del self._turns[key]

    async def take(self, key: DeviceKey) -> Read | None:
        """See to it that no other node has the device, and that nothing of it here is older than storage.

        What was read of it, where nobody had it. Raises `StorageError`.
        """
        untouched = await self._server.sessions.refresh(key)
        asked: dict[int, int] = {}
        while True:
            holder, device = await self._cluster.where(key)
            if not holder:
                if (taking := self._taking.get(key)) is not None:
                    await asyncio.shield(taking[1])
                    return None
                return Read(device) if untouched else None
            epoch = device.epoch if device is not None else 0  # a later one: it has connected there again
            if asked.get(holder) == epoch or not self._cluster.members.answers(holder):
                break
            asked[holder] = epoch
            if not await self._ask(holder, key):
                break
        await self._take_from(holder, key)
        return None

    async def _take_from(self, holder: int, key: DeviceKey) -> None:
        """Take a device of a silent node, to the end: its client may go away, and storage may, and what that node has half done
        is then still to come before what the device does next."""
        while (taking := self._taking.get(key)) is not None:
            await asyncio.shield(taking[1])
            if taking[0] == holder:
                return
        task = self._begin(self._take_to_the_end(holder, key), f"take {shown(key.client_id)}")
        self._taking[key] = holder, task
        task.add_done_callback(partial(self._taken_to_the_end, key))
        await asyncio.shield(task)

    def _taken_to_the_end(self, key: DeviceKey, task: asyncio.Task[None]) -> None:
        del self._taking[key]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StorageError):  # our bug, and who waited for it may be gone
            log.error("taking %s failed", shown(key.client_id), exc_info=error)

    async def _take_to_the_end(self, holder: int, key: DeviceKey) -> None:
        while True:
            try:
                await self.seize(holder, [key, *(member_key(channel, key) for channel in self._server.channels.known)])
                await self.finish(holder)
            except StorageUnavailable as error:
                log.debug("%s cannot be taken yet: %s", shown(key.client_id), error)
                await asyncio.sleep(_AGAIN)
            else:
                return

    async def _ask(self, holder: int, key: DeviceKey) -> bool:
        """Whether the holder gave the device."""
        members, body = self._cluster.members, {"user": key.user, "client": key.client_id}
        try:
            await self._cluster.mailbox.ask_surely(holder, _GIVE, body, members.patience)
        except TimeoutError:
            log.warning("node %s does not answer: its devices are taken without it", members.named(holder))
            members.suspect(holder)
        except AskFailed as error:
            log.error("node %s could not give %s: %s", members.named(holder), shown(key.client_id), error)
        else:
            return True
        return False

    async def seize(self, holder: int, keys: Sequence[DeviceKey]) -> list[Device]:
        """Take devices without their holder: they count as disconnected now, durably. Those that it had."""
        take = self._cluster.shared.take
        end = partial(disconnected_now, now=self._server.time.now())
        found: list[Device] = []
        for start in range(0, len(keys), _AT_ONCE):
            taken = await asyncio.gather(*(take(key, holder, end) for key in keys[start : start + _AT_ONCE]))
            found += [device for device in taken if device is not None]
        return found

    async def finish(self, token: int) -> None:
        """Complete what a silent node stored and did not fan out. What is asked while one runs is done by one more."""
        task = self._finishing.get(token)
        if task is None:
            task = self._finishing[token] = self._begin(self._finish(token), f"finish node {token}")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # who asked may be gone by then
        await asyncio.shield(task)

    async def _finish(self, token: int) -> None:
        lock = self._finish_lock.setdefault(token, asyncio.Lock())
        try:
            async with lock:
                del self._finishing[token]
                found = await self._cluster.shared.finish(token)
        finally:
            if token not in self._finishing and not lock.locked():
                self._finish_lock.pop(token, None)
        if found.entries:
            log.warning(
                "%d inbox entries that node %s did not make are made", found.entries, self._cluster.members.named(token)
            )
        await self._cluster.wake([Wake(user, seq, None) for user, seq in found.heads])
        await self._cluster.untold.tell(token, found.untold)

    async def store(self, operations: list[Operation]) -> None:
        """Store these, and all that was submitted before."""
        step = Operations(operations)
        self._server.pipeline.submit(step)
        await step.finished

    # --- giving --------------------------------------------------------------------------------------------------------

    async def _give(self, sender: int, body: Any) -> None:
        key = DeviceKey(body["user"], body["client"])
        session = self._server.sessions.get(key)
        if session is not None and session.connection is not None:
            self._server.counters.takeovers += 1
            session.connection.disconnect(ReasonCode.SESSION_TAKEN_OVER, _TAKEN)
        await self.store([])
        self._server.sessions.forget(key)

    # --- losing --------------------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, key: DeviceKey) -> Iterator[asyncio.Event]:
        """An event that is set where this node loses the device meanwhile."""
        lost = asyncio.Event()
        events = self._watched.setdefault(key, [])
        events.append(lost)
        try:
            yield lost
        finally:
            events.remove(lost)
            if not events:
                self._watched.pop(key, None)

    def _lose(self, session: Session) -> None:
        for lost in self._watched.get(session.key, ()):
            lost.set()
        self._server.sessions.lose(session)

    def taken(self, key: DeviceKey, epoch: int, node: int) -> None:
        """The routes say that another node has a device as of an epoch, 0 for a clean session; before that this one had it."""
        session = self._server.sessions.get(key)
        if session is None:
            self._late.refuse(key, epoch)
            return
        if not epoch and session.kept:  # the other node knows nothing of what storage has of this one, such as its will
            if session.connection is not None:
                self._server.counters.takeovers += 1
                session.connection.disconnect(ReasonCode.SESSION_TAKEN_OVER, _TAKEN)
        elif not session.kept or session.epoch < epoch:
            self._late.refuse(key, epoch)
            self._lose(session)
        elif session.connection is not None:
            self._begin(self._insist(session), "a device that is here")

    async def _insist(self, session: Session) -> None:
        """Another node wanted to open the device with the epoch that it has here, and told so before storage refused it.

        It takes that back, unless it dies; and who had something for the device meanwhile has told the wrong node.
        """
        await self.store([])
        if session.connection is None or self._server.sessions.get(session.key) is not session:
            return
        await self.store([Announce([Change(HELD, *session.key, epoch=session.epoch, node=self._cluster.me.token)])])
        read = partial(self._server.storage.inbox_head, session.key.user)
        head = await self._server.delivery.persist(session.key.client_id, read)
        self._server.delivery.arrived(self._cluster.me.number, [Wake(session.key.user, head, None)], (), ())

    def superseded(self, operations: Sequence[Operation]) -> None:
        """Of a committed group: storage refused some operations as another node has their devices by now."""
        for operation in operations:
            if isinstance(operation.error, Superseded):
                self._superseded(operation)

    def _superseded(self, operation: Operation) -> None:
        published = operation.message if isinstance(operation, Append) else None
        key: DeviceKey = DeviceKey(published.user, published.device) if published else operation.device  # type: ignore[union-attr]
        session = self._server.sessions.get(key)
        epoch = getattr(operation, "epoch", session.epoch if session is not None else 0)
        self._late.refuse(key, epoch + 1)
        if session is not None and session.epoch <= epoch:
            self._lose(session)
        deletes = isinstance(operation, CloseSession) and operation.delete
        if (deletes or isinstance(operation, OpenSession)) and not is_channel(key.user):
            self._begin(self._keep_filters(key), "filters of a session that goes on elsewhere")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_filters(self, key: DeviceKey) -> None:
        """A session that was to end here, or to begin, goes on elsewhere, and the filters that it got there match here too."""
        device = await self._server.delivery.persist(key.client_id, partial(self._server.storage.device, key))
        if device is not None and self._server.sessions.get(key) is None:
            for filter_ in device.subscriptions:
                if not filter_.startswith(SHARE):
                    self._server.trie.add_aside(filter_, member_of(*key))

    async def stop(self) -> None:
        """Finish nothing more."""
        await end(list(self._tasks))
