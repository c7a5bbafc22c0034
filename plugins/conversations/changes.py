"""One user's membership of one conversation: what it is, and how it becomes another.

A change is several writes, and the process may end between any two of them:

1. a row of WORK says that this user's membership of this conversation is being changed;
2. where an owner goes, the conversation's owners are written first: of two that go at once the second one is told;
3. the membership: one row for the conversation, one for the user;
4. `settle`: the owners, and the devices that follow the topic, are brought to what the membership says now;
5. the row of WORK goes.

What is left of a change is settled when a broker starts, and from time to time. `settle` can be made again, at any time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from broker.access import RECEIVE
from broker.amqtt import Services
from plugins.conversations import roles
from plugins.conversations.model import OWNER, WORK, Membership
from plugins.conversations.store import Known, Store, drop_member, put_about, put_member, work_key
from plugins.timelines import Conflict, Problem, Timelines, Unprocessable
from storage.records import DeviceKey, DropRow, PutRow

_CHANGED = "conversation changed"
_AGAIN = 10
"""How often a change is tried again that somebody else's came before."""
MAX_OWNERS = 16
NEW_ONLY = 1 << 4
"""A subscription option: what is retained comes to who has not subscribed yet [MQTT-3.3.1-10]."""


class Memberships:
    """Who is a member of what. ``timeout``: seconds that a write may wait for storage; ``qos``: with which the devices of
    members follow."""

    def __init__(self, server: Services, timeout: float, qos: int) -> None:
        self.store = Store(server, timeout)
        self.known: Known[tuple[Membership | None]] = Known()
        self.followed: Known[bool] = Known()
        """Users whose devices are known to follow their own topic."""
        self.server = server
        self._timeout = timeout
        self._qos = qos
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def joined(self) -> None:
        """The node may be one of several: hear of what the others change."""

        def received(body: Any) -> None:
            self._forget(body["topic"], body["user"])

        self.server.answer_nodes(_CHANGED, received)

    async def of(self, user: str, topic: str) -> Membership | None:
        """A user's membership of a topic, invited ones too."""
        key = (user, topic)
        while (found := self.known.get(key)) is None:
            changes = self.known.changes
            found = (await self.store.member(topic, user),)
            self.known.note(key, found, changes)
            if changes == self.known.changes:
                break  # else it may be another one by now
        return found[0]

    async def change(self, topic: str, user: str, member: Membership | None, *, erased: bool = False) -> None:
        """Make a membership what is given; None ends it. Raises `Conflict` where it changed since it was read, and where the
        last owner would go, but who is ``erased``."""
        async with self._turn(topic, user):
            key = work_key(topic, user)
            work = json.dumps({"topic": topic, "user": user, "at": self.server.wall()}).encode()
            await self.store.write([PutRow(WORK, "", key, work)])
            problem: Problem | None = None
            try:
                await self._write(topic, user, member, erased=erased)
            except (Conflict, Unprocessable) as refused:
                problem = refused
            await self.settle(topic, user)
            await self.store.write([DropRow(WORK, "", key)])
        if problem is not None:
            raise problem

    async def _write(self, topic: str, user: str, member: Membership | None, *, erased: bool) -> None:
        if erased:
            pass  # `settle` takes it out of the owners, whoever is left
        elif member is None or member.role != OWNER:
            await self._disown(topic, user)
        elif user not in (owners := await self._owners(topic)) and len(owners) >= MAX_OWNERS:
            raise Unprocessable(f"a conversation has at most {MAX_OWNERS} owners")
        if member is not None:
            await self.store.write(put_member(topic, user, member))
        elif (before := await self.store.member(topic, user)) is not None:
            await self.store.write(drop_member(topic, user, before.revision))

    @asynccontextmanager
    async def _turn(self, topic: str, user: str) -> AsyncIterator[None]:
        lock = self._turns.get((topic, user))
        if lock is None:
            lock = self._turns[topic, user] = asyncio.Lock()
        async with lock:
            yield

    async def _owners(self, topic: str) -> set[str]:
        about = await self.store.about(topic)
        return set() if about is None else set(about.owners)

    async def _disown(self, topic: str, user: str) -> None:
        """Take somebody out of the owners. The last one goes only with all the others gone."""
        for _ in range(_AGAIN):
            about = await self.store.about(topic)
            if about is None or user not in about.owners:
                return
            left = tuple(owner for owner in about.owners if owner != user)
            if not left and await self.store.count(topic, 2) > 1:
                raise Conflict("the last owner stays: make somebody else an owner first")
            try:
                await self.store.write([put_about(about._replace(owners=left))])
            except Conflict:
                continue
            return
        raise Conflict("the conversation changes all the time: ask again")

    async def settle(self, topic: str, user: str) -> None:
        """Bring the owners, and the user's devices, to what the membership is now."""
        for _ in range(_AGAIN):
            member = await self.store.member(topic, user)
            await self.tell(topic, user)
            await self._own(topic, user, member)
            if roles.may(member, RECEIVE):
                await self.follow(user, topic)
            else:
                await Timelines(self.server, self._timeout).carried_out(self.server.following.unfollow(user, topic))
            again = await self.store.member(topic, user)
            if (again.revision if again else 0) == (member.revision if member else 0):
                break  # else somebody has changed it meanwhile, and may have come to the devices before this

    async def follow(self, user: str, topic: str) -> None:
        """Have all devices of a user follow a topic."""
        await Timelines(self.server, self._timeout).carried_out(self.server.following.follow(user, topic, self._qos | NEW_ONLY))

    async def follow_one(self, device: DeviceKey, topic: str) -> None:
        """The same of one device, which is here."""
        follow = self.server.following.follow_one(device, topic, self._qos | NEW_ONLY)
        await Timelines(self.server, self._timeout).carried_out(follow)

    async def note(self, topic: str, user: str, member: Membership) -> None:
        """Write what of a membership is the user's own affair: nothing follows from it."""
        await self.store.write(put_member(topic, user, member)[:1])
        await self.tell(topic, user)

    def _forget(self, topic: str, user: str) -> None:
        self.known.forget((user, topic))
        self.followed.forget((user, topic))

    async def tell(self, topic: str, user: str) -> None:
        """Nobody decides by what was known of the membership before."""
        self._forget(topic, user)
        await self.server.ask_nodes(_CHANGED, {"user": user, "topic": topic})
        event = json.dumps({"event": "membership", "topic": topic}).encode()
        self.server.tell_user(user, "$sync/events/", event)

    async def _own(self, topic: str, user: str, member: Membership | None) -> None:
        """Have an owner, and nobody who is none, among the conversation's owners. Writes the user's own row again, too."""
        if member is not None:
            await self.store.write(put_member(topic, user, member)[1:])
        else:
            await self.store.write(drop_member(topic, user, 0)[1:])
        owner = member is not None and member.role == OWNER
        for _ in range(_AGAIN):
            about = await self.store.about(topic)
            if about is None or (user in about.owners) == owner:
                return
            others = tuple(one for one in about.owners if one != user)
            try:
                await self.store.write([put_about(about._replace(owners=(*others, user) if owner else others))])
            except Conflict:
                continue
            return

    async def finish(self, before: int) -> int:
        """Settle the changes that were begun before a time (ms) and are not done; how many there were."""
        done, after = 0, ""
        while page := await self.store.work(after):
            for row in page:
                work = json.loads(row.value)
                if work["at"] < before:
                    async with self._turn(work["topic"], work["user"]):
                        await self.settle(work["topic"], work["user"])
                        await self.store.write([DropRow(WORK, "", row.key)])
                    done += 1
            after = page[-1].key
        return done
