"""Plugins that decide: two that authenticate, as the client's data says or anybody, and one that lets nobody into `denied/`."""

from __future__ import annotations

import asyncio
from typing import Any

from amqtt.broker import BrokerContext
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.plugins.topic_checking import TopicAccessControlListPlugin

from broker.hooks import Accepted, AuthExchange, AuthStart, Challenge, Denied, EnhancedAuthPlugin
from broker.packets.codes import ReasonCode


class Obedient(EnhancedAuthPlugin):
    """Methods OBEY and HIDDEN. ``begun`` keeps what it was told of those who came."""

    methods: tuple[str, ...] = ("OBEY", "HIDDEN")

    def __init__(self, context: object) -> None:
        super().__init__(context)
        self.begun: list[AuthStart] = []

    def begin(self, start: AuthStart) -> AuthExchange:
        self.begun.append(start)
        return _Obedient()


class _Obedient:
    async def step(self, data: bytes) -> Challenge | Accepted:
        word, _, rest = data.partition(b" ")
        if word == b"accept":
            return Accepted(rest.decode(), b"welcome")
        if word == b"silently":
            return Accepted(rest.decode())
        if word == b"ask":
            return Challenge(rest)
        if word == b"hang":
            await asyncio.get_running_loop().create_future()
        if word == b"cancelled":
            await _cancelled()
        if word == b"busy":
            raise Denied("come back later", ReasonCode.SERVER_BUSY)
        if word == b"password":
            raise Denied("wrong password", ReasonCode.BAD_USER_NAME_OR_PASSWORD)
        if word == b"crash":
            raise RuntimeError("the password is sesame")
        raise Denied("no")


async def _cancelled() -> None:
    """Await what was cancelled, as of a client that was closed."""
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone.cancel()
    await gone


class Anybody(BaseAuthPlugin):
    """Everybody is who they say they are."""

    async def authenticate(self, *, session: Any) -> bool | None:
        return bool(session.username)


class Fence(BaseTopicPlugin):
    """Topics and filters that begin with `denied/` are for nobody."""

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Any = None) -> bool:
        return not str(topic).startswith("denied/")


class Hesitant(BaseTopicPlugin):
    """Everything is allowed, what is below `slow/` once ``answer`` is set. ``asked`` is set when that is asked for. What is
    below `cancelled/` it cannot answer."""

    def __init__(self, context: BrokerContext) -> None:
        super().__init__(context)
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Any = None) -> bool:
        if str(topic).startswith("slow/"):
            self.asked.set()
            await self.answer.wait()
        if str(topic).startswith("cancelled/"):
            await _cancelled()
        return True


class CountedAcl(TopicAccessControlListPlugin):
    """amqtt's topic ACL, which notes what it is asked."""

    def __init__(self, context: BrokerContext) -> None:
        super().__init__(context)
        self.asked: list[tuple[Any, str | None]] = []

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Any = None) -> bool | None:
        self.asked.append((action, topic))
        answer: bool | None = await super().topic_filtering(session=session, topic=topic, action=action)
        return answer
