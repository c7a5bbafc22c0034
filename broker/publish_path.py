"""The way of a published message, top to bottom.

A PUBLISH comes from its packet by `connection.handle_publish.received`, which asks the ACL; others publish by
`amqtt.server_api` and `sessions.wills`. All submit a `Publication` to the `Pipeline`, where it gathers with others into a
group. Of each group:

1. `number`: every message gets its id, its time and its recipients, at its place in the order.
2. `GroupPlugin.before_ack`: plugins see the group, and may refuse some of it (`Pipeline`).
3. `Storage.commit`: what is left becomes durable, tried again for as long as storage is away (`Pipeline`).
4. `decided`: what was refused, or stored before, is known: retained messages take their topics' places.
   Now the next group may be numbered, and handed to storage.
5. `committed`: the publishers are acknowledged, each socket with one write, and then the subscribers are given what the
   group has for them: `Delivery.deliver` wakes what serves them.
6. `GroupPlugin.after_ack` (`Pipeline`).

Nobody is acknowledged or delivered to before 3 (law 1); the order of groups is the order at every step (law 4).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from amqtt.events import BrokerEvents

from broker.connection import Inbound
from broker.counters import Counters
from broker.delivery import Delivery, Share
from broker.ids import Ids
from broker.publication import Outgoing, Publication
from broker.routing import Retained, Trie
from broker.sessions import Session
from storage.records import Message

if TYPE_CHECKING:
    from broker.access import SessionInfo
    from broker.connection import Connection

log = logging.getLogger(__name__)


class Events(Protocol):
    """What plugins are told of messages."""

    def listens(self, event: str) -> bool: ...

    def retained(self, message: Message) -> None: ...

    def message_broadcast(self, info: SessionInfo, message: Message, packet_id: int = 0) -> None: ...


class PublishPath:
    """What happens to the messages of a group around its commit."""

    def __init__(
        self,
        ids: Ids,
        trie: Trie[Session | Share],
        retained: Retained,
        delivery: Delivery,
        events: Events,
        counters: Counters,
    ) -> None:
        self._ids = ids
        self._trie = trie
        self._retained = retained
        self._delivery = delivery
        self._events = events
        self._counters = counters

    def number(self, publication: Publication) -> None:
        """1. Number a message and find its recipients, at its place in the order."""
        message = publication.message
        message.id, message.time = self._ids.take()
        if publication.retain:
            self._retained.expect(publication)
        publication.matched = match = self._trie.match(message.topic)
        publication.recipients = match.recipients

    def decided(self) -> None:
        """4. Which messages were refused is known: from here on a SUBSCRIBE finds those to be retained."""
        for message in self._retained.decide():
            self._events.retained(message)

    def committed(self, publications: list[Publication]) -> None:
        """5. The group is durable: acknowledge its publishers, then deliver."""
        self._acknowledge(publications)
        if self._events.listens(BrokerEvents.MESSAGE_BROADCAST):
            self._tell(publications)
        self._delivery.deliver(publications)

    def _acknowledge(self, publications: list[Publication]) -> None:
        acks: dict[Connection, list[bytes]] = {}
        stored = 0
        for publication in publications:
            origin = publication.origin
            if publication.store and publication.error is None and publication.original is None:
                stored += 1
            if origin is not None:
                try:
                    origin.stored(publication, acks)
                except Exception:  # one connection's fault must not cost the others their acks
                    log.exception("acknowledging a stored message failed")
        for connection, frames in acks.items():
            self._counters.control_sent += len(frames)
            try:
                connection.write_frames(frames)
            except Exception:
                log.exception("writing acknowledgements to %s failed", connection.name)
        self._counters.messages_stored += stored

    def _tell(self, publications: list[Publication]) -> None:
        for publication in publications:
            origin = publication.origin
            if publication.error is None and isinstance(origin, Inbound):
                self._events.message_broadcast(origin.connection.info, publication.message, origin.packet_id)

    def publish_transient(self, message: Outgoing) -> None:
        """Publish without storage, to who is connected now. At once, and not in the order of groups: what the broker says of
        itself must get out while a commit hangs."""
        if message.retain:
            self._retained.put(message)
        publication = Publication(message, store=False)
        publication.matched = self._trie.match(message.topic)
        self._delivery.deliver([publication])
