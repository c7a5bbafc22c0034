"""The cluster as this node sees it, put together. `broker.server` makes one where storage serves several nodes.

A group of messages (`broker.publish_path`): `current` before it is matched, `tell` once it is durable and before it is
acknowledged. What other nodes tell comes in by `_take`.

Over 300 lines: the parts are put together in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.cluster.failover import Failover
from broker.cluster.forwarding import RECALLED, forwards_of
from broker.cluster.heartbeats import LEAVE, Heartbeats, Report
from broker.cluster.interest import Interest
from broker.cluster.interest_exchange import InterestExchange
from broker.cluster.leaving import Leaving
from broker.cluster.mailbox import AskFailed, Mailbox
from broker.cluster.routes import Routes
from broker.cluster.session_readers import ClusterSessionReaders
from broker.cluster.shared_groups import ClusterSharedGroups
from broker.cluster.takeover import Takeover
from broker.cluster.untold import Untold
from broker.connection import NodeState, NoSuchNode
from broker.publication import Publication
from storage.cluster import DEAD, UP, Parcel, Wake, number_of
from storage.ending import end
from storage.errors import FencedOut, StorageUnavailable

if TYPE_CHECKING:
    from broker.cluster.membership import Membership
    from broker.cluster.ports import Node
    from broker.pipeline import Step
    from broker.sessions import Read
    from storage.cluster import Cluster as Shared
    from storage.cluster import Node as Member
    from storage.records import Append, Device, DeviceKey

log = logging.getLogger(__name__)

_GATHER = 5.0
"""Seconds that all nodes have for what an operator asks."""


class Cluster:
    """One node's part. ``shared`` is what storage gives to it."""

    def __init__(self, server: Node, shared: Shared) -> None:
        self.server = server
        self.shared = shared
        self.mailbox = Mailbox(shared, self._take, server.fenced)
        self.routes = Routes(server, shared)
        self.interest = Interest(shared.me.token)
        self.hold, self.release, self.lost = self.interest.hold, self.interest.release, self.interest.lost
        self.interest_exchange = InterestExchange(
            self.interest, self.routes, self.mailbox, server.pipeline.submit, server.clock.after
        )
        self.watch, self.unwatch = self.interest_exchange.watch, self.interest_exchange.unwatch
        self.untold = Untold(self)
        self.takeover = Takeover(self)
        self.in_turn = self.takeover.in_turn
        self.late = self.takeover.late
        self.failover = Failover(self)
        self.groups = ClusterSharedGroups(server, self)
        self.leaving = Leaving(server)
        self.heartbeats = Heartbeats(
            shared,
            server.time,
            report=self._report,
            there=self.routes.only,
            found=self.failover.found,
            leave=self.leaving.begin,
            fenced=server.fenced,
        )
        self.readers = ClusterSessionReaders(server, self)
        self._trimming: asyncio.Task[None] | None = None
        self.covered: Publication | Step | None = None
        """See `broker.publish_path.OtherNodes`."""
        self.done = 0
        """Every message of this node with an id up to it is where it is due, and the other nodes are told."""
        shared.rematch = self._rematch
        self.mailbox.on(RECALLED, self._recalled)
        self.routes.taken = self.takeover.taken

    @property
    def me(self) -> Member:
        """This node, as it joined."""
        return self.shared.me

    @property
    def members(self) -> Membership:
        """Who is there."""
        return self.heartbeats.members

    async def before_loading(self) -> None:
        """Storage is open; what it has is loaded next."""
        await self.heartbeats.join()
        await self.routes.before_loading()

    async def start(self) -> None:
        """All is loaded, and the pipeline runs: take part. The listeners open after this."""
        self.mailbox.start()
        await self.routes.load()
        await self.interest_exchange.start(self.members, self.me.token)
        self.routes.start()
        self.heartbeats.start()
        self.groups.start()
        self._trimming = asyncio.create_task(self._trim(), name="trimming of the routes")
        await self._finish_dead()

    async def _finish_dead(self) -> None:
        """Complete what dead nodes left half done, this one's predecessor first of all, before a client may publish: their
        messages come first. The rest of their failover takes its time."""
        for node in await self.shared.nodes():
            if node.state == DEAD:
                await self.takeover.finish(node.token)

    async def stop(self) -> None:
        """The last group is durable: take part no longer."""
        await self.leaving.stop()
        await end([self._trimming])
        await self.heartbeats.stop()
        await self.failover.stop()
        await self.groups.stop()
        await self.takeover.stop()
        await self.interest_exchange.stop()
        await self.routes.stop()
        await self.mailbox.stop()

    async def _trim(self) -> None:
        while True:
            await asyncio.sleep(self.members.lease)
            try:
                await self.routes.trim(self.members.nodes.values())
            except StorageUnavailable as error:
                log.debug("old changes of the routes stay: %s", error)
            except FencedOut:
                return  # the beats say so
            except Exception:  # our bug: the routes would grow for ever
                log.exception("trimming the routes failed")

    # --- a group (`broker.publish_path.OtherNodes`) ------------------------------------------------------------------------

    async def current(self, group: Sequence[Publication | Step]) -> bool:
        """See `broker.publish_path.OtherNodes`."""
        self.interest.begin_group()
        covered, self.covered = self.covered, None
        if not any(isinstance(item, Publication) for item in group):
            return True
        self.shared.forwarded = False
        if group[-1] is covered:
            return True
        return await self.server.commits.until_done(self._look)

    async def _look(self) -> None:
        await self.routes.refresh()

    async def tell(self, publications: Sequence[Publication]) -> bool:
        """See `broker.publish_path.OtherNodes`.

        The routes are looked at once more. A device that connects while the group commits has its node told first, and reads
        its inbox's head second; here the inbox came first, and this is second. So one of the two sees the other.

        What has come by then for the next group is covered by that look as well.
        """
        commits = self.server.commits
        if any(publication.recipients for publication in publications):
            last = self.server.pipeline.last
            if not await commits.until_done(self._look):
                return False
            self.covered = last
        forwards = forwards_of(publications, self.routes, self.me.token)
        forwards.recalled(publications, [token for token in self.members.nodes if token != self.me.token])
        for parcels in forwards.rounds():
            if not await commits.until_done(partial(self.mailbox.send, parcels)):
                return False
        # A message that another node had claimed first has an id of that node's, which says nothing of this one's.
        own = (p.message.id for p in publications if number_of(p.message.id) == self.me.number)
        self.done = max((self.done, *own))
        self.shared.forwarded = True
        return True

    async def _rematch(self, appends: Sequence[Append]) -> None:
        """See `storage.cluster.Cluster.rematch`. What a plugin put in place of a message's recipients stays."""
        await self.routes.refresh()
        for append in appends:
            match = self.server.trie.match(append.message.topic)
            if isinstance(append, Publication) and isinstance(append.recipients, list) and append.matched is not match:
                append.matched = match
                append.recipients = list(match.recipients)

    # --- what others tell -------------------------------------------------------------------------------------------------

    def _take(self, parcel: Parcel) -> None:
        """What another node has for this one, but for its notes."""
        self.server.delivery.arrived(parcel.number, parcel.wakes, parcel.live, parcel.transient)

    async def _recalled(self, sender: int, body: Mapping[str, Any]) -> None:
        self.server.recalled(body["topic"], list(body["ids"]), body["by"])

    # --- what this node says of itself -----------------------------------------------------------------------------

    def _report(self) -> Report:
        return Report(self.done, self.routes.position, self.server.clients)

    # --- what the rooms below ask (`broker.connection.node.Clustered`) ----------------------------------------------

    def time(self) -> int:
        """The database's clock, ms, to some milliseconds the same on all nodes."""
        return self.heartbeats.time()

    async def may(self, what: str) -> bool:
        """Whether this node is the one that does something: it takes the lease of that name, or keeps it."""
        return await self.shared.lease(what)

    def answer_all(self, kind: str, answer: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]) -> None:
        """See `broker.connection.node.Clustered`."""

        async def answered(sender: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
            found = answer(body)
            return {} if found is None else {"answer": found}

        self.mailbox.on(kind, answered)

    def note_user(self, user: str, kind: str, body: Mapping[str, Any]) -> None:
        """See `broker.connection.node.Clustered`."""
        for token in self.routes.nodes_of(user):
            if token != self.me.token:
                try:
                    self.mailbox.note(token, kind, body)
                except StorageUnavailable as error:
                    log.debug("node %s is not told: %s", self.members.named(token), error)

    async def ask_all(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `broker.connection.node.Clustered`."""
        others = [token for token in self.members.nodes if token != self.me.token and self.members.answers(token)]
        asked = [asyncio.ensure_future(self.mailbox.ask(token, kind, body, self.members.patience)) for token in others]
        try:
            for next_ in asyncio.as_completed(asked):
                with suppress(TimeoutError, AskFailed):
                    if "answer" in (reply := await next_):
                        return dict(reply["answer"])
        finally:
            for ask in asked:
                ask.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return None

    def has(self, user: str) -> bool:
        """See `broker.connection.node.Clustered`."""
        return any(token != self.me.token for token in self.routes.nodes_of(user))

    async def gather_all(self, kind: str, body: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[str]]:
        """See `broker.connection.node.Clustered`."""
        there = [token for token, node in self.members.nodes.items() if token != self.me.token and node.state != DEAD]
        others = [token for token in there if self.members.answers(token)]
        asked = (self.mailbox.ask(token, kind, body, _GATHER) for token in others)
        replies = await asyncio.gather(*asked, return_exceptions=True)
        answers: list[Mapping[str, Any]] = []
        silent = [self.members.named(token) for token in there if token not in others]
        for token, one in zip(others, replies, strict=True):
            if isinstance(one, TimeoutError | AskFailed | StorageUnavailable):
                silent.append(self.members.named(token))
            elif isinstance(one, BaseException):
                raise one
            elif "answer" in one:
                answers.append(dict(one["answer"]))
        return answers, silent

    def listens(self, topic: str) -> bool:
        """See `broker.connection.node.Clustered`."""
        return any(True for _ in self.routes.nodes_for(topic))

    async def take(self, key: DeviceKey) -> Read | None:
        """See `broker.connection.node.Clustered`."""
        while True:
            try:
                return await self.takeover.take(key)
            except FencedOut as error:
                self.server.fenced(str(error))
                raise
            except StorageUnavailable as error:
                log.debug("%s cannot connect yet: %s", key.client_id, error)
            await asyncio.sleep(0.5)

    # --- across nodes ------------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """See `broker.connection.node.Clustered`."""
        if self.leaving.begun:
            return "leaving"
        return "" if self.heartbeats.alive else "unheard"

    async def listed(self) -> list[NodeState]:
        """See `broker.connection.node.Clustered`."""
        nodes, now = await self.shared.nodes(), await self.shared.time()
        _, end = await self.shared.routes_end()
        return [
            NodeState(
                node.number,
                node.token,
                node.name,
                "leaving" if node.asked == LEAVE and node.state == UP else node.state,
                node.sessions,
                max(0, now - node.seen),
                node.routes,
                max(0, end - node.routes),
                node.started,
                node.features,
                node.token == self.me.token,
            )
            for node in nodes
        ]

    async def ask_to_leave(self, name: str) -> NodeState:
        """See `broker.connection.node.Clustered`."""
        listed = await self.listed()
        named = [node for node in listed if (node.me if not name else name in (str(node.number), node.name))]
        if not named:
            known = ", ".join(f"{node.number} ({node.name})" for node in listed)
            raise NoSuchNode(f"no node {name[:40]!r}: there is {known}")
        if len(named) > 1:
            numbers = ", ".join(str(node.number) for node in named)
            raise NoSuchNode(f"{len(named)} nodes have the name {name[:40]!r}: say which by its number, {numbers}")
        if not await self.shared.ask(named[0].token, LEAVE):
            raise NoSuchNode(f"node {named[0].number} ({named[0].name}) is dead: another node settles its affairs")
        return named[0]._replace(state="leaving")

    async def holder(self, key: DeviceKey) -> int:
        """The node that has the device's connection, by token; 0 where none has, or this one."""
        return (await self.where(key))[0]

    async def where(self, key: DeviceKey) -> tuple[int, Device | None]:
        """The same, and what was read of the device."""
        device = await self.server.storage.device(key)
        if device is None:  # a clean session, of which the routes alone know
            await self.routes.refresh()
        node = self.routes.holders.holder(key) if device is None else device.node
        return 0 if node == self.me.token else node, device

    async def wake(self, wakes: Sequence[Wake]) -> None:
        """Inboxes have news that nobody was told of: here, and on every node that has somebody of them connected.

        Raises `StorageUnavailable`.
        """
        await self.routes.refresh()
        self.server.delivery.arrived(self.me.number, wakes, (), ())
        parcels: dict[int, Parcel] = {}
        for wake in wakes:
            for token in self.routes.nodes_of(wake.user):
                if token != self.me.token:
                    parcels.setdefault(token, Parcel()).wakes.append(wake)
        if parcels:
            await self.mailbox.send(parcels)
