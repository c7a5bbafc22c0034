"""Publishing again what is stored, by a rule, on the node whose turn it is.

- A rule follows all that is stored from a place of its own, which moves behind what it published: at least once, over restarts.
- Each copy has a key of its rule and of the message that it is of: what is published again after a crash is stored once.
- A copy says how many rules it has been through, and one that was through too many goes no further.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from broker.amqtt import BROKER_USER, Services, Undecided
from broker.packets import Properties, Property, encode_property_body
from broker.publication import Outgoing, Publication
from plugins.following import May
from plugins.rules.running import RunningRule
from plugins.tail_place import TailPlace
from plugins.timelines.messages import hex_id, message_properties
from storage.errors import MessageRefused, StorageError
from storage.records import Message

log = logging.getLogger("tideline.rules")

HOPS = "tideline-hops"
"""The user property that says how many rules a message has been through."""
_PAGE = 50
_TURN = 2.0
"""Seconds between two looks at whether it is this node's turn, and after storage could not be reached."""
_TIMEOUT = 10.0
_SHORTEST_WINDOW = 86400.0
"""Seconds for which a copy's key is kept, at least: a broker that was killed may be away for a while."""


class Republisher:
    """Runs a rule that publishes again. ``may`` says whether it is this node's turn. ``hops``: how many rules a message may
    have been through."""

    def __init__(self, server: Services, running: RunningRule, may: May, hops: int) -> None:
        self._server = server
        self._running = running
        self._may = may
        self._hops = hops
        self._user = f"b/rule/{running.rule.name}"
        self.place = TailPlace(server, f"rule:{running.rule.name}")

    def state(self) -> dict[str, Any]:
        """For the operator."""
        return {"name": self._running.rule.name, **self._running.counts()}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                if await self._may():
                    await self.place.page(_PAGE, self._publish)
                    continue
                self.place.give_up()
            except (StorageError, Undecided) as error:
                log.debug("rule %s: storage is away: %s", self._running.rule.name, error)
            await asyncio.sleep(_TURN)

    async def _publish(self, messages: list[Message]) -> None:
        """The copies of these messages are durable, or refused for good, when this returns. Where it raises what storage says,
        all are published again, and each is stored once."""
        failed: StorageError | Undecided | None = None
        copies = [copy for message in messages if (copy := self._copy(message)) is not None]
        for outcome in await self._server.append_all_within(copies, _TIMEOUT):
            if isinstance(outcome, MessageRefused):
                self._running.refuse(outcome)
            elif isinstance(outcome, StorageError | Undecided):
                failed = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            elif outcome.original is None:
                self._running.republished += 1
        if failed is not None:
            raise failed

    def _copy(self, message: Message) -> Publication | None:
        now, settings = self._server.now(), self._server.settings.mqtt
        if message.user == BROKER_USER or message.expired(now) or (topic := self._running.copy_of(message)) is None:
            return None
        properties = dict(message_properties(message))
        hops = _hops(properties)
        if hops >= self._hops:
            self._running.loop(message.topic, hops)
            return None
        pairs = [pair for pair in properties.get(Property.USER_PROPERTY, ()) if pair[0] != HOPS]
        properties[Property.USER_PROPERTY] = [*pairs, (HOPS, str(hops + 1))]
        retain = self._running.rule.retain and settings.retain_available
        copy = Outgoing(topic, self._user, "", message.qos, message.payload, retain)
        copy.properties, copy.expires = encode_property_body(properties), message.expires
        publication = Publication(copy, retain=retain, idempotency_key=hex_id(message.id))
        publication.idempotency_at = now
        publication.idempotency_until = now + int(max(settings.idempotency_window, _SHORTEST_WINDOW) * 1000)
        return publication


def _hops(properties: Properties) -> int:
    """How many rules a message has been through; what is no number is none."""
    hops = next((value for name, value in properties.get(Property.USER_PROPERTY, ()) if name == HOPS), "0")
    return int(hops) if hops.isascii() and hops.isdigit() and len(hops) < 10 else 0
