"""The one way in which filters enter a session and leave it.

SUBSCRIBE and UNSUBSCRIBE, the plugin API, HTTP, requests over MQTT, and what storage gives back at start all come here.

- Each filter is judged by itself: a valid one, not too deep, below `$sync/` only the device's own topics, then the ACL,
  which is asked for the filter inside a `$share/…`. The others are not held up by one that is refused.
- What is granted takes its place in the order of messages as one step, up to ``max_subscriptions``; the answer has a code
  per filter, in order [MQTT-3.8.4-5, 3.9.3-1], and follows durability, as do the plugins' events.
- A filter that the session has is replaced and keeps its ``since`` [MQTT-3.8.4-3]. A new one starts at its place, and the
  first ones of a device that starts before the head of its inbox (`session.awaits_filter`) at its cursor.
- Retained messages are those that are decided at that place: behind a message that may yet be refused, the step waits for
  the next group. Where memory has not all of them, storage is read before the place is taken (`retained`), and plugins are
  asked that hide some of them (`broker.retained.hidden`). New filters get them as Retain Handling says [MQTT-3.3.1-9 to 11],
  shared ones get none (4.8.2). A durable session gets them through its inbox, connected or not.

Over 300 lines: the one way to subscribe is told in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from amqtt.contexts import Action

from broker.access import DELAYED, OWN
from broker.packets import SHARE, ProtocolViolation, ReasonCode, parse_share, shown, validate_filter
from broker.pipeline import OVERHEAD, Step
from broker.retained import Hiding, hidden_of
from broker.sessions import NOT_YET, member_of
from storage import records
from storage.records import DeviceKey, InboxEntry, Message, Operation, Subscription

if TYPE_CHECKING:
    from broker.access import Openness, SessionInfo
    from broker.clock import ServerTime
    from broker.config import Mqtt
    from broker.counters import Counters
    from broker.retained import Reading, Retained
    from broker.sessions import Session

_NEW_ONLY, _NEVER = 1, 2
"""Retain Handling."""
_FILTER = 256
"""Bytes that a filter of a request is counted as besides its name, while it waits."""

Answer = Callable[[list[int]], None]
Present = Callable[[], bool]


class Access(Protocol):
    """Who may subscribe to what."""

    openness: Openness

    def cached(self, session: SessionInfo, action: Action, topic: str) -> bool | None: ...

    async def allowed(self, session: SessionInfo, action: Action, topic: str) -> bool: ...

    def log_refusal(self, session: SessionInfo, action: Action, topic: str, why: str = "") -> None: ...


class Filters(Protocol):
    """The trie of filters that are not shared."""

    def add(self, filter_: str, subscriber: Session, subscription: Subscription) -> None: ...

    def remove(self, filter_: str, subscriber: Session) -> bool: ...

    def set_aside(self, filter_: str, subscriber: Session, member: str) -> None: ...

    def bring_back(self, filter_: str, subscriber: Session, subscription: Subscription, member: str) -> None: ...


class Groups(Protocol):
    """The shared subscriptions. Both answer with what is to be stored for it."""

    def join(self, session: Session, subscription: Subscription) -> list[Operation]: ...

    def leave(self, session: Session, filter_: str, *, unsubscribed: bool) -> list[Operation]: ...


class Joins(Protocol):
    """That a session becomes a member of a channel."""

    def operations(self) -> list[Operation]: ...

    def done(self) -> None: ...


class Channels(Protocol):
    """The channels (`broker.routing.channels`)."""

    def join(self, session: Session, filters: Iterable[str]) -> Sequence[Joins]: ...

    def leave(self, session: Session, filter_: str) -> list[Operation]: ...

    def ended(self, session: Session) -> list[Operation]: ...


class Interest(Protocol):
    """What the clean sessions of this node want, for the other nodes of a cluster to know. Both answer with what is to be
    stored for it."""

    def listen(self, filter_: str) -> list[Operation]: ...

    def unlisten(self, filter_: str) -> list[Operation]: ...


class ClusterRetained(Protocol):
    """What is retained for filters that are in force."""

    def find(
        self,
        session: Session,
        subscriptions: Sequence[Subscription],
        filters: Sequence[str],
        present: Present,
        give: Callable[[list[Message], list[InboxEntry]], None],
        hiding: Hiding,
    ) -> None: ...


class StoredRetained(Protocol):
    """The retained messages that memory has not."""

    async def read(self, reading: Reading, present: Present) -> bool: ...


class RetainedDelivery(Protocol):
    """How what is retained reaches a device."""

    def subscribed(self, session: Session, unstored: list[Message], entries: list[InboxEntry]) -> None:
        """Filters of a session are in force: for them, ``unstored`` messages, and ``entries`` that came into its inbox."""


class Plugins(Hiding, Protocol):
    """What plugins are told, and what they hide."""

    def client_subscribed(self, device: DeviceKey, filter: str, qos: int) -> None: ...

    def client_unsubscribed(self, device: DeviceKey, filter: str) -> None: ...


class Subscriptions:
    """Subscribes and unsubscribes sessions."""

    def __init__(
        self,
        *,
        limits: Mqtt,
        newest: Callable[[], int],
        time: ServerTime,
        trie: Filters,
        retained: Retained,
        stored_retained: StoredRetained,
        groups: Groups,
        channels: Channels,
        access: Access,
        counters: Counters,
        retained_delivery: RetainedDelivery,
        events: Plugins,
        submit: Callable[[Step], None],
    ) -> None:
        self.limits = limits
        self.newest = newest
        """The end of the clean sessions' timeline."""
        self.interest: Interest | None = None
        """None where storage serves one node."""
        self.cluster_retained: ClusterRetained | None = None
        """In a cluster: reads from storage what is retained, once filters are in force."""
        self.time = time
        self.trie = trie
        self.retained = retained
        self.groups = groups
        self.channels = channels
        self.retained_delivery = retained_delivery
        self.events = events
        self._stored_retained = stored_retained
        self._access = access
        self.counters = counters
        self._submit = submit

    # --- at start, and at the end of a session -------------------------------------------------------------------------

    def load(self, session: Session) -> None:
        """Take up a stored session's filters, of which its name alone was known. Those of shared subscriptions join their
        groups at the end of the start."""
        member = member_of(*session.key)
        for filter_, subscription in session.subscriptions.items():
            if filter_.startswith(SHARE):
                session.shared_filters |= {filter_}
            else:
                self.trie.bring_back(filter_, session, subscription, member)

    def put_away(self, session: Session) -> None:
        """The session is kept in storage alone, where its inbox gets what its filters match."""
        member = member_of(*session.key)
        for filter_ in session.subscriptions.keys() - session.shared_filters:
            self.trie.set_aside(filter_, session, member)

    def ended(self, session: Session) -> list[Operation]:
        """The session ends at this place in the order: its filters match no more. Returns what is to be stored for that."""
        operations: list[Operation] = [] if session.channels is None else self.channels.ended(session)
        for filter_ in list(session.subscriptions):
            operations += self.take_out(session, filter_, unsubscribed=False)
        return operations

    # --- subscribing ---------------------------------------------------------------------------------------------------

    def subscribe(
        self, session: Session, wanted: Sequence[Subscription], info: SessionInfo | None, present: Present, answer: Answer
    ) -> Coroutine[object, object, None] | None:
        """Submit a request; ``answer`` is called with the codes. Where an ACL or storage has to be asked first, returns what
        does so.

        ``info`` is whom the ACL is asked about, None for whoever may do everything. Nothing is done where ``present`` is
        False at the request's place in the order.
        """
        codes = [self._judge(session.key.client_id, subscription.filter) for subscription in wanted]
        request = _Request(session, wanted, codes, present, answer)
        if info is None or self._access.openness.open or self._known(request, info):
            return self._judged(request, info)
        return self._ask(request, info)

    async def refusal(self, client_id: str, filter_: str, info: SessionInfo | None) -> int:
        """Why a filter cannot be granted to a device; 0 where it can, as far as that depends on nothing but the two."""
        code = self._judge(client_id, filter_)
        if code or info is None or await self._access.allowed(info, Action.SUBSCRIBE, _inner(filter_)):
            return code
        return ReasonCode.NOT_AUTHORIZED

    def _judge(self, client_id: str, filter_: str) -> int:
        """0, or why this filter cannot be granted to anybody here."""
        if filter_.count("/") >= self.limits.max_topic_levels:
            return ReasonCode.TOPIC_FILTER_INVALID
        try:
            validate_filter(filter_)
            parse_share(filter_)
        except ProtocolViolation as violation:
            return violation.code
        return ReasonCode.NOT_AUTHORIZED if why_reserved(client_id, filter_) else 0

    def _known(self, request: _Request, info: SessionInfo) -> bool:
        """Whether the ACL has answered at once of all filters; what it denies is noted then."""
        denied = []
        for place, subscription in enumerate(request.wanted):
            if not request.codes[place]:
                allowed = self._access.cached(info, Action.SUBSCRIBE, _inner(subscription.filter))
                if allowed is None:
                    return False
                if not allowed:
                    denied.append(place)
        for place in denied:
            request.codes[place] = ReasonCode.NOT_AUTHORIZED
        return True

    async def _ask(self, request: _Request, info: SessionInfo) -> None:
        for place, subscription in enumerate(request.wanted):
            if not request.codes[place]:
                request.codes[place] = await self.refusal(request.session.key.client_id, subscription.filter, info)
        reading = self._judged(request, info)
        if reading is not None:
            await reading

    def _judged(self, request: _Request, info: SessionInfo | None) -> Coroutine[object, object, None] | None:
        """Submit what was judged, or return what does so once storage was read."""
        for subscription, code in zip(request.wanted, request.codes, strict=True):
            if code and info is not None:
                if code == ReasonCode.NOT_AUTHORIZED:
                    self.counters.acl_denied += 1
                why = "" if code == ReasonCode.NOT_AUTHORIZED else ReasonCode(code).name.lower().replace("_", " ")
                self._access.log_refusal(info, Action.SUBSCRIBE, subscription.filter, why)
        if self.cluster_retained is not None:
            self._submit(SubscribeStep(self, request, self.retained.open(())))
            return None
        wanted = [s.filter for s in request.granted if s.options >> 4 != _NEVER and not s.filter.startswith(SHARE)]
        if self.retained.elsewhere(wanted) or self._may_hide(wanted, None):
            return self._read(request, wanted)
        self._submit(SubscribeStep(self, request, self.retained.open(wanted)))
        return None

    async def _read(self, request: _Request, wanted: Sequence[str]) -> None:
        reading = self.retained.open(wanted)  # here, as who never awaits this would never close it
        there = False
        try:
            there = await self._stored_retained.read(reading, request.present)
            topics = self._may_hide(wanted, reading) if there else ()
            if topics:
                found = await hidden_of(self.events, request.session.key.user, topics, request.present)
                reading.hidden, there = found or {}, found is not None
        finally:
            if not there:
                self.retained.close(reading)
        if there:
            self._submit(SubscribeStep(self, request, reading))

    def _may_hide(self, filters: Sequence[str], reading: Reading | None) -> set[str]:
        """Of which topics something that is retained may be hidden from some."""
        found = (m.topic for filter_ in filters for m in self.retained.match(filter_, self.time.now(), reading))
        return {topic for topic in found if self.events.of_members(topic)} if self.events.hiding else set()

    # --- unsubscribing -------------------------------------------------------------------------------------------------

    def unsubscribe(self, session: Session, filters: Sequence[str], present: Present, answer: Answer) -> None:
        """Submit a request; ``answer`` is called with a code per filter: 0, or 0x11 where there was no such subscription."""
        self._submit(UnsubscribeStep(self, session, filters, present, answer))

    def take_out(self, session: Session, filter_: str, *, unsubscribed: bool) -> list[Operation]:
        """Take out a filter that the session has; what is to be stored for its group, where it is shared."""
        del session.subscriptions[filter_]
        if filter_ not in session.shared_filters:
            self.trie.remove(filter_, session)
            if session.durable:
                return [] if session.channels is None else self.channels.leave(session, filter_)
            return [] if self.interest is None else self.interest.unlisten(filter_)
        session.shared_filters -= {filter_}
        return self.groups.leave(session, filter_, unsubscribed=unsubscribed)


