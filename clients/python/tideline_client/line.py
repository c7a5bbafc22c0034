"""One connection of a device, from CONNECT to its end: it subscribes, goes back to where the local copy is, and then
messages come and go.

It does not matter where the broker believes the device to be: each connection begins by going back to the offset of the local
copy. What is not here comes, and what comes twice is known by its id. Until then an offset is kept only of what follows the
last one directly: what else comes may lie behind a gap.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tideline_client.link import Hooks, Link, Settings
from tideline_client.model import Message, Receipt
from tideline_client.requests import TOPIC, Requests
from tideline_client.sender import Sender
from tideline_client.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What is told, to the app in the end; nothing of it raises."""

    ready: Callable[[], None]
    """Messages come and go."""
    lost: Callable[[], None]
    """The connection has ended."""
    message: Callable[[Message], None]
    receipt: Callable[[Receipt], None]
    read: Callable[[str, int], None]


class Line:
    """``start`` is where a local copy begins in which there is nothing yet; ``filters`` gives what the app subscribes to, each
    with its QoS. Questions go out by `ask`."""

    def __init__(
        self,
        settings: Settings,
        start: str,
        filters: Callable[[], list[tuple[str, int]]],
        store: Store,
        requests: Requests,
        sender: Sender,
        told: Told,
    ) -> None:
        self._device = settings.device
        self._start = start
        self._filters = filters
        self._store = store
        self._requests = requests
        self._sender = sender
        self._told = told
        self._present = False
        """The broker had a session of this device."""
        self._settled = False
        """The broker has gone back to the store's offset."""
        self._last: int | None = 0
        """The number of the SUBSCRIBE behind which messages come and go."""
        self.link = Link(settings, Hooks(self._let_in, self._subscribed, sender.answered, self._arrived, self._ended))

    def open(self) -> None:
        """Connect. Raises `OSError` where nothing answers at the address."""
        self.link.open()

    def run(self) -> None:
        """Send what is in the outbox until the connection has ended."""
        try:
            self._sender.run(self.link)
        except Exception:
            log.exception("what became of a message could not be kept: it is sent again")
            self.link.end()
        self.link.wait()

    def ask(self, payload: bytes) -> None:
        """Send a question to the broker."""
        self.link.publish(TOPIC, payload)

    def tell_read(self, topic: str, position: int) -> None:
        """Tell the broker how far the user has read. Where it does not hear of it, it does by the next connection."""

        def told(answer: dict[str, Any]) -> None:
            if "error" not in answer:
                self._store.read(topic, position, told=True)

        self._requests.send({"op": "read", "topic": topic, "position": position}, told)

    # --- its beginning and its end -------------------------------------------------------------------------------------

    def _let_in(self, present: bool) -> None:
        self._present = present
        own = [(f"$sync/{kind}/{self._device}", 1) for kind in ("reply", "events", "receipts")]
        self._last = self.link.subscribe(own + self._filters())

    def _subscribed(self, mid: int) -> None:
        if mid == self._last:
            self._go_back()

    def _go_back(self) -> None:
        """Have the broker go on from what is here, unless that is of another copy of the data."""
        offset, epoch = self._store.offset, self._store.data_epoch
        fields: dict[str, Any] = {"op": "sync", "after": offset, "limit": 1, **({"data_epoch": epoch} if epoch else {})}
        self._requests.send(fields, lambda answer: self._compared(answer, offset, epoch))

    def _compared(self, answer: dict[str, Any], offset: int, epoch: str) -> None:
        error = answer.get("error")
        if error is not None and error["name"] == "resync" and (offset or epoch):
            self._store.forget("")
            self._go_back()
        elif error is not None:
            self._give_up(f"cannot go on from offset {offset}: {error['detail']}")
        elif epoch or offset or self._start == "earliest":
            self._go_to(offset, answer["data_epoch"])
        elif self._present:  # the first time that this copy is there, but not the first time of the device
            self._requests.send({"op": "device"}, lambda device: self._go_to(device.get("offset"), answer["data_epoch"]))
        else:
            self._go_to(answer["head"], answer["data_epoch"])

    def _go_to(self, offset: int | None, data_epoch: str) -> None:
        if offset is None:
            self._give_up("the broker does not say where the device is")
            return
        self._store.begin(offset, data_epoch)
        self._requests.send({"op": "set-offset", "offset": offset}, self._went)

    def _went(self, answer: dict[str, Any]) -> None:
        if (error := answer.get("error")) is not None:
            self._give_up(f"cannot go back: {error['detail']}")
            return
        self._settled = True
        self._told.ready()
        for topic, position in self._store.untold():
            self.tell_read(topic, position)
        self._sender.go(self.link.largest)

    def _give_up(self, why: str) -> None:
        """End the connection; the next one begins anew."""
        log.warning("the connection is given up, and tried again: %s", why)
        self.link.end()

    def _ended(self, code: int, words: str) -> None:
        self._requests.lost()
        self._sender.ended(code, words)
        self._told.lost()

    # --- messages in ---------------------------------------------------------------------------------------------------

    def _arrived(self, topic: str, payload: bytes, about: dict[str, str]) -> bool:
        try:
            if topic.startswith("$sync/"):
                self._said(topic.split("/")[1], payload)
            else:
                self._take(topic, payload, about)
        except Exception:
            log.exception("a message of %s could not be kept: it comes again with the next connection", topic)
            self._settled = False  # what follows lies behind it
            return False
        return True

    def _said(self, kind: str, payload: bytes) -> None:
        if kind == "reply":
            self._requests.answered(payload)
            return
        event = json.loads(payload)
        if kind == "receipts":
            self._told.receipt(Receipt.of_json(event))
        elif event["event"] == "read":
            self._store.read(event["topic"], event["position"], told=True)
            self._told.read(event["topic"], event["position"])

    def _take(self, topic: str, payload: bytes, about: dict[str, str]) -> None:
        if "tideline-id" not in about:
            log.debug("a message of %s came without its id, and is not kept", topic)
            return
        sender, seq, time = about["tideline-sender"], int(about["tideline-seq"]), int(about["tideline-time"])
        message = Message(about["tideline-id"], topic, seq, sender, time, payload)
        at = int(about.get("tideline-inbox-seq", 0))
        known = self._settled or at == self._store.offset + 1  # nothing lies between
        if self._store.take(message, at if known else 0):
            self._told.message(message)
