"""What this node and the others want to hear of, told and asked: see `broker.cluster.interest`.

A change says what a node wants from then on. A node that starts asks all others for what they want already, and until one has
answered it is told of everything: too much, never too little.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from broker.cluster.interest import Interest
from broker.cluster.mailbox import AskFailed
from broker.pipeline import Step
from storage.ending import end
from storage.errors import StorageUnavailable

if TYPE_CHECKING:
    from broker.cluster.mailbox import Mailbox
    from broker.cluster.membership import Membership
    from broker.cluster.routes import Routes
    from storage.records import Operation

log = logging.getLogger(__name__)

_WANTED = "wanted"
_PAGE = 2000
_KEPT = 30.0
"""Seconds for which an inbox stays watched after the last reader, since the next one mostly comes soon."""


class InterestExchange:
    """One node's part. ``later`` calls once so many seconds have passed."""

    def __init__(
        self,
        interest: Interest,
        routes: Routes,
        mailbox: Mailbox,
        submit: Callable[[Step], None],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._interest = interest
        self._routes = routes
        self._mailbox = mailbox
        self._submit = submit
        self._later = later
        self._tasks: list[asyncio.Task[None]] = []
        self._readers: dict[str, int] = {}
        """How many read an inbox, or did within `_KEPT`."""
        self._watching: set[str] = set()
        """Inboxes of which it was told that they are watched."""
        self._settling: set[str] = set()
        """Inboxes whose step is under way."""
        mailbox.on(_WANTED, self._answer)

    async def start(self, members: Membership, me: int) -> None:
        """Ask the others, and wait a moment for those that answer at once."""
        others = [token for token in members.nodes if token != me and members.answers(token)]
        for token in others:
            self._routes.unknown.add(token)
            self._tasks.append(asyncio.create_task(self._learn(members, token), name=f"ask node {token} what it wants"))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=members.patience)

    async def stop(self) -> None:
        """Ask no more."""
        await end(self._tasks)

    async def _learn(self, members: Membership, token: int) -> None:
        while token in members.nodes:
            try:
                await self._ask(token, members.patience)
            except (TimeoutError, AskFailed, StorageUnavailable) as error:
                log.debug("node %d has not said yet what it wants: %s", token, error)
                await asyncio.sleep(members.period)
            else:
                break
        self._routes.unknown.discard(token)

    async def _ask(self, token: int, patience: float) -> None:
        filters: list[str] = [""]
        while filters:
            answer = await self._mailbox.ask(token, _WANTED, {"filters after": filters[-1]}, patience)
            filters = list(answer["filters"])
            for filter_ in filters:
                self._routes.listen(token, filter_)
        users: list[str] = [""]
        while users:
            answer = await self._mailbox.ask(token, _WANTED, {"users after": users[-1]}, patience)
            users = list(answer["users"])
            for user in users:
                self._routes.holders.waits(user, token, waits=True)

    async def _answer(self, sender: int, body: Any) -> dict[str, Any]:
        if "filters after" in body:
            return {"filters": self._interest.filters(body["filters after"], _PAGE)}
        return {"users": self._interest.watched(body["users after"], _PAGE)}

    # --- inboxes that are watched ----------------------------------------------------------------------------------------

    def watch(self, user: str) -> None:
        """Be woken for a user's inbox, from a moment on that is soon; `unwatch` must follow."""
        self._readers[user] = self._readers.get(user, 0) + 1
        self._settle(user)

    def unwatch(self, user: str) -> None:
        """One reader less."""
        self._later(_KEPT, lambda: self._left(user))

    def _left(self, user: str) -> None:
        self._readers[user] -= 1
        if not self._readers[user]:
            del self._readers[user]
        self._settle(user)

    def _settle(self, user: str) -> None:
        # Readers come and go while storage is away: one step for each inbox waits for it, not one for each of them.
        if user not in self._settling and (user in self._readers) != (user in self._watching):
            self._settling.add(user)
            self._submit(_Settle(self, user))

    def settled(self, user: str) -> list[Operation]:
        """What is to be told of an inbox, when its place in the order has come."""
        self._settling.discard(user)
        if (user in self._readers) == (user in self._watching):
            return []
        if user in self._readers:
            self._watching.add(user)
            return self._interest.watch(user)
        self._watching.discard(user)
        return self._interest.unwatch(user)


class _Settle(Step):
    def __init__(self, exchange: InterestExchange, user: str) -> None:
        self._exchange = exchange
        self._user = user

    def apply(self) -> list[Operation]:
        return self._exchange.settled(self._user)
