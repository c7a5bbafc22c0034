"""The server as plugins see it: `BrokerApi` over the real one.

Over 300 lines: one class with everything that plugins may ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from amqtt.contexts import Action

from broker.access import Bans, Identity, info_of
from broker.amqtt import standings
from broker.amqtt.api import ConnectedDevices, DeviceState, ServerStatus, SessionState, Undecided
from broker.amqtt.clients import Clients
from broker.amqtt.connected import connected_devices
from broker.amqtt.following import Following
from broker.amqtt.left_open import refuse_unguarded
from broker.amqtt.standings import LiveStandings
from broker.amqtt.stored_sessions import stored_from
from broker.amqtt.stored_settings import StoredSettings, Watcher
from broker.config import Reloaded
from broker.connection import NodeState, NoDevice, SessionReaders, end_connections
from broker.counters import Counters
from broker.packets import ProtocolViolation, ReasonCode, matches, topics
from broker.pipeline import Operations, Step
from broker.publication import Acks, Origin, Outgoing, Publication
from broker.sessions import Session
from storage.errors import MessageRefused, StorageUnavailable
from storage.records import Device, DeviceKey, DropSetting, MarkRead, Message, Operation, SaveSetting

if TYPE_CHECKING:
    from broker.access import AccessControl
    from broker.amqtt.node import Node
    from broker.config import CertificateWatch, Origins, Settings
    from broker.limits import Gate
    from broker.sessions import RetentionLock
    from broker.trace import Tracer
    from storage.interface import Storage

T = TypeVar("T")

_TELL = "tell"
_MOST_LEFT = 1000
"""Pieces of work whose callers have gone, and that wait for storage."""
BROKER_USER = "b/tideline"
"""The user key of messages that the broker itself publishes."""


class Waiter(Origin):
    """The origin of a publication whose publisher awaits the commit."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Publication] = asyncio.get_running_loop().create_future()

    def stored(self, publication: Publication, acks: Acks) -> None:
        """The group is durable, or this message was refused."""
        if self.future.done():
            return
        if publication.error is not None:
            self.future.set_exception(publication.error)
        else:
            self.future.set_result(publication)


class Turn:
    """Waits for room in the pipeline."""

    def __init__(self) -> None:
        self.come = asyncio.Event()

    def resume_submitting(self) -> None:
        self.come.set()


def _forget(future: asyncio.Future[Any]) -> None:
    """Nobody waits for this any more, so nobody is told what became of it."""
    if not future.cancelled():
        future.exception()


