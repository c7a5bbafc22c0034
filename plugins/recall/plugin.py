"""The plugin that recalls and edits: it looks at each message before it is stored, and has it done in that commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from broker.amqtt import Services, Undecided
from broker.config import parse_duration
from broker.hooks import Group, GroupPlugin, Refusal, Request
from broker.packets import ReasonCode
from plugins.edit_rows import MOST as MOST_VERSIONS
from plugins.edit_rows import edit_row, edits_of, taken_row
from plugins.http import add_router
from plugins.reaction_rows import Given
from plugins.recall.asked import asked, concerns, edited, reaction
from plugins.recall.erasure import CONVERSATION, USER
from plugins.recall.erasure_routes import erasure_router
from plugins.recall.erasures import Erasures
from plugins.recall.known import Known, all_versions, known_of
from plugins.recall.moderators import moderators_of
from plugins.recall.reacting import Reacting
from plugins.recall.records import erasers_of
from plugins.recall.recount import Recount
from plugins.recall.routes import make_router
from plugins.recall.service import Edit, Recalls
from plugins.recall.tidying import tidy
from plugins.sync_fields import Asked
from plugins.sync_requests import Kind, add_requests
from plugins.timelines import Unprocessable, Who
from plugins.timelines.messages import hex_id, payload_bytes
from storage.ending import end
from storage.errors import StorageError
from storage.records import Append, Message

log = logging.getLogger("tideline.recall")

_TIDY = 3600.0
"""Seconds."""


def _seconds(name: str, value: float | str) -> float:
    seconds = parse_duration(value)
    if not isinstance(seconds, int | float) or seconds < 0:
        raise ValueError(f'{name} must be a duration, such as 3600 or "2d"; 0 is for ever')
    return float(seconds)


class RecallPlugin(GroupPlugin):
    """Lets senders, and those who may, recall messages."""

    @dataclass
    class Config:
        """Settings under ``plugins: recall:``."""

        within: float | str = 0
        """For how long after a message its sender may recall it; 0 is for ever. Who may recall those of others always may."""

        edit_within: float | str = 0
        """The same for its edits. Nobody edits what others sent."""

        own_erasure: bool = False
        """Whether users may erase themselves; else only the operator erases."""

        def __post_init__(self) -> None:
            self.within = _seconds("within", self.within)
            self.edit_within = _seconds("edit_within", self.edit_within)

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._moderators = moderators_of(context)
        self.recalls = Recalls(cast(Services, self.context.server))
        self._tidying: asyncio.Task[None] | None = None
        self._recount = Recount(self.recalls.server)
        self.erasures = Erasures(self.recalls.server, erasers_of(context), own=self.config.own_erasure)
        add_router(context, make_router(self.recalls))
        add_router(context, erasure_router(self.erasures))
        kinds = {
            "recall": Kind(self._recall, ("message",)),
            "edit": Kind(self._edit, ("message", "payload", "encoding", "content_type")),
            "versions": Kind(self._versions, ("message",)),
            "react": Kind(self._react, ("message", "reaction", "back")),
            "reactions": Kind(self._reactions, ("message",)),
            "erase": Kind(self._erase, ("user", "conversation")),
            "erasure": Kind(self._erasure, ("user", "conversation")),
        }
        add_requests(context, kinds)

    async def on_broker_post_start(self) -> None:
        """Go on with erasures, where clients can connect."""
        if self.recalls.server.listening:
            self.erasures.start()
            self._tidying = asyncio.create_task(self._tidy(), name="tidying of edits")

    async def _tidy(self) -> None:
        server = self.recalls.server
        while True:
            await asyncio.sleep(_TIDY)
            try:
                if await server.may("edits"):
                    await tidy(server)
            except (StorageError, Undecided) as error:
                log.warning("edits of removed messages stay until the next time: %s", error)
            except Exception:
                log.exception("edits of removed messages stay")

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """End at the step under way."""
        await self.erasures.stop()
        await self._recount.stop()
        await end([self._tidying])

    async def _recall(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self.recalls.recall(who, asked.text("message"), request.device.client_id)

    async def _edit(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        encoding = asked.text("encoding", "text")
        if encoding not in ("text", "base64"):
            raise Unprocessable(f"encoding {encoding[:20]!r}: must be text or base64")
        payload = payload_bytes(asked.text("payload"), encoding)
        edit = Edit(payload, asked.text("content_type", "") or None, encoding == "text")
        return (await self.recalls.edit(who, asked.text("message"), edit, request.device.client_id))[0]

    async def _react(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        text, back = asked.text("reaction"), asked.flag("back")
        return await self.recalls.react(who, asked.text("message"), text, back=back, device=request.device.client_id)

    async def _reactions(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return {"reactions": await self.recalls.reactions(who, asked.text("message"))}

    async def _versions(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return {"versions": await self.recalls.versions(who, asked.text("message"))}

    async def _erase(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        named = {what: asked.text(what) if asked.has(what) else None for what in ("user", "conversation")}
        return {"erasure": await self.erasures.ask(who, **named)}

    async def _erasure(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        what = USER if asked.has("user") else CONVERSATION
        return {"erasure": await self.erasures.seen(who, what, asked.text(what))}

    def before_ack(self, group: Group) -> Awaitable[None] | None:
        """Refuse what may not be recalled, edited or reacted to; have the rest done in the messages' own commit."""
        concerned = [append for append in group.with_properties if append.error is None and concerns(append.message)]
        return self._look_at_all(concerned, group) if concerned else None

    async def _look_at_all(self, concerned: Sequence[Append], group: Group) -> None:
        reacting = Reacting(self.recalls.server.storage)
        for append in concerned:
            try:
                await self._look_at(append, group, reacting)
            except Refusal as refusal:
                append.error = refusal
        group.operations += reacting.operations()

    def after_ack(self, group: Group) -> None:
        """Another node may have counted at the same moment."""
        self._recount.look_at(group)

    async def _look_at(self, append: Append, group: Group, reacting: Reacting) -> None:
        storage, message = self.recalls.server.storage, append.message
        if ids := asked(message):
            known = await known_of(storage, group, ids)
            await self._check(append, ids, known)
            versions = await all_versions(storage, known, ids)
            append.recalls = list(versions)
            if others := versions.keys() - set(ids):  # the message does not name them
                group.operations.append(taken_row(append, sorted(others)))
            await self._forget_reactions(append, known, versions, reacting)
        elif one := edited(message):
            first = self._editable(append, one, (await known_of(storage, group, [one])).get(one))
            if len(await edits_of(storage, message.topic, first.seq)) >= MOST_VERSIONS:
                raise Refusal(f"message {hex_id(one)} was edited {MOST_VERSIONS} times, as often as it may")
            group.operations.append(edit_row(first.seq, append))
        elif given := reaction(message):
            found = self._first(append, given.message, (await known_of(storage, group, [given.message])).get(given.message))
            change = reacting.remove if given.back else reacting.add
            await change(append, found.seq, Given(message.user, given.text))

    async def _forget_reactions(
        self, by: Append, known: dict[int, Known], versions: dict[int, int], reacting: Reacting
    ) -> None:
        """Those to what is recalled, and those that are recalled."""
        await reacting.clear(by, filter(None, versions.values()))
        given = {one: known[one] for one in versions if one in known and known[one].reacts is not None}
        targets = {found.reacts.message for found in given.values() if found.reacts is not None and not found.reacts.back}
        firsts = await known_of(self.recalls.server.storage, Group([]), targets)
        topic = by.message.topic
        await reacting.read(topic, {first.seq for first in firsts.values() if first.topic == topic})
        for found in given.values():
            if found.reacts is not None and (first := firsts.get(found.reacts.message)) is not None and first.topic == topic:
                await reacting.remove(by, first.seq, Given(found.user, found.reacts.text))

    def _first(self, append: Append, one: int, found: Known | None) -> Known:
        """The message that others react to: a first version, with its content."""
        if found is None or found.topic != append.message.topic or not found.seq:
            text = f"message {hex_id(one)}: there is none in {append.message.topic[:80]!r}"
            raise Refusal(text, ReasonCode.NOT_AUTHORIZED)
        if found.recalled or found.recalls or found.reacts:
            what = "was recalled" if found.recalled else "recalls others" if found.recalls else "is a reaction"
            raise Refusal(f"message {hex_id(one)} {what}: nobody reacts to it")
        if found.edits:
            raise Refusal(f"message {hex_id(one)} is an edit of {hex_id(found.edits)}: react to that one")
        if not append.store:
            raise Refusal(f"topic {append.message.topic[:80]!r} is not stored: a reaction would be lost")
        return found

    def _editable(self, append: Append, one: int, found: Known | None) -> Known:
        """The message that is edited. Nobody but its sender may, and of it the first version is named."""
        message = append.message
        if found is None or found.topic != message.topic or found.user != message.user or not found.seq:
            raise Refusal(
                f"message {hex_id(one)}: there is none in {message.topic[:80]!r} that you may edit", ReasonCode.NOT_AUTHORIZED
            )
        within = float(self.config.edit_within)
        if within > 0 and self._age(found) > within:
            text = f"message {hex_id(one)} is older than {within:g} s: its sender may not edit it any more"
            raise Refusal(text, ReasonCode.NOT_AUTHORIZED)
        if found.recalled or found.recalls or found.reacts:
            what = "was recalled" if found.recalled else "recalls others" if found.recalls else "is a reaction"
            raise Refusal(f"message {hex_id(one)} {what}: it stays as it is")
        if found.edits:
            raise Refusal(f"message {hex_id(one)} is an edit of {hex_id(found.edits)}: edit that one")
        if not append.store:
            raise Refusal(f"topic {message.topic[:80]!r} is not stored: an edit of it would be lost")
        return found

    async def _check(self, append: Append, ids: Iterable[int], known: dict[int, Known]) -> None:
        message = append.message
        may: bool | None = None
        for one in ids:
            found = known.get(one)
            foreign = found is None or found.topic != message.topic or one == message.id
            late = found is None or found.user != message.user or self._too_late(found)
            if may is None and (foreign or late):
                may = await self._moderates(message.user, message.topic)
            if foreign or (late and not may):
                raise self._refusal(one, found if not foreign else None, message)
            if found is not None and found.recalls:
                raise Refusal(f"message {hex_id(one)} recalls others: it stays")

    def _age(self, found: Known) -> float:
        return (self.recalls.server.wall() - found.time) / 1000

    def _too_late(self, found: Known) -> bool:
        within = float(self.config.within)
        return within > 0 and self._age(found) > within

    def _refusal(self, one: int, found: Known | None, message: Message) -> Refusal:
        if found is not None and found.user == message.user:
            return Refusal(
                f"message {hex_id(one)} is older than {float(self.config.within):g} s: its sender may not recall it any more",
                ReasonCode.NOT_AUTHORIZED,
            )
        return Refusal(
            f"message {hex_id(one)}: there is none in {message.topic[:80]!r} that you may recall", ReasonCode.NOT_AUTHORIZED
        )

    async def _moderates(self, user: str, topic: str) -> bool:
        """The operator and the broker itself may, and whom a plugin names."""
        if user.startswith("b/"):
            return True
        for moderator in self._moderators:
            if await moderator(user, topic):
                return True
        return False
