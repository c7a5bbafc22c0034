"""The checker of the laws finds a planted fault of each kind: a test that can't fail would prove nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.packets.model import Will
from storage.records import Device, DeviceKey, InboxEntry, Message, Subscription
from tests.support import laws_check as law
from tests.support.broker import running
from tests.support.laws_clients import Plan, PublisherRecord, Pulse, Receipt, Recorder, Sent
from tests.support.laws_crash import goodbye_arrives

TOPIC = "chat/1"


class History:
    """Ten messages of one publisher, acknowledged, stored, in one inbox, and given to one device."""

    def __init__(self, qos: int) -> None:
        self.publisher = PublisherRecord(Plan((TOPIC,), (qos,)), 1, 0.0)
        self.device = Recorder(Pulse(), "ann", "ann-phone", {"chat/#": 2})
        kept = Device(DeviceKey("u/ann", "ann-phone"), offset=10, cursor=10)
        kept.subscriptions["chat/#"] = Subscription("chat/#", 2, since=0)
        self.stored = law.Stored({TOPIC: []}, {"u/ann": []}, {kept.key: kept})
        for number in range(1, 11):
            sent = Sent(TOPIC, f"p:{number}", qos)
            sent.acked = True
            self.publisher.sent[sent.payload] = sent
            self._store(number, sent.payload, qos)
            self.device.receipts.append(Receipt(time.monotonic() - 100, TOPIC, sent.payload, qos, number))

    def _store(self, number: int, payload: str, qos: int) -> None:
        message = Message(number, TOPIC, "u/pat", "pat", number, qos, payload.encode(), seq=number)
        self.stored.conversations[TOPIC].append(message)
        self.stored.inboxes["u/ann"].append(InboxEntry(number, message))

    def check(self) -> None:
        """What `ClusterRun.check` asks of such a history."""
        law.timelines_are_whole(self.stored)
        law.acknowledged_are_stored(self.stored, [self.publisher])
        law.surplus_is_bounded(self.stored, [self.publisher])
        law.publishers_are_in_order_everywhere(self.stored, [self.publisher])
        law.inboxes_hold_all_that_is_due(self.stored, {"u/ann": {"chat/#"}})
        law.everything_was_delivered(self.stored, self.device)
        law.delivery_was_in_order(self.stored, self.device)
        law.duplicates_are_bounded(self.stored, self.device, [], 20)


def lost_on_the_way(history: History) -> None:
    del history.device.receipts[4]


def stored_when_its_device_had_left(history: History) -> None:
    sent = history.publisher.sent["p:11"] = Sent(TOPIC, "p:11", 2)
    sent.acked = True
    history._store(11, "p:11", 2)


def delivered_twice(history: History) -> None:
    history.device.receipts.append(history.device.receipts[4])


def delivered_out_of_order(history: History) -> None:
    receipts = history.device.receipts
    receipts[3], receipts[4] = receipts[4], receipts[3]


def stored_out_of_order(history: History) -> None:
    messages, inbox = history.stored.conversations[TOPIC], history.stored.inboxes["u/ann"]
    messages[3].payload, messages[4].payload = messages[4].payload, messages[3].payload
    assert inbox[3].message is messages[3]


def stored_out_of_order_at_another_qos(history: History) -> None:
    stored_out_of_order(history)
    history.stored.conversations[TOPIC][3].qos = history.publisher.sent["p:5"].qos = 1


def acknowledged_but_absent(history: History) -> None:
    sent = Sent(TOPIC, "p:11", 1)
    sent.acked = True
    history.publisher.sent[sent.payload] = sent


def stored_but_in_no_inbox(history: History) -> None:
    history.stored.inboxes["u/ann"].pop()


def stored_twice(history: History) -> None:
    history._store(11, "p:10", 2)


def a_gap(history: History) -> None:
    history.stored.conversations[TOPIC][-1].seq += 1


@pytest.mark.parametrize("qos", [1, 2])
def test_a_good_history_is_found_good(qos: int) -> None:
    History(qos).check()


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (
            lost_on_the_way,
            "at QoS 2 0 times instead of 1; it has offset 10 .* of 10, and entry 5, .* is acknowledged$",
        ),
        (
            stored_when_its_device_had_left,
            "0 times instead of 1; it has offset 10 and .* of 11, and entry 11, .* is stored$",
        ),
        (delivered_twice, "at QoS 2 2 times instead of 1"),
        (delivered_out_of_order, "out of order"),
        (stored_out_of_order, "out of order"),
        (stored_out_of_order_at_another_qos, "out of order"),
        (acknowledged_but_absent, "1 acknowledged messages are not stored"),
        (stored_but_in_no_inbox, "1 messages that are due are not in the inbox"),
        (stored_twice, "is stored 2 times"),
        (a_gap, TOPIC),
    ],
)
def test_a_planted_fault_is_found(plant: Callable[[History], None], says: str) -> None:
    history = History(2)
    plant(history)
    with pytest.raises(AssertionError, match=says):
        history.check()


async def test_a_goodbye_has_arrived_when_it_is_durable(tmp_path: Path) -> None:
    """Else a run may stop its broker before that, whose client then has a will that nobody is there to be given."""
    url, key = f"sqlite:///{tmp_path}/broker.db", DeviceKey("c/holder", "holder")
    async with running(url) as broker:
        holder = await broker.durable("holder", 5, will=Will("chat/1", b"gone", 1, False, {}))
        with pytest.raises(AssertionError, match="holder has no will any more"):
            await goodbye_arrives(url, key, 0)
        await holder.leave()
        await goodbye_arrives(url, key)
