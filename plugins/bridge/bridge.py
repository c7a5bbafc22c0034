"""One bridge at work, on the node whose turn it is.

- Out: what is stored is followed from a place of its own, which moves behind what the other broker has acknowledged.
- In: what comes is committed as any message, and acknowledged after that.
- Loops: what a bridge brought it does not send back; over MQTT 5 the other broker sends back nothing that we sent (No Local),
  and what has our mark among its user properties was here before. In 3.1.1 only the first of these holds.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from broker.amqtt import Services, Undecided
from broker.packets import ProtocolViolation, ReasonCode, validate_name
from broker.publication import Outgoing, Publication
from plugins.bridge.config import Bridge
from plugins.bridge.link import Come, Link
from plugins.bridge.mapping import came_from_here, here, properties_here, properties_there, there
from plugins.following import May
from plugins.tail_place import TailPlace
from storage.ending import end
from storage.errors import MessageRefused, StorageError
from storage.records import Message

log = logging.getLogger("tideline.bridge")

_PAGE = 50
_TURN = 2.0
"""Seconds between two looks at whether it is this node's turn."""
_AGAIN = 1.0
_TIMEOUT = 10.0
_LATER = (ReasonCode.QUOTA_EXCEEDED, ReasonCode.UNSPECIFIED_ERROR, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
"""Reasons for which the same message may be taken later."""


class BridgeRunner:
    """Runs one bridge. ``may`` says whether it is this node's turn."""

    def __init__(self, server: Services, bridge: Bridge, may: May) -> None:
        self.bridge = bridge
        self.user = f"b/bridge/{bridge.name}"
        """The sender of what it brings."""
        self.place = TailPlace(server, f"bridge:{bridge.name}", earliest=bridge.start == "earliest")
        self.sent = self.received = self.refused = self.loops = 0
        self._server = server
        self._may = may
        self._link: Link | None = None

    @property
    def dropped(self) -> int:
        """What came with QoS 0 and was too much, since this node began to run the bridges."""
        return 0 if self._link is None else self._link.dropped

    @property
    def connected(self) -> bool:
        """Whether the other broker is."""
        return self._link is not None and self._link.connected

    def state(self) -> dict[str, Any]:
        """For the operator."""
        numbers = {name: getattr(self, name) for name in ("sent", "received", "refused", "loops", "dropped")}
        error = self._link.error if self._link is not None else ""
        return {"name": self.bridge.name, "connected": self.connected, **numbers, "error": error or None}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            with suppress(StorageError, Undecided):
                if await self._may():
                    await self._turn()
            await asyncio.sleep(_TURN)

    async def _turn(self) -> None:
        """As long as it is this node's turn."""
        await self.place.begin()
        if "mark" not in self.place.more:
            self.place.more["mark"] = secrets.token_hex(8)
            await self.place.save()
        link = self._link = Link(self.bridge)
        link.start()
        work = [asyncio.create_task(part) for part in self._parts(link)]  # neither ends by itself
        try:
            while await self._still_may():
                done, _ = await asyncio.wait(work, timeout=_TURN, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # our bug: raised
        finally:
            await end(work)
            self._link = None
            await link.stop()
            self.place.give_up()

    def _parts(self, link: Link) -> list[Coroutine[Any, Any, None]]:
        sends = [self._send(link)] if self.bridge.send else []
        return [*sends, self._receive(link)] if self.bridge.receive else sends

    async def _still_may(self) -> bool:
        try:
            return await self._may()
        except StorageError:
            return True  # nobody else can know better

    # --- out -----------------------------------------------------------------------------------------------------------

    async def _send(self, link: Link) -> None:
        while True:
            try:
                await self.place.page(_PAGE, partial(self._send_page, link))
            except (StorageError, Undecided) as error:
                log.debug("bridge %s: storage is away: %s", self.bridge.name, error)
                await asyncio.sleep(_AGAIN)

    async def _send_page(self, link: Link, messages: list[Message]) -> None:
        """All are acknowledged, or refused for good, when this returns. Each waits for its own; they were given in order."""
        now = self._server.now()
        await asyncio.gather(
            *(
                self._send_one(link, topic, message)
                for message in messages
                if message.user != self.user
                and not message.expired(now)
                and (topic := there(self.bridge.send, message.topic)) is not None
            )
        )

    async def _send_one(self, link: Link, topic: str, message: Message) -> None:
        while True:
            try:
                properties = properties_there(message, self.place.more["mark"], self._server.now())
                code = await link.publish(topic, message.payload, message.retain, properties)
            except ValueError as error:
                self._refuse(f"{topic[:80]!r} cannot be sent: {error}")
                return
            if code < ReasonCode.UNSPECIFIED_ERROR:
                self.sent += 1
                return
            if code not in _LATER:
                self._refuse(f"the other broker refuses {topic[:80]!r}: 0x{code:02X}")
                return
            await asyncio.sleep(_AGAIN)

    def _refuse(self, why: str) -> None:
        self.refused += 1
        log.warning("bridge %s: %s", self.bridge.name, why)

    # --- in ------------------------------------------------------------------------------------------------------------

    async def _receive(self, link: Link) -> None:
        while True:
            await link.news.wait()
            link.news.clear()
            while link.come:
                come = [link.come.popleft() for _ in range(min(_PAGE, len(link.come)))]
                await self._store(link, come)

    async def _store(self, link: Link, come: list[Come]) -> None:
        """All are durable and acknowledged, or passed by, when this returns."""
        while come:
            made = [self._publication(one) for one in come]
            wanted = [publication for publication in made if publication is not None]
            outcomes = iter(await self._server.append_all_within(wanted, _TIMEOUT))
            later: list[Come] = []
            for one, publication in zip(come, made, strict=True):
                outcome = next(outcomes) if publication is not None else None
                if isinstance(outcome, StorageError | Undecided) and not isinstance(outcome, MessageRefused):
                    later.append(one)
                    continue
                if isinstance(outcome, MessageRefused):
                    self._refuse(f"{one.message.topic[:80]!r} is refused here: {outcome}")
                elif isinstance(outcome, BaseException):
                    raise outcome
                elif outcome is not None:
                    self.received += 1
                link.acknowledge(one)
            come = later
            if come:
                await asyncio.sleep(_AGAIN)

    def _publication(self, one: Come) -> Publication | None:
        message = one.message
        properties = getattr(message, "properties", None)
        topic = here(self.bridge.receive, message.topic)
        if came_from_here(properties, self.place.more["mark"]):
            self.loops += 1
            return None
        try:
            if topic is None:
                raise ProtocolViolation(f"no route has {message.topic[:80]!r}")
            validate_name(topic)
            if why := self._server.access.closed(topic):
                raise ProtocolViolation(f"{topic[:80]!r} {why}")
        except ProtocolViolation as violation:
            self._refuse(f"what came is passed by: {violation.text}")
            return None
        body, expiry = properties_here(properties)
        made = Outgoing(topic, self.user, "", message.qos, bytes(message.payload), message.retain)
        made.properties = body
        made.expires = self._server.now() + expiry * 1000 if expiry else 0
        return Publication(made, retain=message.retain and self._server.settings.mqtt.retain_available)
