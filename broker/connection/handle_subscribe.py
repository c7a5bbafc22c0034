"""SUBSCRIBE and UNSUBSCRIBE, each at its place in the order of messages.

- SUBACK has one code per filter, in order [MQTT-3.8.4-5, 3.9.3-1], and follows durability.
- A filter that the session has is replaced and keeps its ``since`` [MQTT-3.8.4-3]; a new one starts here.
- Retained messages go to new subscriptions as Retain Handling says [MQTT-3.3.1-9 to 11]; a durable session gets them
  through its inbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amqtt.contexts import Action

from broker.access.authority import OWN
from broker.packets.codes import ReasonCode, TopicFilterInvalid
from broker.packets.model import SubAck, UnsubAck
from broker.packets.model import Subscribe as SubscribePacket
from broker.packets.model import Unsubscribe as UnsubscribePacket
from broker.packets.properties import Property
from broker.packets.topics import parse_share
from broker.pipeline import Step
from broker.sessions.session import NOT_YET
from storage import records
from storage.records import InboxEntry, Message, Operation, Subscription

if TYPE_CHECKING:
    from broker.connection.connection import Connection
    from broker.sessions.session import Session


def subscribe(connection: Connection, packet: SubscribePacket) -> None:
    """Ask the ACL for each filter, then take the granted ones into the order of groups."""
    authority = connection.server.authority
    if authority.open:
        _submit(connection, packet, [_limits(connection, f) for f, _ in packet.subscriptions])
        return
    connection.run(_ask(connection, packet))


async def _ask(connection: Connection, packet: SubscribePacket) -> None:
    refusals: list[int] = []
    for filter_, _ in packet.subscriptions:
        refusal = _limits(connection, filter_)
        if not refusal:
            share = parse_share(filter_)
            inner = share[1] if share else filter_
            if not await connection.server.authority.allowed(connection.info, Action.SUBSCRIBE, inner):
                refusal = ReasonCode.NOT_AUTHORIZED
        refusals.append(refusal)
    if not connection.closed:
        _submit(connection, packet, refusals)
        connection.go_on()


def _limits(connection: Connection, filter_: str) -> int:
    """0, or why this filter cannot be granted to anybody here."""
    settings = connection.server.settings.mqtt
    session = connection.session
    assert session is not None
    if filter_.count("/") >= settings.max_topic_levels:
        return ReasonCode.TOPIC_FILTER_INVALID
    try:
        parse_share(filter_)
    except TopicFilterInvalid as violation:  # to 3.1.1 a valid filter, so the decoder let it pass
        return violation.code
    if OWN in filter_ and not _own(session.key.client_id, filter_):
        return ReasonCode.NOT_AUTHORIZED
    return 0


def _own(client_id: str, filter_: str) -> bool:
    """Whether a filter is not below `$sync/`, or names one of the topics there that are this device's own (docs/sync.md)."""
    share = parse_share(filter_)
    if not (share[1] if share else filter_).startswith(OWN):
        return True
    return filter_ in (f"{OWN}reply/{client_id}", f"{OWN}events/{client_id}")


def _submit(connection: Connection, packet: SubscribePacket, refusals: list[int]) -> None:
    for (filter_, _), refusal in zip(packet.subscriptions, refusals, strict=True):
        if refusal:
            why = "" if refusal == ReasonCode.NOT_AUTHORIZED else ReasonCode(refusal).name.lower().replace("_", " ")
            connection.server.authority.log_refusal(connection.info, Action.SUBSCRIBE, filter_, why)
    reasons = [refusal or options & 3 for (_, options), refusal in zip(packet.subscriptions, refusals, strict=True)]
    if connection.version < 5:
        reasons = [reason if reason < 0x80 else 0x80 for reason in reasons]
    identifier = packet.properties.get(Property.SUBSCRIPTION_IDENTIFIER, 0)
    granted = {
        filter_: Subscription(filter_, options, identifier)
        for (filter_, options), refusal in zip(packet.subscriptions, refusals, strict=True)
        if not refusal
    }
    filters = [filter_ for filter_, _ in packet.subscriptions]
    connection.server.pipeline.submit(SubscribeStep(connection, packet.packet_id, filters, reasons, granted))


