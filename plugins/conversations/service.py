"""What members, administrators and plugins do with conversations. Every permission is asked here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker.amqtt import Services
from plugins.conversations import roles
from plugins.conversations.changes import Memberships
from plugins.conversations.checks import check, check_topic, check_user
from plugins.conversations.model import (
    CHANNEL,
    DIRECT,
    GROUP,
    JOINING,
    MEMBER,
    OWNER,
    ROLES,
    START,
    About,
    Membership,
    direct_topic,
    new_topic,
)
from plugins.conversations.store import put_about
from plugins.recall.erasure import CONVERSATION, TABLE
from plugins.timelines import OPERATOR, Conflict, Forbidden, NotFound, Unprocessable, Who

_AGAIN = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """How many there may be: members of a group, and conversations of a user."""

    members: int = 1000
    conversations: int = 1000


class Conversations:
    """Creates conversations, and says who is a member. ``prefix``: what their topics begin with; ``timeout``: seconds that
    a write may wait for storage; ``qos``: with which the devices of members follow."""

    def __init__(self, server: Services, prefix: str, limits: Limits, timeout: float, qos: int) -> None:
        self.server = server
        self.prefix = prefix
        self.members = Memberships(server, timeout, qos)
        self.channels_fan_out = True
        """Whether topics of channels have read fan-out."""
        self._limits = limits

    # --- who is a member -------------------------------------------------------------------------------------------------

    async def about(self, who: Who, topic: str) -> dict[str, Any]:
        """A conversation, and the caller's membership. Raises `NotFound` for who is neither a member nor invited."""
        about, _ = await self._seen(who, topic)
        mine = await self._own(who, topic)
        return {**about.shown(), "mine": None if mine is None else {**mine.shown(who.user), "muted": mine.muted}}

    async def listed(self, who: Who, topic: str, after: str, limit: int) -> dict[str, Any]:
        """A page of the members, by user key."""
        await self._inside(who, topic)
        page = await self.members.store.members(topic, after, limit)
        more = page[-1][0] if len(page) == limit else None
        return {"members": [member.shown(user) for user, member in page], "next": more}

    async def _seen(self, who: Who, topic: str) -> tuple[About, Membership | None]:
        """The conversation, and who the caller is there; None: an operator."""
        member = None if who.operator else await self.members.store.member(topic, who.user)
        about = await self.members.store.about(topic) if who.operator or member is not None else None
        if about is None:
            raise NotFound(f"conversation {topic[:80]!r}: there is none, or you are not a member")
        return about, member

    async def _own(self, who: Who, topic: str) -> Membership | None:
        """The membership of the caller, or of whom an operator acts for."""
        return None if who.user == OPERATOR else await self.members.store.member(topic, who.user)

    async def _inside(self, who: Who, topic: str) -> tuple[About, Membership | None]:
        """The same of who is not only invited."""
        about, member = await self._seen(who, topic)
        if member is not None and member.invited:
            raise Forbidden("you are invited: join first")
        return about, member

    # --- conversations ---------------------------------------------------------------------------------------------------

    async def create(
        self,
        who: Who,
        kind: str,
        *,
        name: str = "",
        history: str = START,
        topic: str = "",
        members: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Begin a conversation. Two users have one of kind direct, whoever begins it."""
        check(kind, name, history, members)
        if topic and kind != GROUP:
            raise Unprocessable(f"topic {topic[:80]!r}: leave it out; the broker gives one of kind {kind} its topic")
        if kind == DIRECT:
            return await self._direct(who, name, history, members)
        if kind == CHANNEL and not self.channels_fan_out:
            raise Unprocessable(
                f"kind channel: its topics need read fan-out; add {{filter: {self.prefix + CHANNEL + '/#'!r}, fanout: read}} to"
                " persistence.policies"
            )
        if topic:
            check_topic(topic, self.prefix, self.server.settings.mqtt.max_topic_levels)
        topic = topic or new_topic(self.prefix, kind)
        owners = () if who.operator and who.user.startswith("b/") else (who.user,)
        about = About(topic, kind, name, history, self.server.wall(), who.user, owners, begins=await self._begins(who, topic))
        wanted = list(dict.fromkeys((*owners, *members)))
        if kind == GROUP and len(wanted) > self._limits.members:
            raise Unprocessable(f"{len(wanted)} members with you: a conversation has at most {self._limits.members}")
        for user in wanted:  # of what cannot be made whole nothing is made
            await self._room_for(user)
        await self._begin(about)
        for owner in owners:
            await self.members.change(topic, owner, Membership(OWNER, about.begins, about.created, who.user))
        for user in wanted:
            if user not in owners:
                await self._add(about, user, roles.first_role(kind), by=who.user, invited=False)
        return await self.about(who, topic)

    async def _begins(self, who: Who, topic: str) -> int:
        """What a topic has that a new conversation does not show: what was said there was for others. An operator may make a
        conversation of what a topic has; not of what was erased."""
        if who.operator and await self.server.storage.row(TABLE, "", f"{CONVERSATION}:{topic}") is None:
            return 0
        return (await self.server.storage.conversation_bounds(topic))[1]

    async def _begin(self, about: About) -> None:
        """Take the topic. Where a broker was killed before the first member was, whoever began it begins it again."""
        store = self.members.store
        for _ in range(_AGAIN):  # what is left may be changed meanwhile, as it is brought to its end
            left = await store.about(about.topic)
            if left is not None and (left.creator != about.creator or await store.count(about.topic, 1)):
                break
            try:
                return await store.write([put_about(about._replace(revision=left.revision if left is not None else 0))])
            except Conflict:
                continue
        raise Conflict(f"topic {about.topic[:80]!r}: there is a conversation already")

    async def _direct(self, who: Who, name: str, history: str, members: Sequence[str]) -> dict[str, Any]:
        if len(members) != 1 or members[0] == who.user or who.user.startswith("b/"):
            raise Unprocessable("members: a conversation of kind direct has you and exactly one other")
        pair = (who.user, members[0])
        topic = direct_topic(self.prefix, *pair)
        for user in pair:
            if await self.members.store.member(topic, user) is None:
                await self._room_for(user)
        about = await self.members.store.about(topic)
        if about is None:
            begins = await self._begins(who, topic)
            about = About(topic, DIRECT, name, history, self.server.wall(), who.user, begins=begins)
            try:
                await self.members.store.write([put_about(about)])
            except Conflict:
                about = await self.members.store.about(topic) or about
        for user in pair:
            if await self.members.store.member(topic, user) is None:
                await self._add(about, user, MEMBER, by=who.user, invited=False)
        return await self.about(who, topic)

    async def change(self, who: Who, topic: str, *, name: str | None = None, history: str | None = None) -> dict[str, Any]:
        """Call it something else, or show new members more or less."""
        check(GROUP, name or "", history or START, ())
        about, actor = await self._inside(who, topic)
        roles.may_describe(actor)
        changed = about._replace(
            name=about.name if name is None else name, history=about.history if history is None else history
        )
        if changed != about:
            await self.members.store.write([put_about(changed)])
        return await self.about(who, topic)

    # --- members ---------------------------------------------------------------------------------------------------------

    async def put(
        self, who: Who, topic: str, user: str, role: str = "", *, invite: bool = False, existing: bool = False
    ) -> dict[str, Any]:
        """Add a member, or ``invite`` one, or give one another role. ``existing``: the last alone; raises `NotFound` for who
        is neither a member nor invited."""
        check_user(user)
        if role and role not in ROLES:
            raise Unprocessable(f"role {role[:40]!r}: must be {', '.join(ROLES)}")
        about, actor = await self._inside(who, topic)
        before = await self.members.store.member(topic, user)
        wanted = role or (before.role if before is not None else roles.first_role(about.kind))
        roles.may_change(actor, about.kind, before, wanted)
        if before is None and existing:
            asked = shlex.join(["tideline", "conversation", "invite", topic, user])
            raise NotFound(f"{user[:80]} is no member of {topic[:80]!r}: invite it first ({asked})")
        if before is None:
            await self._add(about, user, wanted, by=who.user, invited=invite)
        elif before.role != wanted:
            await self.members.change(topic, user, before.with_(role=wanted))
        member = await self.members.store.member(topic, user)
        if member is None:
            raise Conflict(f"{user[:80]} was removed meanwhile")
        return member.shown(user)

    async def join(self, who: Who, topic: str) -> dict[str, Any]:
        """Accept an invitation."""
        about, _ = await self._seen(who, topic)
        member = await self._own(who, topic)
        if member is not None and member.invited:
            floor = await self._floor(about)
            await self.members.change(topic, who.user, member.with_(invited=False, floor=floor, joined=self.server.wall()))
        return await self.about(who, topic)

    async def remove(self, who: Who, topic: str, user: str) -> None:
        """Remove a member, or leave; an invitation is withdrawn, or refused, by the same call."""
        about, actor = await self._seen(who, topic)
        member = await self.members.store.member(topic, user)
        if member is None:
            raise NotFound(f"member {user[:80]!r}: there is none")
        if user != who.user:
            if actor is not None and actor.invited:
                raise Forbidden("you are invited: join first")
            roles.may_change(actor, about.kind, member, member.role)
        await self.members.change(topic, user, None)

    async def mute(self, who: Who, topic: str, muted: bool) -> dict[str, Any]:
        """Whether the caller wants notifications: a mark for its devices, and for who sends pushes."""
        await self._seen(who, topic)
        member = await self._own(who, topic)
        if member is None:
            raise Unprocessable(f"{who.user[:80]} is no member")
        if member.muted != muted:
            await self.members.note(topic, who.user, member.with_(muted=muted))
        return await self.about(who, topic)

    async def _add(self, about: About, user: str, role: str, *, by: str, invited: bool) -> None:
        await self._room_for(user)
        if about.kind == GROUP and await self.members.store.count(about.topic, self._limits.members) >= self._limits.members:
            raise Unprocessable(f"conversation {about.topic[:80]!r} has {self._limits.members} members, as many as it may")
        floor = await self._floor(about)
        await self.members.change(about.topic, user, Membership(role, floor, self.server.wall(), by, invited))

    async def _floor(self, about: About) -> int:
        """What somebody who joins now does not see."""
        return (await self.server.storage.conversation_bounds(about.topic))[1] if about.history == JOINING else about.begins

    async def _room_for(self, user: str) -> None:
        most = self._limits.conversations
        if len(await self.members.store.of(user, most)) >= most:
            raise Unprocessable(f"{user[:80]} is in {most} conversations, as many as it may be")
