"""What writers without a lease tell each other, so that a publisher's messages do not overtake each other in an inbox.

Each says which messages it is about to store before it stores them, and looks at what the others have said once its own are
stored. What another one has stored of the same publisher, and may have crashed over, gets its inbox entries first: nothing is
acknowledged past an earlier unfinished message of its publisher.
"""

from __future__ import annotations

from functools import partial

from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw
from storage.mongo.fanout import fan_out, in_order
from storage.mongo.load import places
from storage.mongo.plan import Plan
from storage.mongo.state import State
from storage.records import Append

_ANNOUNCED = {"$gte": "writer ", "$lt": "writer!"}


def _publisher(document: Raw) -> str:
    return f"{document['user']}\0{document['device']}"


class Writers:
    """The writers of a database as one of them, ``token``, sees them."""

    def __init__(self, state: State, token: int) -> None:
        self._state = state
        self._id = f"writer {token:012d}"

    async def announce(self, plan: Plan) -> None:
        """Say what is about to be stored. It replaces the group before, which is finished."""
        messages = [op.message for op in plan.group if isinstance(op, Append) and op.message.id in plan.mids]
        fields = {
            "mids": sorted(plan.mids),
            "publishers": sorted({f"{message.user}\0{message.device}" for message in messages}),
            "heads": [[user, head] for user, head in plan.view.inboxes.items()],
        }
        with storage_errors():
            await self._state.collections.lease.update_one({"_id": self._id}, {"$set": fields}, upsert=True)

    async def finish_earlier(self, plan: Plan) -> None:
        """Give the inboxes what others have stored of this group's publishers before this group's own last message of them.

        Where there is such a message, this group's own get their entries here too, each at its place.
        """
        publishers = {f"{op.message.user}\0{op.message.device}" for op in plan.group if isinstance(op, Append)}
        with storage_errors():
            others = await self._state.collections.lease.find({"_id": {**_ANNOUNCED, "$ne": self._id}}).to_list(None)
        heads = dict(self._state.before_inboxes)
        found: list[Raw] = []
        for other in others:
            if publishers.isdisjoint(other["publishers"]):
                continue
            found += [document for document in await self._stored(other["mids"]) if _publisher(document) in publishers]
            for user, head in other["heads"]:
                heads[user] = min(head, heads.get(user, head))
        if found:
            messages = in_order([*found, *await self._stored(sorted(plan.mids))])
            await fan_out(self._state, _until_the_last(plan.mids, messages), partial(self._given, heads))

    async def _stored(self, mids: list[int]) -> list[Raw]:
        query, left_out = {"mid": {"$in": mids}}, {"payload": 0, "properties": 0}
        with storage_errors():
            return await self._state.collections.store.find(query, left_out).to_list(None)

    async def _given(self, heads: dict[str, int], user: str, mids: list[int]) -> set[int]:
        return set(await places(self._state, user, mids, heads.get(user, 0)))


def _until_the_last(own: set[int], messages: list[Raw]) -> list[Raw]:
    """The messages without those that come behind the last own one of their publisher."""
    kept: list[Raw] = []
    begun: set[str] = set()
    for document in reversed(messages):
        if document["mid"] in own:
            begun.add(_publisher(document))
        if _publisher(document) in begun:
            kept.append(document)
    return kept[::-1]


async def forget_announcements(state: State) -> None:
    """All that was announced is finished."""
    with storage_errors():
        await state.collections.lease.delete_many({"_id": _ANNOUNCED})
