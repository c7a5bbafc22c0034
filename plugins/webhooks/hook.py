"""One hook: follows all that is stored from a place of its own, and tells its service, one request after the other.

- The place is durable behind what was taken: after a restart what comes twice is at most a page (`_PAGE` messages, or a batch).
- Of the nodes of a cluster one runs all hooks: which holds the lease. Another goes on from the stored place when that one ends.
- What is not taken is tried again for ever, less and less often, or until `give_up_after`. What is behind it waits in storage.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import httpx

from broker.amqtt import BROKER_USER, Services, Undecided
from broker.publication import Outgoing, Publication
from plugins.following import May
from plugins.quiet import Quiet
from plugins.tail_place import TailPlace
from plugins.webhooks.config import Hook
from plugins.webhooks.events import CLIENTS, Event, body_of, events_of
from plugins.webhooks.signature import headers
from storage.errors import MessageRefused, StorageError
from storage.records import Message

log = logging.getLogger("tideline.webhooks")

_PAGE = 20
_TURN = 2.0
"""Seconds between two looks at whether it is this node's turn, and after storage could not be reached."""
_FIRST, _LONGEST = 0.5, 300.0
"""Seconds until the second attempt, about; and between two, at most."""
_ASKED_LONGEST = 3600.0
"""Seconds that a service may ask for with Retry-After."""
_READ = 64 << 10
"""Bytes of an answer that are read, so that its connection can be used again."""
_TIMEOUT = 10.0


class LostTurn(Exception):
    """Another node runs the hooks now."""


class HookRunner:
    """Runs one hook. ``may`` says whether it is this node's turn, each of ``quiet`` who wants no notification of a topic."""

    def __init__(self, server: Services, hook: Hook, may: May, quiet: Sequence[Quiet]) -> None:
        self.hook = hook
        self._quiet = quiet
        self._server = server
        self._may = may
        self.place = TailPlace(server, hook.place, earliest=hook.start == "earliest")
        self.delivered = self.failures = self.dead = self.requests = 0
        self.error = ""
        """Why the last attempt failed; empty once one has worked."""

    @property
    def client_seq(self) -> int:
        """Up to where it is done with who comes and goes, in their conversation."""
        return int(self.place.more.get("clients", 0))

    def state(self) -> dict[str, Any]:
        """For the operator."""
        numbers = {name: getattr(self, name) for name in ("delivered", "requests", "failures", "dead")}
        return {"name": self.hook.name, "events": self.hook.events, **numbers, "error": self.error or None}

    async def run(self) -> None:
        """Until it is cancelled."""
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=self.hook.cafile) if self.hook.cafile else True
        async with httpx.AsyncClient(verify=verify, follow_redirects=False, trust_env=False, timeout=None) as client:
            while True:
                try:
                    await self._page(client)
                except LostTurn:
                    self.place.give_up()
                    await asyncio.sleep(_TURN)
                except (StorageError, Undecided) as error:
                    log.debug("webhook %s: storage is away: %s", self.hook.name, error)
                    await asyncio.sleep(_TURN)

    async def _page(self, client: httpx.AsyncClient) -> None:
        if not await self._may():
            raise LostTurn
        await self.place.page(max(_PAGE, self.hook.batch), partial(self._tell, client))

    # --- telling -------------------------------------------------------------------------------------------------------

    async def _tell(self, client: httpx.AsyncClient, messages: list[Message]) -> None:
        """All events of these messages, in order, are taken or dead when this returns."""
        batch: list[Event] = []
        for message in messages:
            async for event in events_of(self.hook, message, self._away, self._server.now()):
                batch.append(event)
                if len(batch) >= self.hook.batch:
                    await self._deliver(client, batch)
                    batch = []
            if message.topic == CLIENTS:
                self.place.more["clients"] = message.seq
        if batch:
            await self._deliver(client, batch)

    async def _away(self, topic: str) -> AsyncIterator[str]:
        for user in self._server.users_away(topic):
            if not await self._server.lets_receive(user, topic):
                continue
            for quiet in self._quiet:
                if await quiet(user, topic):
                    break
            else:
                yield user

    async def _deliver(self, client: httpx.AsyncClient, events: list[Event]) -> None:
        id, body = body_of(events, batched=self.hook.batch > 1)
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), _FIRST
        while True:
            error, asked = await self._attempt(client, id, body)
            if not error:
                self._taken(len(events))
                return
            self._failed(id, error)
            left = began + self.hook.patience - loop.time() if self.hook.patience else _ASKED_LONGEST
            if left <= 0:
                await self._bury(events, error)
                return
            await asyncio.sleep(min(left, max(asked, pause * random.uniform(0.5, 1.0))))
            pause = min(pause * 2, _LONGEST)
            if not await self._may():
                raise LostTurn

    async def _attempt(self, client: httpx.AsyncClient, id: str, body: bytes) -> tuple[str, float]:
        """What went wrong, empty for nothing; and the seconds that the service wants to be left alone."""
        signed = headers(self.hook.keys, id, self._server.wall() // 1000, body)
        self.requests += 1
        try:
            async with (
                asyncio.timeout(self.hook.timeout),
                client.stream(
                    "POST", self.hook.url, content=body, headers={"content-type": "application/json", **signed}
                ) as response,
            ):
                read = 0
                async for piece in response.aiter_raw():
                    read += len(piece)
                    if read > _READ:
                        break
                if response.is_success:
                    return "", 0.0
                where = ", and redirects are not followed" if response.is_redirect else ""
                return f"it answers {response.status_code}{where}", _seconds(response.headers.get("retry-after", ""))
        except TimeoutError:
            return f"no answer in {self.hook.timeout} s", 0.0
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}".rstrip(": "), 0.0

    def _taken(self, count: int) -> None:
        self.delivered += count
        if self.error:
            log.info("webhook %s: it takes events again", self.hook.name)
            self.error = ""

    def _failed(self, id: str, error: str) -> None:
        self.failures += 1
        level = logging.DEBUG if self.error == error else logging.WARNING
        log.log(level, "webhook %s: %s is tried again: %s", self.hook.name, id, error)
        self.error = error

    async def _bury(self, events: list[Event], error: str) -> None:
        """They become dead letters, durably, before the next ones are told."""
        payload = json.dumps({"hook": self.hook.name, "error": error, "events": events}, ensure_ascii=False).encode()
        letter = Publication(Outgoing(self.hook.dead_letters, BROKER_USER, "", 1, payload))
        try:
            await self._server.append_within(letter, _TIMEOUT)
        except MessageRefused as refused:
            log.error("webhook %s: a dead letter was refused, and is lost: %s", self.hook.name, refused)
        self.dead += len(events)
        log.error(
            "webhook %s: gave up %s after %g s: %s; %s has it",
            *(self.hook.name, events[0]["id"], self.hook.patience, error, self.hook.dead_letters),
        )


def _seconds(header: str) -> float:
    """Retry-After in seconds; 0 where it is a date, or nothing."""
    return min(float(header), _ASKED_LONGEST) if header.isascii() and header.isdigit() else 0.0
