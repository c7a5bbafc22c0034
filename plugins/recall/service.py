"""Recalling for callers of the HTTP API and of `$sync/request`: a message is published that does it."""

from __future__ import annotations

from typing import Any

from broker.amqtt import Services, Undecided
from plugins.recall.asked import RECALLS
from plugins.timelines import OPERATOR, Problem, Timelines, Who
from plugins.timelines.errors import Away
from plugins.timelines.messages import hex_id
from plugins.timelines.publishing import Draft

_TIMEOUT = 10.0


class Recalls:
    """``timeout``: seconds that storage is waited for."""

    def __init__(self, server: Services, timeout: float = _TIMEOUT) -> None:
        self.server = server
        self._timelines = Timelines(server, timeout)

    async def recall(self, who: Who, message_id: str, device: str = "") -> dict[str, Any]:
        """Recall a message that the caller may read: where the message that recalls it stands. What was recalled before is not
        recalled again. Raises a `plugins.timelines.Problem`."""
        message = await self._timelines.message(who, message_id)
        if message.recalled:
            return {"recalled": message_id, "again": True}
        draft = Draft(message.topic, b"", properties=((RECALLS, hex_id(message.id)),), device=device)
        if who.operator:  # who may recall what others sent is one of the broker's own
            who = Who(OPERATOR, None, operator=True)
        (found,) = await self._timelines.publisher.publish_all(who, [draft])
        if isinstance(found, Problem):
            raise found
        if isinstance(found, Undecided):
            raise Away("storage does not answer; the message may still be recalled", retry_after=5) from found
        shown = found.shown
        return {"recalled": message_id, "again": False, "by": shown["id"], "seq": shown["seq"], "time": shown["time"]}