class SubscribeStep(Step):
    """The granted filters of one SUBSCRIBE."""

    __slots__ = ("_connection", "_filters", "_granted", "_operation", "_packet_id", "_reasons", "_retained")

    def __init__(
        self,
        connection: Connection,
        packet_id: int,
        filters: list[str],
        reasons: list[int],
        granted: dict[str, Subscription],
    ) -> None:
        self._connection = connection
        self._packet_id = packet_id
        self._filters = filters
        self._reasons = reasons
        self._granted = granted
        self._retained: list[Message] = []
        self._operation: records.Subscribe | None = None

    def ready(self) -> bool:
        """What is retained for the filters is decided."""
        undecided = self._connection.server.retained.undecided
        return not any(undecided(filter_) for filter_ in self._granted)

    def apply(self) -> list[Operation]:
        """From this place on the filters match; look up the retained messages as of this place."""
        connection = self._connection
        session, server = connection.session, connection.server
        if connection.closed or session is None:
            return []
        self._keep_quota(session, server.settings.mqtt.max_subscriptions)
        if not self._granted:
            return []
        retained: dict[str, Message] = {}
        groups: list[Operation] = []
        for filter_, subscription in self._granted.items():
            if parse_share(filter_) is not None:  # no retained messages: 4.8.2
                session.subscriptions[filter_] = subscription
                session.shares.add(filter_)
                groups += server.shares.join(session, subscription)
                continue
            known = session.subscriptions.get(filter_)
            if known is not None:
                subscription.since = known.since
            else:
                subscription.since = NOT_YET if session.durable else server.ids.last
            handling = subscription.options >> 4
            if handling == 0 or (handling == 1 and known is None):
                for message in server.retained.match(filter_, server.time.now()):
                    retained[message.topic] = message
            session.subscriptions[filter_] = subscription
            server.trie.add(filter_, session, subscription)
        messages = sorted(retained.values(), key=lambda m: m.id)
        if not session.durable:
            self._retained = messages
            return groups
        self._retained = [m for m in messages if not server.stored_retained(m)]
        start = session.cursor if connection.feed is not None and connection.feed.awaits_filter else -1
        copies = [
            Subscription(s.filter, s.options, s.identifier, start if s.since == NOT_YET else s.since)
            for s in self._granted.values()
        ]
        stored = [m for m in messages if server.stored_retained(m)]
        self._operation = records.Subscribe(session.key, session.epoch, copies, stored)
        joined = [records.Join([(session.key.user, m.topic) for m in stored])] if stored else []
        return [*groups, self._operation, *joined]

    def _keep_quota(self, session: Session, most: int) -> None:
        """Refuse the new filters that a session may not have any more, however many came in one packet or at once."""
        new = [filter_ for filter_ in self._granted if filter_ not in session.subscriptions]
        beyond = set(new[max(0, most - len(session.subscriptions)) :])
        if beyond:
            code = ReasonCode.QUOTA_EXCEEDED if self._connection.version >= 5 else 0x80
            pairs = zip(self._filters, self._reasons, strict=True)
            self._reasons = [code if filter_ in beyond else reason for filter_, reason in pairs]
            self._granted = {filter_: s for filter_, s in self._granted.items() if filter_ not in beyond}

    def done(self) -> None:
        """Say what was granted, and begin to deliver."""
        connection = self._connection
        session, operation = connection.session, self._operation
        if session is None:
            return
        if operation is not None:  # also where the connection is gone: the session has the filter
            for copy in operation.subscriptions:
                session.placed(copy.filter, copy.since)
        if connection.closed:
            return
        connection.send(SubAck(self._packet_id, list(self._reasons)))
        if self._granted:
            connection.server.subscribed(connection, self._granted)
        feed = connection.feed
        if feed is None:
            return
        feed.awaits_filter = False
        if self._retained:
            feed.retained(self._retained)
        if operation is not None and operation.retained:
            key = operation.device
            entries = [
                InboxEntry(seq, message, key.client_id)
                for message, seq in zip(operation.retained, operation.retained_seqs, strict=True)
            ]
            connection.server.delivery.wake_inbox(key.user, entries)
        feed.pump()


def unsubscribe(connection: Connection, packet: UnsubscribePacket) -> None:
    """Take the filters out at their place in the order of groups."""
    connection.server.pipeline.submit(UnsubscribeStep(connection, packet.packet_id, packet.filters))


class UnsubscribeStep(Step):
    """The filters of one UNSUBSCRIBE."""

    __slots__ = ("_connection", "_filters", "_packet_id", "_reasons")

    def __init__(self, connection: Connection, packet_id: int, filters: list[str]) -> None:
        self._connection = connection
        self._packet_id = packet_id
        self._filters = filters
        self._reasons: list[int] = []

    def apply(self) -> list[Operation]:
        """From this place on the filters match no more."""
        session, server = self._connection.session, self._connection.server
        if self._connection.closed or session is None:
            return []
        gone = []
        groups: list[Operation] = []
        for filter_ in self._filters:
            known = session.subscriptions.pop(filter_, None)
            if known is not None:
                gone.append(filter_)
                if filter_ in session.shares:
                    session.shares.discard(filter_)
                    groups += server.shares.leave(session, filter_, unsubscribed=True)
                else:
                    server.trie.remove(filter_, session)
            self._reasons.append(ReasonCode.NO_SUBSCRIPTION_EXISTED if known is None else ReasonCode.SUCCESS)
        if gone and session.durable:
            groups.append(records.Unsubscribe(session.key, session.epoch, gone))
        return groups

    def done(self) -> None:
        """Say which of them there were."""
        connection = self._connection
        if not connection.closed:
            connection.send(UnsubAck(self._packet_id, self._reasons))
            connection.server.unsubscribed(connection, self._filters)
