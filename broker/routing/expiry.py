"""Retained messages that expired leave memory, the counts and storage [MQTT-3.3.2-5], at a place in the order of messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.pipeline import Step
from storage.records import DropRetained, Operation

if TYPE_CHECKING:
    from broker.clock import ServerTime, Wheel
    from broker.routing.retained import Retained

_EVERY = 1.0
"""Seconds between two looks, each of which costs next to nothing while none has expired."""

_AT_ONCE = 1000
"""Messages that one group forgets, at most."""


class RetainedExpiry:
    """Looks from time to time whether retained messages have expired."""

    def __init__(self, retained: Retained, time: ServerTime, clock: Wheel, submit: Callable[[Step], None]) -> None:
        self._retained = retained
        self._time = time
        self._clock = clock
        self._submit = submit
        self._again()

    def _again(self) -> None:
        self._clock.after(_EVERY, self.look)

    def look(self) -> None:
        """Forget what has expired, and look again once that is durable, at once where there is more."""
        if self._retained.due(self._time.now()):
            self._submit(ExpireStep(self, self._retained, self._time))
        else:
            self._again()


class ExpireStep(Step):
    """Forgets some of them."""

    def __init__(self, expiry: RetainedExpiry, retained: Retained, time: ServerTime) -> None:
        self._expiry = expiry
        self._retained = retained
        self._time = time

    def apply(self) -> list[Operation]:
        gone = self._retained.expire(self._time.now(), _AT_ONCE)
        stored = [(message.topic, message.id) for message in gone if message.id]  # what has no id is in no storage
        return [DropRetained(stored)] if stored else []

    def done(self) -> None:
        self._expiry.look()
