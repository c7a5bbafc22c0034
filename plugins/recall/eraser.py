"""Erasing a user, or a conversation: everything is recalled that the user published, or that was published there.

Step by step, each of which may be made again: the place is kept in storage behind it (`Erasure`). So whoever has the lease
goes on after a restart, or after a node has died.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from broker.amqtt import Services, Undecided, Wanted
from broker.hooks import NoSuchUser, Users
from plugins.follower import Follower
from plugins.recall.asked import MOST, RECALLS
from plugins.recall.erasure import CONVERSATION, Erasure
from plugins.recall.known import Known
from plugins.recall.records import RecordEraser
from plugins.timelines import OPERATOR, Problem, Who
from plugins.timelines.errors import Away, TooMany
from plugins.timelines.messages import hex_id
from plugins.timelines.publishing import Draft, Publisher
from storage.cluster import Node
from storage.errors import StorageUnavailable
from storage.interface import Tails
from storage.records import DropTokens, Message

log = logging.getLogger("tideline.recall")

PAGE = 500
_PAGE_BYTES = 1 << 20
_TIMEOUT = 10.0
_CLIENTS = 100
_FAR = 365 * 86_400_000
"""Milliseconds: as of then nothing is young, and removal of inbox entries spares none."""


class _Until:
    """The tails up to where they were once, whatever comes since."""

    def __init__(self, storage: Tails, ends: dict[int, int]) -> None:
        self._ends = ends
        self.read_tail_of = storage.read_tail_of

    async def tails(self) -> dict[int, int]:
        """See `storage.interface.Tails`."""
        return self._ends


class Eraser:
    """Makes the steps. ``erasers``: of other plugins, by name."""

    def __init__(self, server: Services, erasers: Mapping[str, RecordEraser]) -> None:
        self._server = server
        self._erasers = erasers
        self._publisher = Publisher(server, _TIMEOUT)
        self._phases: dict[str, Callable[[Erasure], Awaitable[bool]]] = {
            "devices": self._devices,
            "records": self._records,
            "messages": self._messages,
            "retained": self._retained,
            "inbox": self._inbox,
            "leftovers": self._records,
        }

    async def step(self, erasure: Erasure) -> None:
        """One step; `Erasure.state` and ``place`` say where it is then. Raises `StorageError`, `Undecided`, `Away` and
        `Conflict`."""
        if not erasure.phase or not await self._phases[erasure.phase](erasure):
            erasure.go_on(self._server.wall)

    # --- phases: whether there is more of it -----------------------------------------------------------------------------

    async def _devices(self, erasure: Erasure) -> bool:
        """Shut the user out where users are ours to shut out, end its connections on all nodes, and forget its devices."""
        user, server = erasure.name, self._server
        users = server.plugin(Users)  # type: ignore[type-abstract]
        if users is not None and user.startswith("u/"):
            with contextlib.suppress(NoSuchUser):
                await users.delete(user[2:])
        if tokens := await server.storage.tokens(user):
            await server.commit([DropTokens([token.id for token in tokens])], _TIMEOUT)
        listed = await server.clients.listed(Wanted(user=user, limit=_CLIENTS))
        for row in listed.rows:
            await server.within(server.clients.forget(row["client"], user), _TIMEOUT)
        return bool(listed.next)

    async def _records(self, erasure: Erasure) -> bool:
        """A page of what another plugin keeps, one plugin after the other."""
        place = erasure.place
        behind = place.get("behind", "")
        name = min((name for name in self._erasers if name > behind), default=None)
        if name is None:
            return False
        after = await self._erasers[name](erasure.what, erasure.name, place.get(name, ""))
        erasure.place = {"behind": name} if after is None else {"behind": behind, name: after}
        return True

    async def _messages(self, erasure: Erasure) -> bool:
        if erasure.what == CONVERSATION:
            return await self._conversation(erasure)
        storage, place = self._server.storage, erasure.place
        if not place:  # what comes from here on is nothing of this user's, who is gone
            place["beats"] = {str(node.token): node.beat for node in await self._nodes()}
            return True
        if "ends" not in place:
            await self._hear(place["beats"])
            place["ends"] = {str(number): end for number, end in (await storage.tails()).items()}
        ends = {int(number): end for number, end in place["ends"].items()}
        follower = Follower(_Until(storage, ends), {int(number): at for number, at in place.get("at", {}).items()}, {})
        page = await follower.read(PAGE, _PAGE_BYTES)
        await self._recall(erasure, (message for message in page.messages if message.user == erasure.name))
        erasure.looked += len(page.messages)
        moved = follower.take(page.positions)
        place["at"] = {str(number): at for number, at in follower.positions.items()}
        if page.messages:
            first = place.setdefault("first", min(message.id for message in page.messages))
            way = sum(max(0, end - first) for end in ends.values())  # ids are times: so much of the time is looked through
            gone = sum(max(0, at - first) for at in follower.positions.values())
            erasure.permille = min(999, gone * 1000 // max(1, way))
        return bool(page.messages) or moved

    async def _nodes(self) -> Sequence[Node]:
        cluster = self._server.storage.cluster
        return () if cluster is None else await cluster.nodes()

    async def _hear(self, beats: Mapping[str, int]) -> None:
        """Raise unless each node has said since then how far its messages are complete, or another has settled its affairs:
        the tails are as of a node's last beat, and one of that moment may have been under way."""
        for node in await self._nodes():
            before = beats.get(str(node.token))
            if before is not None and node.beat < before + 2:
                raise StorageUnavailable(f"what node {node.name} stored last is not known yet")

    async def _conversation(self, erasure: Erasure) -> bool:
        storage, topic, place = self._server.storage, erasure.name, erasure.place
        if not place:  # what recalls messages comes behind those, and is not looked at
            first, last = await storage.conversation_bounds(topic)
            place |= {"after": first - 1, "first": first, "until": last}
        page = await storage.read_conversation(
            topic, after=place["after"], before=place["until"] + 1, limit=PAGE, max_bytes=_PAGE_BYTES
        )
        await self._recall(erasure, page)
        erasure.looked += len(page)
        if page:
            place["after"] = page[-1].seq
            erasure.permille = min(999, (page[-1].seq - place["first"] + 1) * 1000 // (place["until"] - place["first"] + 1))
        return bool(page)

    async def _retained(self, erasure: Erasure) -> bool:
        """Clear what is retained though the store has it no more."""
        storage = self._server.storage
        if erasure.what == CONVERSATION:
            page = [m for m in await storage.retained_range(erasure.name, "", 1) if m.topic == erasure.name]
            await self._clear(page)
            return False
        page = await storage.retained_range("", erasure.place.get("after", ""), PAGE)
        await self._clear([message for message in page if message.user == erasure.name])
        erasure.place = {"after": page[-1].topic} if page else {}
        return bool(page)

    async def _inbox(self, erasure: Erasure) -> bool:
        """Remove the entries of the user's inbox; its devices are gone."""
        server, user = self._server, erasure.name
        _, last = await server.storage.inbox_bounds(user)
        async with server.retention_lock.removing():
            return await server.storage.prune_inbox(user, last + 1, PAGE, server.now() + _FAR) == PAGE

    # --- what is published -----------------------------------------------------------------------------------------------

    async def _recall(self, erasure: Erasure, messages: Iterable[Message]) -> None:
        wanted: dict[str, list[int]] = {}
        for message in messages:
            if not message.recalled and (message.payload or message.properties) and not Known.of(message).recalls:
                wanted.setdefault(message.topic, []).append(message.id)
        drafts: list[Draft] = []
        for topic, ids in wanted.items():
            for start in range(0, len(ids), MOST):
                some = tuple((RECALLS, hex_id(one)) for one in ids[start : start + MOST])
                drafts.append(Draft(topic, b"", properties=some))
        for draft, problem in zip(drafts, await self._publish(drafts), strict=True):
            count = len(draft.properties)
            if problem is None:
                erasure.recalled += count
            else:
                erasure.failed += count
                log.error("erasing: %d messages of topic %r cannot be recalled: %s", count, draft.topic[:200], problem.detail)

    async def _clear(self, messages: Iterable[Message]) -> None:
        await self._publish([Draft(message.topic, b"", retain=True) for message in messages])

    async def _publish(self, drafts: list[Draft]) -> list[Problem | None]:
        """What was wrong with each; raises where it is another matter later, for none of them to be passed over: storage does
        not answer, or a plugin took too long."""
        found: list[Problem | None] = []
        for outcome in await self._publisher.publish_all(Who(OPERATOR, operator=True), drafts) if drafts else []:
            if isinstance(outcome, Away | TooMany):
                raise StorageUnavailable(outcome.detail)
            if isinstance(outcome, Undecided):
                raise outcome
            found.append(outcome if isinstance(outcome, Problem) else None)
        return found
