"""Judges what the clients saw, and what the database has at the end, by the laws (docs/laws.md). No I/O.

Each line that `faults` gives begins with the kind of the fault:

- ``lost``: a filter's SUBACK came before the PUBLISH was sent, the filter stood to the end, the message is stored, and the
  device never got it. With QoS 0 only where the connection of the SUBACK is there at the end. A retained message that is the
  last one of its topic is due to every filter that stood at the end.
  What is due to the members of a shared subscription must be got, and acknowledged, by one of them.
- ``doubled``: QoS 2 more than once for each time that it is stored, QoS 1 more often than resends and the window allow, and the
  same for what is stored. Of a shared subscription: QoS 2 to more than one member.
- ``out of order``: a device got a publisher's later message of a topic first, or read its inbox in another order.
- ``absent``: acknowledged, and not in the store.
- ``gap``: in a conversation or an inbox.
- ``will``: published more than once, not at all, or though its client had said goodbye.
- ``two connections``: a device has more than one at the end.
- ``failure``: a node's own error, or what had not come to rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from broker.packets import parse_share
from tests.cluster_model.history import Connected, History, Published, Received, Subscribed
from tests.cluster_model.nodes import LEASE
from tests.cluster_model.wire import DELAY

FLUSHED = 1.5
"""Seconds after which what a device acknowledged is durable, where its node can write."""
_SLACK = 2.5
"""Seconds by which a delayed will may come later."""


def faults(history: History) -> list[str]:
    """What is wrong; empty where the laws were kept."""
    return list(_Checker(history).all())


def matches(filter_: str, topic: str) -> bool:
    """Whether a topic filter matches a topic, by the specification's words."""
    filters, levels = filter_.split("/"), topic.split("/")
    for number, level in enumerate(filters):
        if level == "#":
            return True
        if number >= len(levels) or level not in ("+", levels[number]):
            return False
    return len(filters) == len(levels)


