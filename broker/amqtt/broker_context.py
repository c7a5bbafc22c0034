"""What stands behind amqtt's `BrokerContext`: sessions, subscriptions and retained messages as amqtt's broker shows them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from amqtt.broker import BrokerContext, RetainedApplicationMessage

from broker.access import LightSession
from broker.amqtt.api import BrokerApi, SessionState
from storage.records import Message

Callback = Callable[..., Awaitable[None]]
_OFFLINE = 1000  # sessions that plugins made and that the server does not know yet


def light_session(state: SessionState) -> LightSession:
    """The amqtt session of a state: the connection's own where there is one."""
    if state.info is not None:
        session = state.info.session
    else:
        session = LightSession(state.client_id)
        session.user_key = state.user
        session.username = state.user[2:] if state.user.startswith("u/") else None
        session.is_anonymous = session.username is None
        session.clean_session = state.clean
    session.state = "connected" if state.connected else "disconnected"
    session.counts = (state.inflight_in, state.inflight_out, state.queued)
    return session


def retained_message(message: Message) -> Any:
    """A retained message as amqtt has it."""
    return RetainedApplicationMessage(None, message.topic, message.payload, message.qos)


class Sessions(MutableMapping[str, tuple[LightSession, None]]):
    """amqtt's ``broker.sessions``: client id → (session, handler). There is no handler behind ours."""

    def __init__(self, server: BrokerApi) -> None:
        self._server = server
        self._made: dict[str, LightSession] = {}

    def __getitem__(self, client_id: str) -> tuple[LightSession, None]:
        state = self._server.session(client_id)
        if state is not None:
            self._made.pop(client_id, None)
            return light_session(state), None
        return self._made[client_id], None

    def __setitem__(self, client_id: str, value: tuple[LightSession, None]) -> None:
        """What a plugin makes is remembered until the server has a session of that client id."""
        if len(self._made) >= _OFFLINE:
            del self._made[next(iter(self._made))]
        self._made[client_id] = value[0]

    def __delitem__(self, client_id: str) -> None:
        del self._made[client_id]

    def __iter__(self) -> Iterator[str]:
        return (state.client_id for state in self._server.sessions())

    def __len__(self) -> int:
        status = self._server.status()
        return status.clients_connected + status.clients_disconnected

    def values(self) -> Any:
        return [(light_session(state), None) for state in self._server.sessions()]


class Retained(MutableMapping[str, Any]):
    """amqtt's ``broker.retained_messages``: topic → message. Setting or deleting one publishes, a moment later."""

    def __init__(self, server: BrokerApi, later: Callable[[Callback], None]) -> None:
        self._server = server
        self._later = later

    def __getitem__(self, topic: str) -> Any:
        message = self._server.retained_message(topic)
        if message is None:
            raise KeyError(topic)
        return retained_message(message)

    def __setitem__(self, topic: str, message: Any) -> None:
        payload, qos = bytes(message.data or b""), message.qos or 0
        self._later(lambda: _publish(self._server, topic, payload, qos, True))

    def __delitem__(self, topic: str) -> None:
        if self._server.retained_message(topic) is None:
            raise KeyError(topic)
        self._later(lambda: _publish(self._server, topic, b"", 0, True))

    def __iter__(self) -> Iterator[str]:
        return (message.topic for message in self._server.retained())

    def __len__(self) -> int:
        return self._server.status().retained


async def _publish(server: BrokerApi, topic: str, payload: bytes, qos: int | None, retain: bool) -> None:
    """Publish for a plugin. Without a QoS, amqtt lets each subscription decide, which a QoS of 2 does."""
    sys = topic.startswith("$SYS/")
    level = qos if qos is not None else 0 if sys else 2
    await server.publish(topic, payload, qos=level, retain=retain, durable=not sys)


class BrokerStandIn:
    """What amqtt's `BrokerContext` asks of amqtt's `Broker`, asked of our server."""

    def __init__(self, server: BrokerApi, later: Callable[[Callback], None]) -> None:
        self.server = server
        self.sessions = self._sessions = Sessions(server)
        self.retained_messages = Retained(server, later)

    @property
    def subscriptions(self) -> dict[str, list[tuple[LightSession, int]]]:
        """filter → [(session, QoS)], gathered at each look: meant for statistics, not for every message."""
        by_client: dict[str, LightSession] = {}
        found: dict[str, list[tuple[LightSession, int]]] = {}
        for filter, client_id, qos in self.server.subscriptions():
            session = by_client.get(client_id)
            if session is None:
                state = self.server.session(client_id)
                session = by_client[client_id] = light_session(state) if state else LightSession(client_id)
            found.setdefault(filter, []).append((session, qos))
        return found

    async def internal_message_broadcast(self, topic: str, data: bytes, qos: int | None = None) -> None:
        await _publish(self.server, topic, bytes(data), qos, False)

    async def retain_message(self, source: Any, topic_name: str, data: bytes | bytearray, qos: int | None = None) -> None:
        await _publish(self.server, topic_name, bytes(data or b""), qos, True)

    def create_offline_session(self, client_id: str) -> tuple[None, LightSession]:
        session = LightSession(client_id)
        session.clean_session = False
        session.transitions.disconnect()
        return None, session

    async def add_subscription(self, subscription: tuple[str, int], session: LightSession) -> int:
        filter, qos = subscription
        return await self.server.add_subscription(session.client_id or "", filter, qos)


class TidelineContext(BrokerContext):
    """amqtt's context, with the server for those who know Tideline."""

    def __init__(self, server: BrokerApi, later: Callable[[Callback], None]) -> None:
        super().__init__(BrokerStandIn(server, later))
        self.server = server
        self.shared: dict[str, Any] = {}
        """What plugins share by name: amqtt gives each of them a copy of its context, and all copies this very dictionary."""

    def on_loop(self, call: Callable[[], None]) -> None:
        """``call`` it now, or where a reload builds the plugin on a thread, before it takes its place."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.loop.call_soon_threadsafe(call)
        else:
            call()
