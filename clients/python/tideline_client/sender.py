"""What is in the outbox goes out over one connection: in order, each message once, and is taken out when the broker has it.

- A message that the broker could not take for a moment (its storage was away) goes out again a little later.
- One that it will never take stays, with the reason.
- Where the broker ends the connection because of what it was sent, it does not say which message that was. What was under way
  when a connection ended goes out one at a time over the next, and the one at which that ends, too, is never sent again.
- One thread does it all. The network's only leaves word: paho holds a lock while it tells of an answer, and takes it to send.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers
from paho.mqtt.reasoncodes import ReasonCode

from tideline_client.link import Link
from tideline_client.model import Outgoing
from tideline_client.store import Store

_WINDOW = 20
"""Messages under way at once: as many as paho sends without an answer."""
_LATER = (0x80, 0x97)
"""Reason codes of a publish that may be taken later: the broker failed, or its storage is away."""
_BLAME = (0x81, 0x82, 0x90, 0x95, 0x99)
"""Those of a DISCONNECT due to a packet of ours: malformed, protocol error, topic name, packet too large, payload format."""
_AGAIN = 5.0
"""Seconds until a message that was not taken now is sent again."""


class Sender:
    """``refused`` is told what will never be taken, on the thread of `run`."""

    def __init__(self, store: Store, refused: Callable[[Outgoing], object]) -> None:
        self._store = store
        self._told = refused
        self._word = threading.Event()
        self._answers: deque[tuple[int, ReasonCode, str | None]] = deque()
        self._largest = 0
        self._end: tuple[int, str] | None = None
        self._place = 0
        self._doubtful = 0
        """How many messages go out one at a time."""
        self._sending: dict[int, Outgoing] = {}
        """Messages that are on their way, by paho's number."""
        self._again: float | None = None

    # --- word from other threads ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is more to send."""
        self._word.set()

    def go(self, largest: int) -> None:
        """The connection is ready; the broker takes packets of ``largest`` bytes at most."""
        self._largest = largest
        self._word.set()

    def answered(self, mid: int, code: ReasonCode, words: str | None) -> None:
        """The broker has answered a publish."""
        self._answers.append((mid, code, words))
        self._word.set()

    def ended(self, code: int, words: str) -> None:
        """The connection has ended; with which reason code of the broker's DISCONNECT, 0 where it sent none."""
        self._end = (code, words)
        self._word.set()

    # --- the one that sends --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new connection is to be made."""
        self._doubtful = max(self._doubtful, len(self._sending))
        self._sending.clear()
        self._answers.clear()
        self._largest, self._end, self._place, self._again = 0, None, 0, None

    def run(self, link: Link) -> None:
        """Send over a connection until that ends."""
        while self._end is None:
            self._word.wait(None if self._again is None else max(0.0, self._again - time.monotonic()))
            self._word.clear()
            if self._again is not None and time.monotonic() >= self._again:
                self._again, self._place = None, 0
            self._settle()
            if self._largest:
                self._pump(link)
        self._settle()
        code, words = self._end
        if len(self._sending) == 1 and code in _BLAME:
            (message,) = self._sending.values()
            self._refuse(message, f"the broker ends the connection: {words}")
            self._sending.clear()
            self._doubtful = max(0, self._doubtful - 1)

    def _settle(self) -> None:
        """See to what the broker has answered."""
        while self._answers:
            mid, code, words = self._answers.popleft()
            message = self._sending.get(mid)
            if message is None:
                continue  # a request
            if not code.is_failure:
                self._store.sent(message.key)
            elif code.value not in _LATER:
                self._refuse(message, words or str(code))
            elif self._again is None:
                self._again = time.monotonic() + _AGAIN
            del self._sending[mid]
            self._doubtful = max(0, self._doubtful - 1)

    def _pump(self, link: Link) -> None:
        """Send what is there, as far as the window has room."""
        while (room := (1 if self._doubtful else _WINDOW) - len(self._sending)) > 0:
            found = self._store.unsent(self._place, room)
            if not found:
                return
            under_way = {message.key for message in self._sending.values()}
            for self._place, message in found:
                if message.key not in under_way:
                    self._publish(link, message)

    def _publish(self, link: Link, message: Outgoing) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        asked = [("tideline-receipt", ",".join(message.receipt))] if message.receipt else []
        properties.UserProperty = [("message-id", message.key), *asked]
        try:
            rest = 2 + len(message.topic.encode()) + 2 + len(properties.pack()) + len(message.payload)
            size = 1 + len(VariableByteIntegers.encode(rest)) + rest
            if size > self._largest:
                raise ValueError(f"the message makes a packet of {size} bytes: the broker takes {self._largest} at most")
            number = link.publish(message.topic, message.payload, properties)
        except ValueError as error:  # also of a topic, or a length, that MQTT does not have
            self._refuse(message, str(error))
        else:
            self._sending[number] = message

    def _refuse(self, message: Outgoing, reason: str) -> None:
        self._store.refused(message.key, reason)
        self._told(replace(message, reason=reason))
