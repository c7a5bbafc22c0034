"""What rules change before a message is stored, and that its publisher may publish to the topic that it then has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import cast

from amqtt.contexts import Action

from broker.access import SessionInfo, info_of
from broker.amqtt import BROKER_USER, Services
from broker.connection import Inbound, NotAuthorized
from broker.hooks import Group
from broker.packets import shown
from broker.publication import Publication
from plugins.rules.running import RunningRule
from storage.rules import content_digest

_KNOWN = 10_000
"""Topics of which is remembered whether a rule names them."""


class Arrival:
    """Gives messages the topic and payload that ``rules`` say, one rule after the other."""

    def __init__(self, server: Services, rules: Sequence[RunningRule]) -> None:
        self._server = server
        self._rules = rules
        self.named = lru_cache(_KNOWN)(self._named)
        """Whether a rule names a topic."""

    def _named(self, topic: str) -> bool:
        return any(running.rule.filter_of(topic) is not None for running in self._rules)

    def change(self, publication: Publication) -> None:
        """Change a message that arrives, where a rule means it."""
        message = publication.message
        if message.user == BROKER_USER:
            return
        seen = self._rules[0].seen(message, self._server.wall())
        for running in self._rules:
            running.change(seen)
        if seen.topic == message.topic and seen.payload is message.payload:
            return
        if publication.idempotency_key or publication.received is not None:
            publication.content = content_digest(message)  # a repeat of it is known by what was sent
        if seen.topic != message.topic:
            publication.sent_to = message.topic
        message.topic, message.payload = seen.topic, seen.payload

    def allow(self, group: Group) -> Awaitable[None] | None:
        """Refuse what has a topic by now that its publisher may not publish to."""
        moved = [append for append in group.appends if isinstance(append, Publication) and append.sent_to]
        return self._allow_all(moved) if moved else None

    async def _allow_all(self, moved: Sequence[Publication]) -> None:
        await asyncio.gather(*(self._allow(publication) for publication in moved if publication.error is None))

    async def _allow(self, publication: Publication) -> None:
        who, topic, access = _publisher(publication), publication.message.topic, self._server.access
        if who is None or access.openness.open or await access.allowed(who, Action.PUBLISH, topic):
            return
        self._server.counters.acl_denied += 1
        access.log_refusal(who, Action.PUBLISH, topic, "a rule leads there")
        text = f"publishing to {shown(publication.sent_to)}, which a rule leads elsewhere, is not allowed"
        publication.error = NotAuthorized(text)


def _publisher(publication: Publication) -> SessionInfo | None:
    """Whom access control is asked about; None for the broker's own, the operator, bridges and rules."""
    if isinstance(publication.origin, Inbound):
        return publication.origin.connection.info
    if publication.publisher is not None:
        return cast(SessionInfo, publication.publisher)
    message = publication.message
    return info_of(message.user, message.device) if message.user.startswith(("u/", "c/")) else None
