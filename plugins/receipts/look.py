"""Looks how far the recipients of tracked messages are: users whose inboxes have one, and pages of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.amqtt import Services
from broker.ledger import Counts, Ledger, Standing, Standings, State, place
from plugins.receipts.tracker import Tracked, Tracker

_USERS = 2000
"""Users that one look asks memory about, on all nodes."""
_STORED = 200
"""Of these, those that it asks storage about."""
_PAGE = 500
"""Members of a channel that it counts."""


async def look(server: Services, tracker: Tracker) -> None:
    """Tell the tracker what is so now. The cost of one call is bounded, however much is tracked. Raises `StorageError`.

    A device of a user that was connected a moment ago is in memory still. What a longer gap makes a look miss, storage tells
    when the user's turn comes.
    """
    users = tracker.take_users(_USERS)
    if users:
        standings = server.standings()
        found = {user: list(one) for user, one in (await standings.live(users)).items()}
        for user, stored in (await standings.of_inboxes(users[:_STORED])).items():
            found[user] = [*found.get(user, ()), *stored]
        positions = await _positions(server, tracker, users)
        for user in users:
            for tracked in tracker.of(user):
                state = await _state(standings, tracked, user, found.get(user, ()))
                read = positions.get((user, tracked.message.topic), 0) >= tracked.message.seq
                tracker.reached(tracked, user, state, read=read)
    recounting = tracker.to_recount(server.wall())
    if recounting is not None:
        await _recount(server, tracker, recounting)


async def _positions(server: Services, tracker: Tracker, users: Sequence[str]) -> Mapping[tuple[str, str], int]:
    """How far users have read the conversations of messages that wait to be read."""
    topics: dict[str, dict[str, None]] = {}
    for user in users:
        for tracked in tracker.of(user):
            if "read" in tracked.goals:
                topics.setdefault(tracked.message.topic, {})[user] = None
    found: dict[tuple[str, str], int] = {}
    for topic, readers in topics.items():
        positions = await server.storage.read_positions(topic, list(readers))
        found |= {(user, topic): position for user, position in zip(readers, positions, strict=True)}
    return found


async def _state(standings: Standings, tracked: Tracked, user: str, devices: Sequence[Standing]) -> State:
    """Of the user's device that is furthest."""
    entry, message = tracked.entries[user], tracked.message
    best = State.STORED
    for standing in devices:
        is_ = place(standing, entry, message, now=standings.now())
        if is_.state > best and await standings.may_receive(standing, message.topic):
            best = is_.state
    return best


async def _recount(server: Services, tracker: Tracker, tracked: Tracked) -> None:
    message = tracked.message
    page = await Ledger(server.storage, server.standings(), times=False).page(message, tracked.after, _PAGE)
    others = [holder for holder in page.holders if holder.user != message.user]
    tracker.recounted(tracked, Counts.of(others), page.next, server.wall())
