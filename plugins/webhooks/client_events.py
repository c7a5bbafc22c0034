"""Who comes and goes, stored as messages, so that it has a place among all that is stored, and is told over a restart.

What is lost: what happened in the moment before the broker was killed, and was not committed; that the clients of a broker that
ends are gone (they are told as connected again when they come back); and what came beyond `MOST` while storage was away, which
is counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque

from broker.amqtt import BROKER_USER, Services, Undecided
from broker.publication import Outgoing, Publication
from broker.rate_limited_log import RateLimitedLog
from plugins.webhooks.events import CLIENTS
from storage.ending import end
from storage.errors import MessageRefused, StorageError

log = logging.getLogger("tideline.webhooks")

MOST = 10_000
"""Events that wait for storage."""
_AT_ONCE = 200
_TIMEOUT = 10.0
_AGAIN = 1.0
_WINDOW = 3_600_000
"""For how long (ms) an event whose commit had an unknown outcome may be sent again, and is stored once."""


class ClientEvents:
    """Stores them, in order."""

    def __init__(self, server: Services) -> None:
        self._server = server
        self._waiting: deque[Publication] = deque()
        self._come = asyncio.Event()
        self._overrun = RateLimitedLog(log, 10.0)
        self._task = asyncio.create_task(self._run(), name="client events")
        self.lost = 0

    def add(self, kind: str, user: str, client: str, address: str) -> None:
        """Something happened. Never waits."""
        if len(self._waiting) >= MOST:
            self.lost += 1
            self._overrun.warning("storage is away, and %d events of clients wait: more are lost", MOST)
            return
        payload = json.dumps({"type": kind, "data": {"user": user, "client": client, "address": address}}).encode()
        publication = Publication(Outgoing(CLIENTS, BROKER_USER, "", 0, payload), idempotency_key=secrets.token_hex(16))
        publication.idempotency_at = self._server.now()
        publication.idempotency_until = publication.idempotency_at + _WINDOW
        self._waiting.append(publication)
        self._come.set()

    async def close(self, patience: float) -> None:
        """Store what waits, within ``patience`` seconds."""
        await asyncio.wait([self._task], timeout=0)
        if self._waiting and not self._task.done():
            try:
                async with asyncio.timeout(patience):
                    while self._waiting:
                        await asyncio.sleep(0.01)
            except TimeoutError:
                log.warning("%d events of clients are not stored: storage did not answer", len(self._waiting))
        await end([self._task])

    async def _run(self) -> None:
        while True:
            await self._come.wait()
            self._come.clear()
            while self._waiting:
                await self._store([self._waiting[place] for place in range(min(_AT_ONCE, len(self._waiting)))])

    async def _store(self, publications: list[Publication]) -> None:
        """Those that are stored, from the first on, wait no longer."""
        for outcome in await self._server.append_all_within([_again(one) for one in publications], _TIMEOUT):
            if isinstance(outcome, MessageRefused):
                self.lost += 1
                log.error("an event of a client was refused, and is lost: %s", outcome)
            elif isinstance(outcome, StorageError | Undecided):
                log.debug("events of clients wait: %s", outcome)
                await asyncio.sleep(_AGAIN)
                return
            elif isinstance(outcome, BaseException):
                raise outcome
            self._waiting.popleft()


def _again(publication: Publication) -> Publication:
    """The same message under the same key, as a publication that was in no group yet."""
    message = publication.message
    return Publication(
        Outgoing(message.topic, message.user, message.device, message.qos, message.payload),
        idempotency_key=publication.idempotency_key,
        idempotency_until=publication.idempotency_until,
        idempotency_at=publication.idempotency_at,
    )
