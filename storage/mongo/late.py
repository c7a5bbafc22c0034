"""Finishing messages that came late: see `storage.mongo.watches`.

MongoDB has no insert that depends on another document, so a lease cannot keep out what was sent under it and then held up: by
the network, or because the process was frozen. Nobody was acknowledged for it, nor will be, as a node asks for its lease before
it goes on. Where the topic has moved on the key is taken, and nothing is stored; else it stands behind the topic's last message
and is in no inbox. The holder hides it from its readers, and gives it to its recipients: as soon as it meets one, and when it
looks for them, which it does for a day.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from storage.errors import FencedOut, StorageUnavailable
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw
from storage.mongo.fanout import fan_out, in_order
from storage.mongo.load import places
from storage.mongo.recovery import apply_state
from storage.mongo.state import State
from storage.records import DeviceKey

log = logging.getLogger(__name__)

LONGEST_PAUSE = 3600.0
WATCHED = 24 * 3600.0
"""Seconds for which a holder looks for what its predecessors sent."""


async def finish_late(state: State) -> set[str]:
    """Give late messages to those of their recipients that lack them; the users whose inboxes that changed.

    No group may be under way, unless it has written nothing but messages to the store.
    """
    late = state.late
    late.met = False
    found: dict[int, Raw] = {}
    for watch in late.all:
        ids = {"$gt": watch.after, "$lte": watch.until} if watch.until else {"$gt": watch.after}
        query, left_out = {"mid": ids, "v": {"$lt": watch.base}}, {"payload": 0, "properties": 0}
        with storage_errors():
            documents = await state.collections.store.find(query, left_out).to_list(None)
        found.update({document["mid"]: document for document in documents if late.is_late(document)})
    if not found:
        return set()
    pending = in_order(found.values())
    added = await fan_out(state, pending, partial(_given, state))
    await apply_state(state, pending)
    log.warning("a node that served before has stored %d messages late: %d inbox entries were missing", len(pending), added)
    users = {user for document in pending for user in document.get("recipients", ())}
    for document in pending:
        late.finished(document)
    state.topics.forget(document["topic"] for document in pending)
    state.inboxes.forget(users)
    state.devices.forget(DeviceKey(*document["received"][:2]) for document in pending if "received" in document)
    return users


async def _given(state: State, user: str, mids: list[int]) -> set[int]:
    return set(await places(state, user, mids))


async def keep_looking(state: State, first_pause: float, look: Callable[[], Awaitable[None]]) -> None:
    """``look`` again and again, in pauses that double, and at once where a late message was met."""
    pause, watched = first_pause, 0.0
    while state.late.all:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await state.late.wake.wait()
        state.late.wake.clear()
        try:
            await look()
        except StorageUnavailable as error:
            log.info("could not look for late messages: %s", error)
            continue
        except FencedOut:
            return
        state.late.looked(state.last_id)
        watched += pause
        pause = min(2 * pause, LONGEST_PAUSE)
        if watched >= WATCHED:
            state.late.clear()