class _Checker:
    def __init__(self, history: History) -> None:
        self._history = history
        self._copies = Counter(payload for entries in history.stored.values() for _, payload in entries)
        self._sessions: dict[tuple[str, int], list[Received]] = defaultdict(list)
        for received in history.received:
            if received.fresh:
                self._sessions[received.device, received.session].append(received)
        self._connections = {(one.device, one.number): one for one in history.connected}
        self._last = {one.device: one for one in history.connected}
        """Each device's last connection."""

    def all(self) -> Iterator[str]:
        for failure in self._history.failures:
            yield f"failure: {failure}"
        yield from self._stored()
        yield from self._lost()
        yield from self._lost_retained()
        yield from self._lost_shared()
        yield from self._doubled()
        yield from self._doubled_shared()
        yield from self._out_of_order()
        yield from self._gaps()
        yield from self._wills()
        yield from self._two_connections()

    # --- the store -------------------------------------------------------------------------------------------------------

    def _stored(self) -> Iterator[str]:
        for message in self._history.published.values():
            copies = self._copies[message.payload]
            if message.acked and not copies:
                yield f"absent: {message.payload} was acknowledged and is not stored"
            most = message.sendings if message.qos == 1 else 1
            if copies > most:
                sent = f"{message.payload} (QoS {message.qos}) was sent {message.sendings} times"
                yield f"doubled: {sent} and is stored {copies} times"
        unknown = self._copies.keys() - self._history.published.keys()
        for payload in sorted(unknown):
            if not payload.startswith("will/"):
                yield f"failure: {payload!r} is stored, and nobody has published it"

    # --- lost ------------------------------------------------------------------------------------------------------------

    def _standing(self) -> Iterator[tuple[Subscribed, Connected]]:
        """Filters that stood to the end, of sessions that did."""
        for subscribed in self._history.subscribed:
            last = self._last.get(subscribed.device)
            if subscribed.ended or last is None or last.session != subscribed.session:
                continue
            if last.durable or not last.ended:
                yield subscribed, last

    def _due(self, subscribed: Subscribed, last: Connected, qos: int) -> bool:
        """Whether what a filter matches must have arrived."""
        return min(qos, subscribed.qos) > 0 or (subscribed.connection == last.number and not last.ended)

    def _lost(self) -> Iterator[str]:
        for subscribed, last in self._standing():
            got = {received.payload for received in self._sessions[subscribed.device, subscribed.session]}
            for message in self._history.published.values():
                if not matches(subscribed.filter, message.topic) or message.at < subscribed.acked:
                    continue
                if self._copies[message.payload] and message.payload not in got and self._due(subscribed, last, message.qos):
                    yield f"lost: {message.payload} was due to {subscribed.device} by {subscribed.filter} and never came"
            for will in self._history.connected:
                if not (will.ended and subscribed.acked < will.at and matches(subscribed.filter, "wills")):
                    continue
                if self._copies[will.will] and will.will not in got and self._due(subscribed, last, 1):
                    yield f"lost: {will.will} was due to {subscribed.device} by {subscribed.filter} and never came"

    def _lost_retained(self) -> Iterator[str]:
        for topic, entries in self._history.stored.items():
            retained = [m for _, payload in entries if (m := self._history.published.get(payload)) is not None and m.retain]
            if not retained:
                continue
            message = retained[-1]
            for subscribed, last in self._standing():
                got = {received.payload for received in self._sessions[subscribed.device, subscribed.session]}
                if (
                    matches(subscribed.filter, topic)
                    and message.payload not in got
                    and self._due(subscribed, last, message.qos)
                ):
                    yield f"lost: {message.payload} is retained in {topic} and {subscribed.device} never got it"

    def _lost_shared(self) -> Iterator[str]:
        for subscribed, last in self._standing():
            parsed = parse_share(subscribed.filter)
            if parsed is None or not last.durable:
                continue
            done = {one.payload for one in self._history.received if one.acked and self._is_worker(one.device)}
            for message in self._history.published.values():
                due = matches(parsed[1], message.topic) and message.at > subscribed.acked and min(message.qos, subscribed.qos)
                if due and self._copies[message.payload] and message.payload not in done:
                    yield f"lost: {message.payload} was due to the members of {subscribed.filter} and none has it"
            return

    # --- doubled ---------------------------------------------------------------------------------------------------------

    def _doubled(self) -> Iterator[str]:
        for (device, _), all_received in self._sessions.items():
            if self._is_worker(device):
                continue  # what one did not acknowledge may come back to it by way of others
            by_payload: dict[str, list[Received]] = defaultdict(list)
            for received in all_received:
                if not received.retain:
                    by_payload[received.payload].append(received)
            for payload, times in by_payload.items():
                copies = self._copies[payload]
                if payload in self._history.published or payload.startswith("will/"):
                    unasked = [one for number, one in enumerate(times) if not self._may_repeat(one, times[:number])]
                    if len(unasked) > copies:
                        yield f"doubled: {device} got {payload} {len(times)} times, {copies} of it are stored"

    def _doubled_shared(self) -> Iterator[str]:
        twos = Counter(
            one.payload for one in self._history.received if one.fresh and one.qos == 2 and self._is_worker(one.device)
        )
        for payload, times in twos.items():
            if times > self._copies[payload]:
                yield f"doubled: members of a group got {payload} {times} times, {self._copies[payload]} of it are stored"

    def _is_worker(self, device: str) -> bool:
        """Whether the device is a member of a shared subscription, and nothing else."""
        return device.startswith("worker")

    def _may_repeat(self, again: Received, before: list[Received]) -> bool:
        """Whether the device is one that has to be given it again: it was on its way when its connection ended."""
        for earlier in reversed(before):
            if earlier.connection != again.connection and earlier.qos < 2 and self._in_window(earlier):
                return True
        return False

    def _in_window(self, received: Received) -> bool:
        """Whether the broker could not know, durably, that it and all before it were acknowledged, or written with QoS 0."""
        same = [
            one
            for one in self._sessions[received.device, received.session]
            if one.connection == received.connection and one.at <= received.at
        ]
        if not all(one.acked for one in same):
            return True
        connection = self._connections[received.device, received.connection]
        latest = max(one.acked for one in same)
        if connection.ended and connection.ended_time < latest + 3 * DELAY:
            return True  # the node had closed it by then
        return any(
            not trouble.told
            and trouble.node == connection.node
            and trouble.begin < latest + FLUSHED
            and trouble.end > latest - 0.1
            for trouble in self._history.troubles
        )

    # --- order -----------------------------------------------------------------------------------------------------------

    def _out_of_order(self) -> Iterator[str]:
        positions: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for user, entries in self._history.inboxes.items():
            for seq, payload in entries:  # one that was being retained at a SUBSCRIBE may be there twice
                positions[user][payload].append(seq)
        for (device, _), all_received in self._sessions.items():
            if self._is_worker(device):
                continue
            seen: set[str] = set()
            latest: dict[tuple[str, str], Published] = {}
            position, furthest = positions[self._history.users[device]], 0
            durable = any(one.durable for one in self._history.connected if one.device == device)
            for received in all_received:
                if received.payload in seen or received.retain:
                    continue
                seen.add(received.payload)
                if durable and (seqs := position[received.payload]) and self._copies[received.payload] == 1:
                    seq = next((seq for seq in seqs if seq > furthest), seqs[0])
                    if seq < furthest:
                        yield f"out of order: {device} got {received.payload}, entry {seq} of its inbox, after entry {furthest}"
                    furthest = max(furthest, seq)
                message = self._history.published.get(received.payload)
                if message is None:
                    continue
                key = (message.device, message.topic)
                before = latest.get(key)
                if before is None or before.number < message.number:
                    latest[key] = message
                elif not self._may_be_late(message, received):
                    yield f"out of order: {device} got {message.payload} after {before.payload}"

    def _may_be_late(self, message: Published, received: Received) -> bool:
        """One that was never acknowledged on its connection may be stored late by the node of that; where it was sent again, it
        comes a second time by that, and the first time may be lost with a connection that was to get it with QoS 0."""
        if not message.broken:
            return False
        if message.sendings == 1:
            return True
        stayed = self._connections[received.device, received.connection].at < message.at
        return not any(
            (one.device, one.session) == (received.device, received.session)
            and one.acked < message.at
            and (not one.ended or one.ended > received.at)
            and (one.qos or stayed)
            and matches(one.filter, message.topic)
            for one in self._history.subscribed
        )

    # --- the rest --------------------------------------------------------------------------------------------------------

    def _gaps(self) -> Iterator[str]:
        for name, entries in [*self._history.stored.items(), *self._history.inboxes.items()]:
            seqs = [seq for seq, _ in entries]
            if seqs != list(range(1, len(seqs) + 1)):
                yield f"gap: {name} has {seqs}"

    def _wills(self) -> Iterator[str]:
        for payload, copies in self._copies.items():
            if payload.startswith("will/") and copies > 1:
                yield f"will: {payload} was published {copies} times"
        following: dict[str, Connected] = {}
        for one in reversed(self._history.connected):
            after = following.get(one.device)
            following[one.device] = one
            if not one.will:
                continue
            copies = self._copies[one.will]
            # A client that went without a word, and came no further than a node that did not answer: nobody has noticed.
            there = (one.device, one.number) in self._history.open_at_end
            if there or (not one.ended and not self._replaced(one)):
                if copies:
                    yield f"will: {one.will} was published, and its connection is there"
                continue
            if copies and one.said_goodbye and not self._troubled(one):
                yield f"will: {one.will} was published though its client had said goodbye"
            elif not copies and not one.said_goodbye and self._must_come(one, after):
                yield f"will: {one.will} was never published"
            elif copies and one.delay and not one.said_goodbye and self._must_not_come(one, after):
                yield f"will: {one.will} was published though its session went on in time"

    def _replaced(self, one: Connected) -> bool:
        return self._last[one.device] is not one

    def _troubled(self, one: Connected) -> bool:
        """Whether the node may not have read the DISCONNECT, or not have stored it."""
        return any(
            t.node == one.node and t.begin <= one.ended_time + FLUSHED and t.end >= one.ended_time - LEASE
            for t in self._history.troubles
        )

    def _must_come(self, one: Connected, after: Connected | None) -> bool:
        """Unless it has a delay, and the session may have gone on by a CONNECT that got no answer, which is opened late."""
        if not one.delay or not one.durable:
            return True
        if any(dialled.device == one.device and not dialled.answered for dialled in self._history.dialled):
            return False
        if after is not None and not after.present:
            return True
        late = after is not None and after.time > one.ended_time + one.delay + _SLACK
        return late and not one.forsaken and not self._troubled(one)  # a forsaken one ends when the broker ends it

    def _must_not_come(self, one: Connected, after: Connected | None) -> bool:
        """Unless a clean start of its client came in between, or may have, or its node was found dead before it went."""
        if after is None or not after.present or after.time >= one.ended_time + one.delay or self._troubled(one):
            return False
        return not any(
            dialled.device == one.device and dialled.clean and not dialled.answered and dialled.number < after.number
            for dialled in self._history.dialled
        )

    def _two_connections(self) -> Iterator[str]:
        for device, count in Counter(device for device, _ in self._history.open_at_end).items():
            if count > 1:
                yield f"two connections: {device} has {count} at the end"
