"""The client: connections with a session that lasts, one after another (`line`), and a local copy behind them (`store`).

- What comes is kept locally before it is acknowledged, so that whatever happens to the app it comes once more, or is there.
- What is sent is kept locally before it goes out, under a key that the broker stores once: it is sent again until the broker
  says that it has it, in order, also by the next start of the app (`sender`).
- Callbacks run one at a time, on the network's thread or that of the outbox. They may call everything but what waits for an
  answer (`Client.request`).
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tideline_client.errors import NoAnswer, RequestFailed
from tideline_client.line import Line, Told
from tideline_client.link import Settings
from tideline_client.model import Message, Outgoing, Receipt
from tideline_client.requests import Requests
from tideline_client.sender import Sender
from tideline_client.store import Store
from tideline_client.topics import check_filter, check_topic

log = logging.getLogger(__name__)

_SOONEST, _LATEST = 1.0, 30.0
"""Seconds until a connection is tried again: twice as long each time, up to the latter."""
_PAGE = 500
"""Messages of a history that the broker gives at once, at most."""


class Client:
    """One device of a user. ``store`` is the file of the local copy: it belongs to this device of this user at this broker.

    ``start`` says where a device that never connected begins: ``latest``, or ``earliest`` for all that its user's inbox has.
    Set the callbacks before `start`.
    """

    def __init__(
        self,
        host: str,
        port: int = 1883,
        *,
        device: str,
        store: str | Path,
        user: str | None = None,
        password: str | None = None,
        start: str = "latest",
        tls: bool = False,
    ) -> None:
        if start not in ("latest", "earliest"):
            raise ValueError(f"start {start!r}: must be latest or earliest")
        self.on_message: Callable[[Message], object] = lambda message: None
        """A message that was not here before."""
        self.on_receipt: Callable[[Receipt], object] = lambda receipt: None
        """How far a message of one's own is, where `send` asked for it."""
        self.on_read: Callable[[str, int], object] = lambda topic, position: None
        """Another device of the user has read a conversation up to a message."""
        self.on_refused: Callable[[Outgoing], object] = lambda message: None
        """The broker will never take a message. It stays in `outbox` until `discard`."""
        self.on_connected: Callable[[bool], object] = lambda connected: None
        self.store = Store(store)
        self._settings = Settings(host, port, device, user, password, tls)
        self._start_at = start
        self._filters: dict[str, int] = {}
        self._lock = threading.Lock()
        self._calling = threading.RLock()
        self._requests = Requests(self._ask)
        self._sender = Sender(self.store, lambda message: self._call(self.on_refused, message))
        self._told = Told(
            self._went_on,
            self._lost,
            lambda message: self._call(self.on_message, message),
            lambda receipt: self._call(self.on_receipt, receipt),
            lambda topic, position: self._call(self.on_read, topic, position),
        )
        self._line = self._make()
        """The connection, the last one, or the first one."""
        self._ready = threading.Event()
        """Messages come and go."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tideline {device}", daemon=True)

    def _make(self) -> Line:
        return Line(self._settings, self._start_at, self._wanted, self.store, self._requests, self._sender, self._told)

    # --- the connection ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect in the background, now and whenever the connection is lost. It may be offline for as long as it takes."""
        host, port = self._settings.host, self._settings.port
        if not host or not 0 < port < 65536:
            raise ValueError(f"address {host!r} port {port}: must be a host, and a port from 1 to 65535")
        self._thread.start()

    def stop(self) -> None:
        """Disconnect. What is in the outbox goes out at the next start."""
        self._stopping.set()
        self._line.link.leave()
        if self._thread.is_alive():
            if threading.get_ident() in (self._line.link.thread, self._thread.ident):
                return  # in a callback: the connection ends, and the store is closed, once that is over
            self._thread.join()
        self.store.close()

    def _run(self) -> None:
        pause = _SOONEST
        while not self._stopping.is_set():
            self._sender.begin()
            self._line = line = self._make()
            try:
                line.open()
            except OSError as error:
                log.info("no connection to %s port %d: %s", self._settings.host, self._settings.port, error)
            else:
                if self._stopping.is_set():  # it may not have seen this connection
                    line.link.leave()
                line.run()
                if line.link.admitted:
                    pause = _SOONEST
            self._stopping.wait(pause)
            pause = min(2 * pause, _LATEST)
        self.store.close()

    def _wanted(self) -> list[tuple[str, int]]:
        with self._lock:
            return list(self._filters.items())

    def _went_on(self) -> None:
        self._ready.set()
        self._call(self.on_connected, True)

    def _lost(self) -> None:
        was = self._ready.is_set()
        self._ready.clear()
        if was:
            self._call(self.on_connected, False)

    def wait_connected(self, timeout: float = 10.0) -> bool:
        """Wait until messages come in and go out."""
        return self._ready.wait(timeout)

    def subscribe(self, filter: str, qos: int = 1) -> None:
        """Get the messages of topics; the session keeps it. To be called at each start of the app, connected or not. Raises
        `ValueError` where it is no filter."""
        check_filter(filter)
        with self._lock:
            self._filters[filter] = qos
        if self._line.link.connected:
            self._line.link.subscribe([(filter, qos)])

    def unsubscribe(self, filter: str) -> None:
        """Get them no longer. Only while connected: the session would go on. Raises `NoAnswer`."""
        self._need_connection(f"unsubscribe {filter}")
        with self._lock:
            self._filters.pop(filter, None)
        self._line.link.unsubscribe(filter)

    # --- messages out --------------------------------------------------------------------------------------------------

    def send(self, topic: str, payload: str | bytes, *, receipt: Sequence[str] = ()) -> str:
        """Send a message, now or as soon as there is a connection; its key, which receipts name. Raises
        `ValueError` where the topic is none, `TypeError` where the payload is neither text nor bytes.

        ``receipt``: of which states one wants to hear, ``delivered``, ``acknowledged``, ``read``.
        """
        check_topic(topic)
        data = payload.encode() if isinstance(payload, str) else payload
        if not isinstance(data, bytes | bytearray):
            raise TypeError(f"payload: a {type(data).__name__} must be str or bytes, such as json.dumps(…)")
        message = Outgoing(uuid.uuid4().hex, topic, data, tuple(receipt))
        self.store.put(message)
        self._sender.wake()
        return message.key

    def outbox(self) -> list[Outgoing]:
        """What the broker does not have, in order; what it has refused says why."""
        return self.store.waiting()

    def discard(self, key: str) -> None:
        """Take a message out of the outbox: one that was refused, or is not to be sent any more."""
        self.store.sent(key)

    # --- conversations ---------------------------------------------------------------------------------------------------

    def history(self, topic: str, limit: int = 50, before: int = 0) -> list[Message]:
        """The newest messages of a conversation (with a lower sequence than ``before``), the oldest first: those that are here,
        after those that are missing were fetched, where there is a connection. Where the broker says that there is no such
        conversation, or that one may not read it, those that are here: none, of one in which nobody has said anything. Raises
        `ValueError`, and `RequestFailed` where the broker refuses for another reason."""
        check_topic(topic)
        for name, value in (("limit", limit), ("before", before)):
            if value < 0:
                raise ValueError(f"{name} {value}: must be a whole number from 0 on")
        if self._ready.is_set():
            try:
                self._fetch(topic, limit, before)
            except NoAnswer as error:
                log.info("history of %s is what is here: %s", topic, error)
            except RequestFailed as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
        return self.store.history(topic, limit, before)

    def _fetch(self, topic: str, limit: int, before: int) -> None:
        fields: dict[str, Any] = {"op": "history", "topic": topic, "order": "newest", "before": before}
        while limit > 0:
            page = self.request({**fields, "limit": min(limit, _PAGE)})
            for found in page["messages"]:
                self.store.take(Message.of_json(found))
            if page["next"] is None:
                return
            limit -= len(page["messages"])  # a page may be shorter than was asked for: it has at most 1 MiB
            fields["cursor"] = page["next"]

    def topics(self) -> list[str]:
        """The conversations that have messages here."""
        return self.store.topics()

    def unread(self, topic: str) -> int:
        """How many messages of a conversation that are here are not read."""
        return self.store.unread(topic)

    def mark_read(self, topic: str, seq: int) -> None:
        """The user has read up to a message. The user's other devices, and who asked for receipts, hear of it."""
        self.store.read(topic, seq, told=False)
        if self._ready.is_set():
            self._line.tell_read(topic, seq)

    def receipts(self, message_id: str) -> dict[str, int]:
        """How many users have a message, were given it, have acknowledged and read it: for who was away when it was told.

        ``message_id``: a `Message.id`, or the ``message`` of a `Receipt`; not the key that `send` gave."""
        counts: dict[str, int] = {}
        after: str | None = ""
        while after is not None:
            page = self.request({"op": "counts", "message": message_id, "after": after})
            for state, count in page["counts"]["users"].items():
                counts[state] = counts.get(state, 0) + count
            after = page["next"]
        return counts

    def request(self, fields: dict[str, Any], timeout: float = 10.0) -> dict[str, Any]:
        """Ask the broker, ``op`` being what (docs/sync.md of Tideline). Raises `RequestFailed` and `NoAnswer`."""
        self._need_connection(fields["op"])
        return self._requests.ask(fields, timeout)

    def _need_connection(self, what: str) -> None:
        if not self._ready.is_set():
            raise NoAnswer(f"{what}: not connected")

    def _ask(self, payload: bytes) -> None:
        self._line.ask(payload)

    def _call(self, callback: Callable[..., object], *values: object) -> None:
        """One at a time. What an app's callback raises is logged, and stops nothing."""
        with self._calling:
            try:
                callback(*values)
            except Exception:
                log.exception("a callback failed")
