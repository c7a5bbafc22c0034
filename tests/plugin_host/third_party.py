"""Plugins as somebody who only knows amqtt would write them."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin

from broker.access import SessionInfo
from broker.hooks import Group, GroupPlugin, SessionPlugin
from broker.publication import Publication
from plugins.persistence import PersistencePlugin


class Recorder(BasePlugin):
    """Listens to everything that amqtt's broker tells."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.closed = False

    async def on_broker_pre_start(self) -> None:
        self.heard.append(("pre_start", {}))

    async def on_broker_post_start(self) -> None:
        self.heard.append(("post_start", {}))

    async def on_broker_client_connected(self, client_id: str, client_session: Any) -> None:
        self.heard.append(("connected", {"client_id": client_id, "session": client_session}))

    async def on_broker_client_disconnected(self, client_id: str, client_session: Any) -> None:
        self.heard.append(("disconnected", {"client_id": client_id, "session": client_session}))

    async def on_broker_client_subscribed(self, client_id: str, topic: str, qos: int) -> None:
        self.heard.append(("subscribed", {"client_id": client_id, "topic": topic, "qos": qos}))

    async def on_broker_client_unsubscribed(self, client_id: str, topic: str) -> None:
        self.heard.append(("unsubscribed", {"client_id": client_id, "topic": topic}))

    async def on_broker_message_received(self, *, client_id: str, message: Any) -> None:
        self.heard.append(("received", {"client_id": client_id, "message": message}))

    async def on_broker_message_broadcast(self, *, client_id: str, message: Any) -> None:
        self.heard.append(("broadcast", {"client_id": client_id, "message": message}))

    async def on_broker_retained_message(self, *, client_id: str | None, retained_message: Any) -> None:
        self.heard.append(("retained", {"client_id": client_id, "message": retained_message}))

    async def on_mqtt_packet_received(self, *, packet: Any, session: Any = None) -> None:
        self.heard.append(("packet in", {"packet": packet, "session": session}))

    async def on_mqtt_packet_sent(self, *, packet: Any, session: Any = None) -> None:
        self.heard.append(("packet out", {"packet": packet, "session": session}))

    async def close(self) -> None:
        self.closed = True

    def named(self, name: str) -> list[dict[str, Any]]:
        return [values for event, values in self.heard if event == name]


class Tokens(BaseAuthPlugin):
    """The password must be the user name backwards; a session remembers that it was seen."""

    @dataclass
    class Config:
        shout: bool = False

    async def authenticate(self, *, session: Any) -> bool | None:
        if session.username is None:
            return None
        session.attributes["tokens.seen"] = True
        wanted = session.username[::-1]
        return bool(session.password == (wanted.upper() if self.config.shout else wanted))


class Doorman(BaseAuthPlugin):
    """Lets everybody in by address and looks at no credential, and says so."""

    verifies = None

    async def authenticate(self, *, session: Any) -> bool | None:
        return bool(session.remote_address == "10.0.0.1")


class Broken(BaseAuthPlugin):
    async def authenticate(self, *, session: Any) -> bool | None:
        raise ValueError(f"cannot judge {session.password}")


class Stuck(BaseAuthPlugin):
    async def authenticate(self, *, session: Any) -> bool | None:
        await asyncio.Event().wait()
        return True


class Slow(BaseAuthPlugin):
    """Blocks the thread that it runs on."""

    blocking = True
    threads: ClassVar[set[int]] = set()

    async def authenticate(self, *, session: Any) -> bool | None:
        self.threads.add(threading.get_ident())
        time.sleep(0.2)  # noqa: ASYNC251 - not a wait: blocking is the point
        return True


class OwnTopics(BaseTopicPlugin):
    """A user may use what is below its own name. Counts how often it was asked, and can be held up or made to fail."""

    asked: ClassVar[list[tuple[str | None, str, str]]] = []
    gate: ClassVar[asyncio.Event | None] = None
    failures: ClassVar[int] = 0

    @dataclass
    class Config:
        shared: list[str] = field(default_factory=list)

    async def topic_filtering(
        self, *, session: Any = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        assert topic is not None
        assert action is not None
        OwnTopics.asked.append((session.username, str(action), topic))
        if OwnTopics.failures:
            OwnTopics.failures -= 1
            raise ConnectionError("directory is away")
        if OwnTopics.gate is not None:
            await OwnTopics.gate.wait()
        return topic in self.config.shared or topic.startswith(f"{session.username}/")


class Moody(OwnTopics):
    """Wants to be asked each time."""

    cacheable = False


class Undecided(BaseTopicPlugin):
    async def topic_filtering(
        self, *, session: Any = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        return None


class Lazy(BasePlugin):
    """Takes for ever over each connection."""

    async def on_broker_client_connected(self, client_id: str, client_session: Any) -> None:
        await asyncio.Event().wait()


class Clumsy(BasePlugin):
    async def on_broker_client_connected(self, client_id: str, client_session: Any) -> None:
        raise RuntimeError("clumsy")


class Giddy(BasePlugin):
    """Awaits what was cancelled, and nobody has cancelled it."""

    async def on_broker_client_connected(self, client_id: str, client_session: Any) -> None:
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone


class Fussy(BasePlugin):
    """Refuses to be made."""

    @dataclass
    class Config:
        size: int = 1
        ratio: float = 0.5
        name: str = ""
        nested: list[str] = field(default_factory=list)

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        if self.config.size > 10:
            raise ValueError(f"size {self.config.size} is too large")


class Blocking(BasePlugin):
    def on_broker_pre_start(self) -> None:
        """Not a coroutine, which amqtt refuses."""


class NotAPlugin:
    pass


class Second(PersistencePlugin):
    """Another storage."""


class Late(GroupPlugin, SessionPlugin):
    """What may wait does, and so does what may not."""

    async def arrived(self, publication: Publication) -> None:  # type: ignore[override]
        raise NotImplementedError

    async def before_ack(self, group: Group) -> None:
        raise NotImplementedError

    async def ended(self, connection: object, info: SessionInfo) -> None:  # type: ignore[override]
        raise NotImplementedError


class LateBouncer(BaseAuthPlugin):
    async def bars(self, name: str) -> bool:
        raise NotImplementedError