class _Request:
    """Filters that somebody wants for a session. ``codes`` is 0 for each that is granted, until the step is applied."""

    __slots__ = ("answer", "codes", "present", "session", "wanted")

    def __init__(
        self, session: Session, wanted: Sequence[Subscription], codes: list[int], present: Present, answer: Answer
    ) -> None:
        self.session = session
        self.wanted = wanted
        self.codes = codes
        self.present = present
        self.answer = answer

    @property
    def granted(self) -> list[Subscription]:
        """What was not refused. Of a filter that comes twice, the last one counts [MQTT-3.8.4-3]."""
        pairs = zip(self.wanted, self.codes, strict=True)
        return list({wanted.filter: wanted for wanted, code in pairs if code < 0x80}.values())


class SubscribeStep(Step):
    """The granted filters of one request, at their place in the order."""

    def __init__(self, subscriptions: Subscriptions, request: _Request, reading: Reading) -> None:
        self._subscriptions = subscriptions
        self._request = request
        self._reading = reading
        self._granted: list[Subscription] = []
        self._unstored: list[Message] = []
        self._later: list[str] = []
        """Filters for which storage is read once they are in force."""
        self._answered = False
        self._joins: Sequence[Joins] = ()
        self._operation: records.Subscribe | None = None

    def weight(self) -> int:
        return OVERHEAD + sum(_FILTER + len(wanted.filter) for wanted in self._request.wanted)

    def ready(self) -> bool:
        """What is retained for the filters is decided, or is read later."""
        if self._subscriptions.cluster_retained is not None:
            return True
        undecided = self._subscriptions.retained.undecided
        return not any(undecided(subscription.filter) for subscription in self._request.granted)

    def apply(self) -> list[Operation]:
        """From this place on the filters match; look up the retained messages as of this place."""
        try:
            return self._apply()
        finally:
            self._subscriptions.retained.close(self._reading)

    def _apply(self) -> list[Operation]:
        request, session = self._request, self._request.session
        if session.ended or not request.present():
            request.codes = [ReasonCode.UNSPECIFIED_ERROR] * len(request.codes)
            return []
        self._keep_quota(session)
        self._granted = request.granted
        request.codes = [code or wanted.options & 3 for wanted, code in zip(request.wanted, request.codes, strict=True)]
        operations: list[Operation] = []
        retained: dict[str, Message] = {}
        for subscription in self._granted:
            operations += self._put_in(session, subscription, retained)
        messages = sorted(retained.values(), key=lambda message: message.id)
        # What was published without storage, as the broker's own topics are, has no id, and goes into no inbox.
        self._unstored = [message for message in messages if not (message.id and session.durable)]
        if not session.durable or not self._granted:
            return operations
        start = session.cursor if session.awaits_filter else -1
        copies = [
            Subscription(s.filter, s.options, s.identifier, start if s.since == NOT_YET else s.since) for s in self._granted
        ]
        self._joins = self._subscriptions.channels.join(session, [s.filter for s in self._granted])
        for join in self._joins:
            operations += join.operations()
        stored = [message for message in messages if message.id]
        self._operation = records.Subscribe(session.key, session.epoch, copies, stored)
        operations.append(self._operation)
        if stored:
            operations.append(records.Join([(session.key.user, message.topic) for message in stored]))
        return operations

    def _keep_quota(self, session: Session) -> None:
        """Refuse the new filters that a session may not have any more, however many came in one packet or at once. Those of
        topics that are their members' alone do not count: how many of these a user has is bounded by who keeps the members."""
        request = self._request
        new = [s.filter for s in request.granted if s.filter not in session.subscriptions]
        room = self._subscriptions.limits.max_subscriptions - len(session.subscriptions)
        if len(new) > room and (plugins := self._subscriptions.events).hiding:
            new = [filter_ for filter_ in new if not plugins.of_members(filter_)]
            room += sum(map(plugins.of_members, session.subscriptions))
        beyond = set(new[max(0, room) :])
        for place, wanted in enumerate(request.wanted):
            if wanted.filter in beyond and not request.codes[place]:
                request.codes[place] = ReasonCode.QUOTA_EXCEEDED
                self._subscriptions.counters.limit_subscriptions += 1

    def _put_in(self, session: Session, subscription: Subscription, retained: dict[str, Message]) -> list[Operation]:
        """The filter matches from here on; adds what is ``retained`` for it. Returns what is to be stored for its group."""
        subscriptions, filter_ = self._subscriptions, subscription.filter
        known = session.subscriptions.get(filter_)
        session.subscriptions[filter_] = subscription
        if filter_.startswith(SHARE):
            session.shared_filters |= {filter_}
            return subscriptions.groups.join(session, subscription)
        if known is not None:
            subscription.since = known.since
        else:
            subscription.since = NOT_YET if session.durable else subscriptions.newest()
        subscriptions.trie.add(filter_, session, subscription)
        operations: list[Operation] = []
        if known is None and not session.durable and subscriptions.interest is not None:
            operations = subscriptions.interest.listen(filter_)
        handling = subscription.options >> 4
        if handling != _NEVER and not (handling == _NEW_ONLY and known is not None):
            found = subscriptions.retained.match(filter_, subscriptions.time.now(), self._reading)
            if subscriptions.cluster_retained is not None:
                self._later.append(filter_)
                found = [message for message in found if not message.id]
            for message in found:
                retained[message.topic] = message
        return operations

    def done(self) -> None:
        """Say what was granted, and begin to deliver."""
        request, operation, subscriptions = self._request, self._operation, self._subscriptions
        session = request.session
        entries: list[InboxEntry] = []
        if operation is not None:  # also where the connection is gone: the session has the filter
            session.awaits_filter = False
            for copy in operation.subscriptions:
                session.placed(copy.filter, copy.since)
            for join in self._joins:
                join.done()
            target = session.key.client_id
            pairs = zip(operation.retained, operation.retained_seqs, strict=True) if operation.retained_seqs else ()
            entries = [InboxEntry(seq, message, target) for message, seq in pairs]
        later = subscriptions.cluster_retained
        if later is None or not self._later:
            self._give([], entries)
        else:
            in_force = self._granted if operation is None else list(operation.subscriptions)
            later.find(session, in_force, self._later, request.present, self._give, subscriptions.events)

    def _give(self, copies: list[Message], entries: list[InboxEntry]) -> None:
        """Answer, the first time; and deliver ``copies`` that are in no timeline, and those that are in the inbox."""
        request, subscriptions = self._request, self._subscriptions
        session = request.session
        if not self._answered:
            self._answered = True
            request.answer(request.codes)
            for subscription in self._granted:
                subscriptions.events.client_subscribed(session.key, subscription.filter, subscription.options & 3)
        if self._granted:
            unstored, self._unstored = self._unstored, []
            subscriptions.retained_delivery.subscribed(session, unstored + copies, entries)