class ServerApi:
    """Implements `broker.amqtt.api.Services`."""

    def __init__(self, server: Node, readers: SessionReaders) -> None:
        self._server = server
        self.readers = readers
        self.stored_settings = StoredSettings(self._look_at_guards)
        self.clients = Clients(server, self)
        self._read_watchers: list[Callable[[Sequence[MarkRead]], None]] = []
        self._left: set[asyncio.Future[Any]] = set()
        """What goes on for callers that were told that it is undecided."""
        self.following = Following(server, self)

    async def _look_at_guards(self, storage: Storage, kinds: Collection[str]) -> None:
        loaded = self._server.plugin_host.plugins.plugins
        await refuse_unguarded(storage, kinds, loaded, self._server.settings.left_out)

    @property
    def counters(self) -> Counters:
        return self._server.counters

    def status(self) -> ServerStatus:
        server = self._server
        return ServerStatus(
            clients_connected=server.clients,
            clients_disconnected=len(server.sessions) - server.clients,
            clients_maximum=server.clients_maximum,
            subscriptions=server.trie.count,
            shared_subscriptions=len(server.shared_groups),
            retained=server.retained.count,
            storage_available=server.commits.unavailable_since is None,
            disk_full=server.commits.disk_full,
            pending_messages=server.pipeline.pending,
            pending_bytes=server.pipeline.pending_bytes,
            trouble="" if server.cluster is None else server.cluster.trouble,
        )

    async def connected_devices(self) -> ConnectedDevices:
        return await connected_devices(self._server)

    def sessions(self) -> Iterable[SessionState]:
        return (_state(session) for session in list(self._server.sessions))

    def session(self, client_id: str) -> SessionState | None:
        found = _chosen(self._server.sessions.named(client_id))
        return _state(found) if found is not None else None

    def subscriptions(self) -> Iterable[tuple[str, str, int]]:
        return (
            (filter_, session.key.client_id, subscription.options & 3)
            for session in list(self._server.sessions)
            for filter_, subscription in list(session.subscriptions.items())
        )

    def retained(self) -> Iterable[Message]:
        return iter(self._server.retained)

    def retained_message(self, topic: str) -> Message | None:
        return self._server.retained.get(topic)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, durable: bool = True) -> None:
        try:
            topics.validate_name(topic)
        except ProtocolViolation as violation:
            raise MessageRefused(violation.text) from violation
        message = Outgoing(topic, BROKER_USER, "", qos, payload, retain)
        if durable:
            await self.append(Publication(message, retain=retain))
        else:
            self._server.publish_path.publish_transient(message)

    async def append(self, publication: Publication) -> Publication:
        """Take a message through the pipeline; returns when it is durable. Raises what refused it."""
        return await self.submit(publication)

    def submit(self, publication: Publication) -> asyncio.Future[Publication]:
        waiter = Waiter()
        publication.origin = waiter
        self._server.pipeline.submit(publication)
        return waiter.future

    # --- Services ----------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self._server.settings

    @property
    def certificates(self) -> CertificateWatch:
        return self._server.certificates

    @property
    def origins(self) -> Origins:
        return self._server.origins

    @property
    def retention_lock(self) -> RetentionLock:
        return self._server.retention_lock

    @property
    def storage(self) -> Storage:
        return self._server.storage

    @property
    def gate(self) -> Gate:
        return self._server.gate

    @property
    def access(self) -> AccessControl:
        return self._server.access

    @property
    def bans(self) -> Bans:
        return self._server.bans

    @property
    def tracer(self) -> Tracer:
        return self._server.traces

    @property
    def auth_plugins(self) -> list[object]:
        return list(self._server.plugin_host.plugins.auth_plugins)

    def plugin(self, kind: type[T]) -> T | None:
        return next((p for p in self._server.plugin_host.plugins.plugins if isinstance(p, kind)), None)

    def now(self) -> int:
        return self._server.time.now()

    def wall(self) -> int:
        return self._server.time.wall()

    async def append_within(self, publication: Publication, timeout: float) -> Publication:
        (done,) = await self.append_all_within([publication], timeout)
        if isinstance(done, BaseException):
            raise done
        return done

    async def append_all_within(self, publications: Sequence[Publication], timeout: float) -> list[Publication | BaseException]:
        deadline = asyncio.get_running_loop().time() + timeout
        answers: list[Awaitable[Publication]] = []
        for publication in publications:
            try:
                await self._room(deadline - asyncio.get_running_loop().time())
            except StorageUnavailable as error:
                refused: asyncio.Future[Publication] = asyncio.get_running_loop().create_future()
                refused.set_exception(error)
                answers.append(refused)
                continue
            answers.append(self._answer(publication, self.submit(publication), deadline))
        return list(await asyncio.gather(*answers, return_exceptions=True))

    async def commit(self, operations: list[Operation], timeout: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout
        await self._room(timeout)
        step = Operations(operations)
        if any(isinstance(op, SaveSetting | DropSetting) for op in operations):
            step.finished.add_done_callback(lambda _: self.stored_settings.committed(operations))
        if self._read_watchers and (marks := [op for op in operations if isinstance(op, MarkRead)]):
            step.finished.add_done_callback(lambda _: self._marked(marks))
        self._server.pipeline.submit(step)
        await self._answer(step, step.finished, deadline)

    def standings(self) -> LiveStandings:
        return LiveStandings(self._server)

    def watch_progress(self, callback: Callable[[Sequence[Operation]], None]) -> None:
        self._server.delivery.watchers.append(callback)

    def watch_reads(self, callback: Callable[[Sequence[MarkRead]], None]) -> None:
        self._read_watchers.append(callback)

    def _marked(self, marks: Sequence[MarkRead]) -> None:
        moved = [mark for mark in marks if mark.error is None]
        for watcher in self._read_watchers:
            watcher(moved)

    def watch_settings(self, kind: str, callback: Watcher) -> Callable[[], None]:
        return self.stored_settings.watch(kind, callback)

    def revoke(self, revoked: Callable[[Identity], bool], why: str) -> int:
        self._server.access.rules_changed()
        return len(end_connections(self._server.connections, lambda one: revoked(one.info.identity), why))

    async def _room(self, timeout: float) -> None:
        """Wait for room in the pipeline, as a socket that is not read does (law 6)."""
        pipeline = self._server.pipeline
        deadline = asyncio.get_running_loop().time() + timeout
        while pipeline.full:
            turn = Turn()
            pipeline.pause(turn)
            come = asyncio.ensure_future(turn.come.wait())
            try:
                if not await self._done(come, deadline):
                    raise StorageUnavailable("the broker is busy: storage does not keep up")
            finally:
                come.cancel()
                pipeline.forget(turn)

    async def _done(self, future: asyncio.Future[Any], deadline: float) -> bool:
        """Wait for it until the deadline, and not for long once the broker stops; whether it is done. It is not cancelled."""
        loop = asyncio.get_running_loop()
        stopping = asyncio.ensure_future(self._server.stopping.wait())
        try:
            await asyncio.wait(
                {future, stopping}, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
            if stopping.done() and not future.done():
                left = min(deadline - loop.time(), self._server.settings.mqtt.shutdown_grace / 2)
                await asyncio.wait({future}, timeout=max(0.0, left))
        finally:
            stopping.cancel()
        return future.done()

    async def _answer(self, item: Publication | Step, future: asyncio.Future[T], deadline: float) -> T:
        try:
            done = await self._done(future, deadline)
        except asyncio.CancelledError:
            future.add_done_callback(_forget)
            raise
        if done:
            return future.result()
        if self._server.pipeline.withdraw(item):
            raise StorageUnavailable("storage is away")
        future.add_done_callback(_forget)
        raise Undecided("storage does not answer")

    async def within(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        if len(self._left) >= _MOST_LEFT:
            work.close()
            raise StorageUnavailable(f"storage does not answer: {_MOST_LEFT} requests wait for it already")
        task = asyncio.ensure_future(work)
        try:
            done = await self._done(task, asyncio.get_running_loop().time() + timeout)
        except asyncio.CancelledError:
            self._leave(task)
            raise
        if done:
            return task.result()
        self._leave(task)
        raise Undecided("storage does not answer")

    def _leave(self, task: asyncio.Task[Any]) -> None:
        self._left.add(task)
        task.add_done_callback(_forget)
        task.add_done_callback(self._left.discard)

    def read_fanout_of(self, topic: str) -> bool:
        plugin = self._server.plugin_host.storage_plugin
        return plugin is not None and bool(plugin.read_fanout_of(topic))

    async def may(self, what: str) -> bool:
        cluster = self._server.cluster
        return cluster is None or await cluster.may(what)

    def answer_nodes(self, kind: str, answer: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]) -> None:
        if self._server.cluster is not None:
            self._server.cluster.answer_all(kind, answer)

    async def ask_nodes(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        cluster = self._server.cluster
        return None if cluster is None else await cluster.ask_all(kind, body)

    async def cluster(self) -> list[NodeState] | None:
        cluster = self._server.cluster
        return None if cluster is None else await cluster.listed()

    async def leave(self, node: str) -> NodeState | None:
        cluster = self._server.cluster
        return None if cluster is None else await cluster.ask_to_leave(node)

    async def reload(self) -> Reloaded:
        return await self._server.reload()

    @property
    def listening(self) -> bool:
        return self._server.listening

    @property
    def addresses(self) -> Mapping[str, tuple[str, int]]:
        return self._server.addresses

    def users_away(self, topic: str) -> Iterator[str]:
        match = self._server.trie.match(topic)
        users = tuple(match.users) or [user for user in match.recipients if user.startswith(("u/", "c/"))]
        return (user for user in users if not self._present(user) and not self._shut_out(user))

    async def lets_receive(self, user: str, topic: str) -> bool:
        access = self._server.access
        if access.unruled:
            return await access.listed(user, Action.RECEIVE, topic) is not False
        for device in await self._server.storage.devices_of(user):
            if any(matches(filter_, topic) for filter_ in device.subscriptions):
                info = info_of(*device.key)
                while (known := access.cached(info, Action.RECEIVE, topic)) is None:
                    await access.settle(info, Action.RECEIVE, topic)
                if known:
                    return True
        return False

    def _shut_out(self, user: str) -> bool:
        server = self._server
        name = user[2:] if user.startswith("u/") else None
        return server.access.authentication.bars(name) or server.bans.of(server.time.now(), user=user) is not None

    def _present(self, user: str) -> bool:
        server = self._server
        if any(session.connection is not None for session in server.sessions.of(user)) or server.delivery.watched.get(user):
            return True
        return server.cluster is not None and server.cluster.has(user)

    async def lowest_offset(self, user: str) -> int | None:
        return await self._server.storage.lowest_offset(user)

    async def save_offsets(self, timeout: float) -> None:
        self._server.delivery.flush()
        await self.commit([], timeout)

    async def expire_sessions(self) -> tuple[int, int]:
        sessions = self._server.sessions
        count = len(sessions)
        _, ended = await sessions.deadlines.end_due()
        return count, ended

    async def device_states(self, user: str, begin: DeviceKey, limit: int) -> list[DeviceState]:
        server = self._server
        begin = max(DeviceKey(user, ""), begin)
        found: dict[DeviceKey, DeviceState] = {}
        async for device in stored_from(server, begin, limit):
            if user not in ("", device.key.user):
                break
            found[device.key] = _stored_state(device)
            if len(found) == limit:
                break
        # In a cluster storage is as new as what is in memory of a device that is not connected here, or newer.
        there = takewhile(lambda session: user in ("", session.key.user), server.sessions.since(begin))
        here = (session for session in there if server.cluster is None or session.connection is not None)
        found |= {session.key: _device_state(session) for session in islice(here, limit)}
        return [found[key] for key in sorted(found)[:limit]]

    def tell_user(self, user: str, prefix: str, payload: bytes, *, but: str = "") -> None:
        self._tell_here(user, prefix, payload, but)
        if self._server.cluster is not None:
            self._server.cluster.note_user(user, _TELL, {"user": user, "prefix": prefix, "payload": payload, "but": but})

    def _tell_here(self, user: str, prefix: str, payload: bytes, but: str) -> None:
        for session in self._server.sessions.of(user):
            client_id = session.key.client_id
            if client_id != but and session.connection is not None and session.connection.open:
                self.tell(session.key, Message(0, f"{prefix}{client_id}", BROKER_USER, "", 0, 0, payload))

    def joined(self) -> None:
        """The node has joined a cluster: take what others tell its devices."""

        def received(body: Mapping[str, Any]) -> None:
            self._tell_here(body["user"], body["prefix"], body["payload"], body["but"])

        self.answer_nodes(_TELL, received)
        self.following.joined()
        self.clients.joined()
        standings.joined(self._server)

    def tell(self, device: DeviceKey, message: Message) -> bool:
        server = self._server
        session = server.sessions.get(device)
        if session is None or not server.trie.match(message.topic).granted(session):
            return False
        message.id, message.time = server.ids.take()
        return server.delivery.tell(session, message)

    async def add_subscription(self, client_id: str, filter: str, qos: int) -> int:
        if qos not in (0, 1, 2):
            raise ValueError(f"QoS {qos}: must be 0, 1 or 2")
        server = self._server
        await server.sessions.fetch(DeviceKey(f"c/{client_id}", client_id))
        session = _chosen(server.sessions.named(client_id))
        if server.cluster is not None and (session is None or session.connection is None):
            key = DeviceKey(f"c/{client_id}", client_id) if session is None else session.key
            with suppress(NoDevice):  # another node may have its connection
                return min(await self.readers.subscribe(key, filter, qos, info_of(*key)), ReasonCode.UNSPECIFIED_ERROR)
        if session is None:
            key = DeviceKey(f"c/{client_id}", client_id)
            if await server.subscriptions.refusal(client_id, filter, info_of(*key)):
                return ReasonCode.UNSPECIFIED_ERROR
            await self.readers.claim(key)
            session = server.sessions.get(key)
        if session is None:
            return ReasonCode.UNSPECIFIED_ERROR
        connection = session.connection
        info = connection.info if connection is not None and connection.open else info_of(*session.key)
        return min(await self.readers.subscribe_session(session, filter, qos, info), ReasonCode.UNSPECIFIED_ERROR)


def _chosen(sessions: list[Session]) -> Session | None:
    """Of the sessions of one client id the one that is meant: the connected one, if there is one."""
    return next((session for session in sessions if session.connection is not None), sessions[-1] if sessions else None)


def _offset(session: Session) -> int:
    return session.offset


def _stored_state(device: Device) -> DeviceState:
    subscriptions = [(s.filter, s.options & 3, s.since) for s in device.subscriptions.values()]
    return DeviceState(device.key, device.node > 0, True, device.offset, device.epoch, device.expires_at, subscriptions)


def _device_state(session: Session) -> DeviceState:
    connection = session.connection
    return DeviceState(
        session.key,
        connection is not None and connection.open,
        session.durable,
        _offset(session) if session.durable else None,
        session.epoch,
        session.expires_at,
        [(s.filter, s.options & 3, s.since) for s in session.subscriptions.values()],
    )


def _state(session: Session) -> SessionState:
    connection = session.connection
    return SessionState(
        session.key.user,
        session.key.client_id,
        connection is not None,
        not session.durable,
        connection.info if connection is not None and connection.open else None,
        connection.inbound if connection is not None else 0,
        len(session.window),
        0,
    )
