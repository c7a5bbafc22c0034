"""`$typing/<topic>`: that somebody types, or what else is of the moment. It is told to who is there, and stored nowhere.

Who may publish to a topic, or subscribe to it, may do so with what is of the moment in it. One user has so many a second for
each topic: what is more is acknowledged and goes nowhere, as the next one says the same.
"""

from __future__ import annotations

import time
from typing import cast

from broker.hooks import Group, Refusal
from broker.limits import Buckets
from broker.packets import ReasonCode
from broker.publication import Publication
from broker.routing import NOBODY

TYPING = "$typing/"
_BURST = 5.0


def access(action: str, topic: str) -> str | bool:
    """What access is asked about: the topic itself. Nobody types in one that is not said in, such as `$delayed/…`."""
    real = topic.removeprefix(TYPING)
    return real if real and not real.startswith("$") else False


class Typing:
    """``rate`` a second, of one user and topic; ``size``: bytes of a payload."""

    def __init__(self, rate: float, size: int) -> None:
        self._buckets = Buckets(rate, _BURST)
        self._size = size
        self.dropped = 0

    def before_ack(self, group: Group) -> None:
        """Let nothing of it be kept, and hold back what is too much."""
        for append in group.below(TYPING):
            message = append.message
            if append.error is not None:
                continue
            append.store = append.retain = False
            append.recipients = ()
            if len(message.payload) > self._size:
                text = f"payload of {len(message.payload)} bytes: {TYPING}… has at most {self._size}"
                append.error = Refusal(text, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
            elif self._buckets.wait(f"{message.user}\n{message.topic}", time.monotonic(), 0.0):
                self.dropped += 1
                cast(Publication, append).matched = NOBODY