class UnsubscribeStep(Step):
    """The filters of one request to unsubscribe, at their place in the order."""

    def __init__(
        self, subscriptions: Subscriptions, session: Session, filters: Sequence[str], present: Present, answer: Answer
    ) -> None:
        self._subscriptions = subscriptions
        self._session = session
        self._filters = filters
        self._present = present
        self._answer = answer
        self._codes: list[int] = []

    def weight(self) -> int:
        return OVERHEAD + sum(_FILTER + len(filter_) for filter_ in self._filters)

    def apply(self) -> list[Operation]:
        """From this place on the filters match no more."""
        session, gone = self._session, []
        if session.ended or not self._present():
            return []
        operations: list[Operation] = []
        for filter_ in self._filters:
            if filter_ in session.subscriptions:
                operations += self._subscriptions.take_out(session, filter_, unsubscribed=True)
                gone.append(filter_)
                self._codes.append(ReasonCode.SUCCESS)
            else:
                self._codes.append(ReasonCode.NO_SUBSCRIPTION_EXISTED)
        if gone and session.durable:
            operations.append(records.Unsubscribe(session.key, session.epoch, gone))
        return operations

    def done(self) -> None:
        """Say which of them there were."""
        self._answer(self._codes or [ReasonCode.NO_SUBSCRIPTION_EXISTED] * len(self._filters))
        if self._codes:
            for filter_ in self._filters:
                self._subscriptions.events.client_unsubscribed(self._session.key, filter_)


def _inner(filter_: str) -> str:
    share = parse_share(filter_)
    return share[1] if share else filter_


_OWN_KINDS = ("reply", "events", "receipts")


def why_reserved(client_id: str, filter_: str) -> str:
    """Why nobody, or not this client, may subscribe to a valid filter, whatever an ACL says; empty where that is not so."""
    if OWN not in filter_ and DELAYED not in filter_:
        return ""
    inner = _inner(filter_)
    own = [f"{OWN}{kind}/{client_id}" for kind in _OWN_KINDS]  # docs/sync.md
    if inner.startswith(OWN) and filter_ not in own:
        return f"filter {shown(filter_)}: below {OWN} there are {', '.join(map(shown, own))}"
    if inner.startswith(DELAYED):
        return f"filter {shown(filter_)}: what is below {DELAYED} waits; subscribe to the topic that it is published to later"
    return ""
