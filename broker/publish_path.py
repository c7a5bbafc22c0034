"""The way of a published message, top to bottom.

A PUBLISH comes from its packet by `connection.handle_publish.received`, which asks the ACL. Plugins publish by
`amqtt.server_api`, and wills come from `sessions`. All submit a `Publication` to the `Pipeline`, where it gathers with others
into a group. `PublishPath` takes each group from there to its subscribers:

    store   1. take           everything that waits                               Pipeline.take
            2. match          plugins may change it                               GroupHooks.arrived
                              its id, time and recipients, in order               number; Step.apply
                              (a cluster: as of what all nodes know by now        OtherNodes.current)
            3. hooks before   plugins see the group, and may refuse some of it    GroupHooks.before_ack
            4. commit         durable, tried again while storage is away          Commits.commit
            5. decide         what was not refused takes its topic's place        Retained.decide
                              (a cluster: other nodes are told, durably           OtherNodes.tell)
    finish  6. acknowledge    each socket with one write                          Step.done; Inbound.stored
            7. deliver        wake what serves the subscribers                    Delivery.deliver
            8. hooks after    plugins see the group                               GroupHooks.after_ack

Rules it keeps (docs/laws.md, 1, 4, 7):

- Nobody is acknowledged or delivered to before 4.
- The order of submission is the order at every step. Steps 1 to 5 of the next group follow 5; its 2 may come before 6.
- A message that is refused, before or in a group, is refused in its place and alone.

Over 300 lines: the whole way is read in one place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from amqtt.events import BrokerEvents

from broker.commits import Commits
from broker.connection import Inbound
from broker.counters import Counters
from broker.delivery import Delivery, SharedGroup
from broker.hooks import Group, GroupHooks, GroupTimes, Refusal, SpanPlugin
from broker.ids import Ids
from broker.packets import ReasonCode, shown
from broker.pipeline import Batch, Pipeline, Step
from broker.publication import Acks, Outgoing, Publication
from broker.retained import Retained
from broker.routing import Trie
from broker.sessions import Session
from storage.errors import Superseded
from storage.records import Append, Message, Operation

if TYPE_CHECKING:
    from broker.access import SessionInfo
    from broker.trace import Tracer

log = logging.getLogger(__name__)


class Events(Protocol):
    """What plugins are told of messages."""

    def listens(self, event: str) -> bool: ...

    def retained(self, message: Message) -> None: ...

    def message_broadcast(self, info: SessionInfo, message: Message, packet_id: int = 0) -> None: ...


class OtherNodes(Protocol):
    """What a group of messages has to do with the other nodes of a cluster (`broker.cluster`). Both wait for as long as storage
    is away, and answer False where this node may not write any more."""

    async def current(self, group: Sequence[Publication | Step]) -> bool:
        """From here on the trie has whatever was acknowledged to a subscriber, on whichever node, before this was called, where
        the group has a message to match. See `covered`."""

    @property
    def covered(self) -> Publication | Step | None:
        """What waited last when `tell` began to look: of a group that ends with it the trie has that already. `current` is
        called for it all the same, and looks no more."""

    @property
    def late(self) -> Mapping[tuple[str, str], int]:
        """Devices that another node has by now, though messages of theirs may still wait here: user and client id to the epoch
        below which those are late."""

    async def tell(self, publications: Sequence[Publication]) -> bool:
        """The messages are durable: tell the nodes that have somebody connected to whom one of them is due. All nodes are told
        what is recalled."""


class PublishPath:
    """What happens to a group of messages, and to the steps among them."""

    def __init__(
        self,
        ids: Ids,
        trie: Trie[Session | SharedGroup],
        retained: Retained,
        hooks: GroupHooks,
        commits: Commits,
        delivery: Delivery,
        events: Events,
        counters: Counters,
    ) -> None:
        self._ids = ids
        self._trie = trie
        self._retained = retained
        self._hooks = hooks
        self._commits = commits
        self._delivery = delivery
        self._events = events
        self._broadcasts = events.listens(BrokerEvents.MESSAGE_BROADCAST)
        self._counters = counters
        self.superseded: Callable[[Sequence[Operation]], None] | None = None
        """In a cluster: called with what was committed, before the next group is matched. Some of it may have been refused for
        a device that another node has by now: its connection here is told nothing more, and nothing more of it is stored."""
        self.spans: SpanPlugin | None = None
        """What records spans; None without such a plugin."""
        self.tracer: Tracer | None = None
        """What is told what becomes of messages; None while nobody follows any."""
        self.others: OtherNodes | None = None
        """None where storage serves one node."""

    # --- until it is durable -----------------------------------------------------------------------------------------

    async def store(self, pipeline: Pipeline) -> Batch | None:
        """1 to 5. Make the next group durable. None where this node may not write any more."""
        others = self.others
        items = pipeline.take(pipeline.pending if others is None else _worth_taking(pipeline, others.covered))
        since = pipeline.since
        if others is not None and not await others.current(items):
            return None
        batch = self._match(items, since)
        pipeline.leave(items[batch.taken :])
        if batch.publications:
            waits = self._hooks.before_ack(batch.group, self._commits.until_done)
            if waits is not None and not await waits:
                return None
        operations = _durable(batch.group.operations)
        batch.committing = perf_counter()
        if operations and not await self._commits.commit(operations):
            return None
        self._decide()
        batch.committed = perf_counter()
        if operations:
            self._counters.commit_seconds.observe(batch.committed - batch.committing)
        recalling = [p for p in batch.publications if p.recalls and p.error is None and p.original is None]
        for publication in recalling:
            self.forget(publication.message.topic, list(publication.recalls), publication.message.id)
        if self.superseded is not None:
            self.superseded(operations)
        if others is not None and batch.publications and not await others.tell(batch.publications):
            return None
        return batch

    def _match(self, items: list[Publication | Step], since: float) -> Batch:
        """2. Number and match the messages and apply the steps, each at its place, up to a step that is not `Step.ready`."""
        operations: list[Operation] = []
        publications: list[Publication] = []
        steps: list[Step] = []
        taken = 0
        arrivals = bool(self._hooks.arrivals)
        self._ids.read_clocks()  # all messages of the group are of this moment
        if self.others is not None and self.others.late:
            _refuse_late(items, self.others.late)
        for item in items:
            try:
                if isinstance(item, Publication):
                    publications.append(item)
                    if item.error is None and arrivals:
                        self._hooks.arrived(item)
                    if item.error is None:
                        self.number(item)
                        operations.append(item)
                else:
                    if not item.ready() and publications:
                        break
                    operations.extend(item.apply())
                    steps.append(item)
            except Exception:  # our bug: it must not stop everybody's pipeline
                log.exception("an item of a group failed")
                if isinstance(item, Publication):
                    item.error = Refusal("internal error", ReasonCode.UNSPECIFIED_ERROR)
            taken += 1
        return Batch(Group(operations, publications), publications, steps, taken, since)

    def number(self, publication: Publication) -> None:
        """Number a message and find its recipients."""
        message = publication.message
        message.id, message.time = self._ids.take_of_group()
        if publication.retain:
            self._retained.expect(publication)
        publication.matched = match = self._trie.match(message.topic)
        publication.recipients = match.recipients
        if publication.retain and self.others is not None:
            publication.recipients = list(match.recipients)  # told from what a plugin may put there (`broker.cluster`)

    def forget(self, topic: str, recalled: list[int], by: int) -> None:
        """Messages of a topic were recalled, here or by another node: memory serves their content no more."""
        self._delivery.recalled.add(recalled, by)
        for message_id in recalled:
            self._retained.forget(topic, message_id)

    def _decide(self) -> None:
        """5. Which messages were refused is known: from here on a SUBSCRIBE finds those to be retained."""
        if not self._retained.expected:
            return
        try:
            for message in self._retained.decide():
                self._events.retained(message)
        except Exception:
            log.exception("taking note of a committed group failed")

    # --- once it is durable ------------------------------------------------------------------------------------------

    def finish(self, batch: Batch) -> None:
        """6 to 8. The group is durable: its steps go on, then its publishers are acknowledged, then it is delivered."""
        self._counters.groups += 1
        if batch.publications:
            self._counters.group_messages += len(batch.publications)
            self._counters.group_size.observe(len(batch.publications))
        for step in batch.steps:
            try:
                step.done()
            except Exception:  # one connection's fault must not stop everybody's pipeline
                log.exception("a step of a committed group failed")
        if self.tracer is not None:
            self.tracer.committed(batch.publications)
        try:
            self._acknowledge(batch)
            if self._broadcasts:
                self._broadcast(batch.publications)
            self._deliver(batch)
            if self.spans is not None:
                self.spans.finished(batch.publications, GroupTimes(batch.committing, batch.committed, perf_counter()))
        except Exception:
            log.exception("acknowledging and delivering a committed group failed")
        self._hooks.after_ack(batch.group)

    def _acknowledge(self, batch: Batch) -> None:
        """6. Those with an ``error`` were refused, and are told so in their place."""
        acks = Acks()
        stored = written = 0
        for publication in batch.publications:
            origin = publication.origin
            if publication.store and publication.error is None and publication.original is None:
                stored += 1
            if origin is not None:
                try:
                    origin.stored(publication, acks)
                except Exception:  # one connection's fault must not cost the others their acks
                    log.exception("acknowledging a stored message failed")
        for connection in acks.waiting:
            frames, connection.acks = connection.acks, None
            try:
                if isinstance(frames, bytes):
                    written += 1
                    connection.write_frame(frames)
                elif frames is not None:
                    written += len(frames)
                    connection.write_frames(frames)
            except Exception:
                log.exception("writing acknowledgements to %s failed", connection.name, extra=connection.about)
        self._counters.messages_stored += stored
        self._counters.control_sent += written
        if written:
            self._counters.ack_seconds.observe(perf_counter() - batch.since, written)

    def _deliver(self, batch: Batch) -> None:
        """7. What is written right now is measured."""
        counters = self._counters
        before = counters.publish_sent
        self._delivery.deliver(batch.publications)
        written = counters.publish_sent - before
        if written:
            counters.delivery_seconds.observe(perf_counter() - batch.since, written)

    def _broadcast(self, publications: list[Publication]) -> None:
        """Fire amqtt's event of each message that a client published."""
        for publication in publications:
            origin = publication.origin
            if publication.error is None and isinstance(origin, Inbound):
                self._events.message_broadcast(origin.connection.info, publication.message, origin.packet_id)

    # --- beside the groups -------------------------------------------------------------------------------------------

    def publish_transient(self, message: Outgoing) -> None:
        """Publish without storage, to who is connected now. At once, and not in the order of groups: what the broker says of
        itself must get out while a commit hangs."""
        if message.retain:
            self._retained.put(message)
        publication = Publication(message, store=False)
        publication.matched = self._trie.match(message.topic)
        self._delivery.deliver([publication])


def _worth_taking(pipeline: Pipeline, covered: Publication | Step | None) -> int:
    """How many to take of what waits: what the look of the group before covers saves a look of its own, where that is not
    less than half."""
    known = pipeline.through(covered) if covered is not None else 0
    return known if 2 * known >= pipeline.pending else pipeline.pending


def _refuse_late(items: Sequence[Publication | Step], late: Mapping[tuple[str, str], int]) -> None:
    """Refuse what a device published whose client has gone on through another node, and sends there again whatever was not
    acknowledged. Stored now, it would come behind what was published after it."""
    for item in items:
        if isinstance(item, Publication) and item.epoch and item.error is None:
            message = item.message
            if item.epoch < late.get((message.user, message.device), 0):
                item.error = Superseded(f"{shown(message.device)} has connected through another node")


def _durable(operations: list[Operation]) -> list[Operation]:
    """Those of which something is to be stored."""
    return [op for op in operations if not (isinstance(op, Append) and _nothing_to_store(op))]


def _nothing_to_store(append: Append) -> bool:
    return not (append.store or append.retain or append.recipients or append.received or append.recalls)
