"""Routes: conversations with members."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from plugins.conversations.checks import AT_ONCE, MAX_NAME
from plugins.conversations.listing import Listing
from plugins.conversations.service import Conversations
from plugins.conversations.values import MAX_KEY, Values
from plugins.http.api import Acting, Limit, responses
from plugins.http.models import Body, Message, Milliseconds
from plugins.http.rendering import reply, tagged

Kind = Literal["direct", "group", "channel"]
Role = Literal["owner", "admin", "member", "read-only"]
History = Literal["start", "joining"]
User = Annotated[str, Field(min_length=3, max_length=4096)]
Member = Annotated[str, Path(min_length=3, max_length=4096, description="a user key, such as u/alice")]
Name = Annotated[str, Field(max_length=MAX_NAME)]


class NewConversation(Body):
    """A conversation to begin."""

    kind: Kind
    """`direct`: the caller and one other, the same one each time; `group`; `channel`: many readers, few writers."""
    name: Name = ""
    """What people call it."""
    history: History = "start"
    """What a new member sees: all from the `start`, or what comes from its `joining` on."""
    topic: Annotated[str, Field(max_length=1024)] = ""
    """Of a group: the topic, below the prefix; one is given unless this says another."""
    members: Annotated[list[User], Field(max_length=AT_ONCE, default_factory=list)]
    """User keys, beside the caller's own."""


class ConversationChange(Body):
    """What is to be another; what is left out stays."""

    name: Name | None = None
    """What people call it."""
    history: History | None = None
    """What members see who join from now on."""


class MemberChange(Body):
    """A member, as it is to be."""

    role: Role | None = None
    """Left out: as it is; of a new member `member`, in a channel `read-only`."""
    invite: bool = False
    """Whether a new member has to accept before it is one."""
    existing: bool = False
    """Whether nobody is added: who is neither a member nor invited is a 404."""


class Mute(Body):
    """Whether the caller wants notifications."""

    muted: bool
    """A mark for its devices, and for what sends pushes. Messages come all the same."""


class MemberState(BaseModel):
    """A member. ``invited``: it has not accepted yet."""

    user: str
    role: Role
    joined: Milliseconds
    by: str
    invited: bool


class OwnMembership(MemberState):
    """The caller's own."""

    muted: bool


class Conversation(BaseModel):
    """A conversation. ``mine`` is null for an operator who is no member."""

    topic: str
    kind: Kind
    name: str
    history: History
    created: Milliseconds
    creator: str
    owners: list[str]
    mine: OwnMembership | None


class MemberList(BaseModel):
    """``next`` is what to give as ``after`` for the next page; null at the end."""

    members: list[MemberState]
    next: str | None


class OwnConversation(BaseModel):
    """``active``: when the last message came, or the caller. ``unread`` are not the caller's own; ``total`` is what it sees."""

    topic: str
    kind: str
    name: str
    role: Role
    invited: bool
    muted: bool
    active: Milliseconds
    last_message: Message | None
    position: int
    last: int
    total: int
    unread: int
    mentions: int


class OwnConversations(BaseModel):
    """``next`` is what to give as ``after`` for the next page; null at the end."""

    conversations: list[OwnConversation]
    next: str | None


class NewValue(Body):
    """A value of the caller's own."""

    value: Any
    """Any JSON of at most 64 KiB; null forgets it."""


class ValueChange(BaseModel):
    """A change, and its place in the topic of the user's own."""

    key: str
    value: Any
    topic: str
    seq: int


class ValueList(BaseModel):
    """``values`` by key. What is changed behind ``last``, a sequence of ``topic``, comes there as messages."""

    topic: str
    last: int
    values: dict[str, Any]
    next: str | None


def make_router(conversations: Conversations, listing: Listing, values: Values) -> APIRouter:
    """The routes over what does it."""
    router = APIRouter(tags=["conversations with members"])

    @router.post("/conversations", response_model=Conversation, status_code=201, responses=responses())
    async def create(body: NewConversation, who: Acting) -> Response:
        """Begin a conversation. Its members get it on all of their devices."""
        made = await conversations.create(
            who, body.kind, name=body.name, history=body.history, topic=body.topic, members=body.members
        )
        return reply(made, 201)

    @router.get("/me/conversations", response_model=OwnConversations, responses=responses())
    async def mine(
        request: Request,
        who: Acting,
        after: Annotated[str, Query(max_length=2048, description="`next` of the page before")] = "",
        limit: Limit = 50,
    ) -> Response:
        """The conversations that I am a member of, or invited to, what was active last first."""
        return tagged(request, await listing.page(who, after, min(limit, 100)))

    @router.get("/conversations/{topic:path}/about", response_model=Conversation, responses=responses())
    async def about(request: Request, topic: str, who: Acting) -> Response:
        """A conversation that I am a member of, or invited to."""
        return tagged(request, await conversations.about(who, topic))

    @router.patch("/conversations/{topic:path}/about", response_model=Conversation, responses=responses())
    async def change(topic: str, body: ConversationChange, who: Acting) -> Response:
        """Another name, or another history for new members. For owners and admins."""
        return reply(await conversations.change(who, topic, name=body.name, history=body.history))

    @router.get("/conversations/{topic:path}/members", response_model=MemberList, responses=responses())
    async def members(
        request: Request,
        topic: str,
        who: Acting,
        after: Annotated[str, Query(max_length=4096, description="`next` of the page before")] = "",
        limit: Limit = 100,
    ) -> Response:
        """Who is a member, by user key. For members."""
        return tagged(request, await conversations.listed(who, topic, after, limit))

    @router.put("/conversations/{topic:path}/members/{member:path}", response_model=MemberState, responses=responses())
    async def put_member(topic: str, member: Member, body: MemberChange, who: Acting) -> Response:
        """Add a member, invite one, or give one another role. For owners and admins."""
        return reply(await conversations.put(who, topic, member, body.role or "", invite=body.invite, existing=body.existing))

    @router.delete(
        "/conversations/{topic:path}/members/{member:path}", status_code=204, response_class=Response, responses=responses()
    )
    async def remove_member(topic: str, member: Member, who: Acting) -> Response:
        """Remove a member, who gets nothing more from this moment on; or leave, by my own user key."""
        await conversations.remove(who, topic, member)
        return Response(status_code=204)

    @router.post("/conversations/{topic:path}/join", response_model=Conversation, responses=responses())
    async def join(topic: str, who: Acting) -> Response:
        """Accept an invitation."""
        return reply(await conversations.join(who, topic))

    @router.put("/conversations/{topic:path}/mute", response_model=Conversation, responses=responses())
    async def mute(topic: str, body: Mute, who: Acting) -> Response:
        """Whether I want notifications."""
        return reply(await conversations.mute(who, topic, body.muted))

    @router.get("/me/values", response_model=ValueList, responses=responses())
    async def list_values(
        request: Request,
        who: Acting,
        after: Annotated[str, Query(max_length=MAX_KEY, description="`next` of the page before")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
    ) -> Response:
        """My drafts, settings and the like, by key."""
        return tagged(request, await values.listed(who, after, limit))

    @router.put("/me/values/{key:path}", response_model=ValueChange, responses=responses())
    async def set_value(key: str, body: NewValue, who: Acting) -> Response:
        """Set one, for all of my devices."""
        return reply(await values.set(who, key, body.value))

    return router
