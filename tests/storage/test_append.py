"""Appending: numbering, fan-out, time, refusal alone, idempotency, and inbound QoS 2 state."""

from __future__ import annotations

from typing import Any

import pytest

from storage.errors import IdempotencyConflict, MessageRefused
from storage.interface import Storage
from storage.records import Append, DeviceKey, PutRow, Release
from tests.storage.backends import Backend
from tests.storage.conftest import LARGE
from tests.storage.samples import START, Maker, all_retained, collect, fields_of, opened, whole_conversation, whole_inbox

ANN = DeviceKey("u/ann", "phone")


async def test_an_empty_database_has_nothing(storage: Storage) -> None:
    assert await storage.last_id() == 0
    assert await storage.inbox_head("u/ann") == 0
    assert await storage.conversation_bounds("a/b") == (1, 0)
    assert await storage.sequence_at("a/b", START) == 1
    assert await storage.read_inbox("u/ann", 0, 10) == []
    assert await storage.read_conversation("a/b") == []
    assert await storage.read_tail(0, 10) == []
    assert await storage.read_message(1) is None
    assert await storage.device(ANN) is None
    assert await collect(storage.devices()) == []
    assert await all_retained(storage) == []


async def test_an_empty_group_is_nothing(storage: Storage) -> None:
    await storage.commit([])
    assert await storage.last_id() == 0


async def test_every_field_comes_back(storage: Storage, make: Maker) -> None:
    payload = bytes(range(256)) * 3 + b"\0"
    append = make.append(
        "日本/é/$x", ["u/ann"], payload, user="c/anon", device="客", qos=2, expires=START + 9, properties=b"\x26\0\x01a\0\x01b"
    )
    await storage.commit([append])
    message = append.message
    assert (message.seq, message.time, list(append.inbox_seqs)) == (1, START + 1, [1])
    expected = (1, "日本/é/$x", "c/anon", "客", START + 1, 2, payload, False, START + 9, b"\x26\0\x01a\0\x01b", 1)
    assert fields_of(message) == expected
    assert fields_of(await storage.read_message(message.id)) == expected
    assert [fields_of(m) for m in await storage.read_conversation("日本/é/$x")] == [expected]
    assert [fields_of(m) for m in await storage.read_tail(0, 10)] == [expected]
    assert await whole_inbox(storage, "u/ann") == [(1, expected, "")]


@pytest.mark.inside  # the compiled core lets nothing that is not compiled extend its records
async def test_a_subclass_of_an_append_is_one(storage: Storage, make: Maker) -> None:
    """The broker adds to the records what concerns it alone, in classes of its own (`broker.publication`)."""

    class Noted(Append):
        note = "the maker's own"

    first, second = (Noted(make.message(), ["u/ann"], idempotency_key="once", idempotency_until=START * 2) for _ in range(2))
    second.message.payload = first.message.payload
    await storage.commit([first])
    await storage.commit([second])
    assert (first.error, first.message.seq, list(first.inbox_seqs)) == (None, 1, [1])
    assert second.original == (first.message.id, 1)
    assert [m.seq for m in await storage.read_conversation("a/b")] == [1]


async def test_a_key_may_be_over_at_once(storage: Storage, make: Maker) -> None:
    for _ in range(2):
        await storage.commit([make.append(payload=b"same", idempotency_key="once", idempotency_until=START)])
    assert [m.seq for m in await storage.read_conversation("a/b")] == [1, 2]


async def test_an_empty_payload_is_stored_as_one(storage: Storage, make: Maker) -> None:
    await storage.commit([make.append(payload=b"", to=["u/ann"])])
    assert (await storage.read_conversation("a/b"))[0].payload == b""
    entry = (await storage.read_inbox("u/ann", 0, 1))[0]
    assert entry.message is not None
    assert entry.message.payload == b""


async def test_conversations_and_inboxes_are_numbered_without_gaps_over_groups(storage: Storage, make: Maker) -> None:
    topics, users = ["t/0", "t/1", "t/2"], ["u/0", "u/1", "u/2", "u/3"]
    last: dict[str, int] = dict.fromkeys([*topics, *users], 0)
    for size in (1, 2, 3, 5, 16, 17, 64, 100, 257, 300):
        group = [
            make.append(topics[n % 3], [u for i, u in enumerate(users) if (n * 7 + size) % (i + 2) == 0]) for n in range(size)
        ]
        await storage.commit(group)
        for append in group:
            last[append.message.topic] += 1
            assert append.message.seq == last[append.message.topic]
            assert append.error is None
            for user, seq in zip(append.recipients, append.inbox_seqs, strict=True):
                last[user] += 1
                assert seq == last[user]
    for topic in topics:
        assert await storage.conversation_bounds(topic) == (1, last[topic])
        stored = await storage.read_conversation(topic, limit=10_000)
        assert [m.seq for m in stored] == list(range(1, last[topic] + 1))
    for user in users:
        assert await storage.inbox_head(user) == last[user]
        entries = await storage.read_inbox(user, 0, 10_000)
        assert [e.seq for e in entries] == list(range(1, last[user] + 1))
        ids = [e.message.id for e in entries if e.message]
        assert ids == sorted(ids)
        assert len(ids) == last[user]
    assert await storage.last_id() == make.id


async def test_a_message_reaches_many_recipients_once_each(storage: Storage, make: Maker) -> None:
    users = [f"u/{n}" for n in range(500)]
    first, second = make.append(to=users), make.append(to=users[::2])
    await storage.commit([first, second])
    assert list(first.inbox_seqs) == [1] * 500
    assert list(second.inbox_seqs) == [2] * 250
    assert [s for s, _, _ in await whole_inbox(storage, "u/0")] == [1, 2]
    assert [s for s, _, _ in await whole_inbox(storage, "u/499")] == [1]


@LARGE
async def test_very_many_timelines_in_one_group(storage: Storage, make: Maker) -> None:
    group = [make.append(f"t/{n}", [f"u/{n}"]) for n in range(1500)]
    await storage.commit(group)
    await storage.commit([make.append(f"t/{n}", [f"u/{n}"]) for n in range(1500)])
    assert {a.message.seq for a in group} == {1}
    assert await storage.conversation_bounds("t/1499") == (1, 2)
    assert await storage.inbox_head("u/0") == 2


async def test_time_never_goes_backwards_within_a_conversation(storage: Storage, make: Maker) -> None:
    first = make.append(time=START + 500)
    behind = make.append(time=START + 100)
    elsewhere = make.append("other", time=START + 100)
    await storage.commit([first, behind, elsewhere])
    later = make.append(time=START + 400)
    await storage.commit([later])
    assert [a.message.time - START for a in (first, behind, elsewhere, later)] == [500, 500, 100, 500]
    assert [m.time - START for m in await storage.read_conversation("a/b")] == [500, 500, 500]


async def test_time_holds_after_everything_was_pruned(storage: Storage, make: Maker) -> None:
    await storage.commit([make.append(time=START + 500)])
    await storage.prune_conversation("a/b", 100)
    behind = make.append(time=START)
    await storage.commit([behind])
    assert (behind.message.seq, behind.message.time) == (2, START + 500)


async def test_an_unstored_message_leaves_no_trace(storage: Storage, make: Maker) -> None:
    unstored = make.append(store=False)
    await storage.commit([unstored, make.append()])
    assert unstored.message.seq == 0
    assert unstored.error is None
    assert await storage.conversation_bounds("a/b") == (1, 1)
    assert await storage.read_message(unstored.message.id) is None


async def test_an_unstored_message_can_have_no_recipients(storage: Storage, make: Maker) -> None:
    append = make.append(store=False, to=["u/ann"])
    await storage.commit([append, make.append(to=["u/ann"])])
    assert isinstance(append.error, MessageRefused)
    assert await storage.inbox_head("u/ann") == 1


async def test_an_operation_that_already_has_an_error_is_passed_over(storage: Storage, make: Maker) -> None:
    append = make.append(to=["u/ann"], retain=True)
    append.error = MessageRefused("a hook said no")
    await storage.commit([append, make.append()])
    assert append.message.seq == 0
    assert await storage.conversation_bounds("a/b") == (1, 1)
    assert await storage.inbox_head("u/ann") == 0
    assert await all_retained(storage) == []


async def test_an_impossible_message_is_refused_alone(backend: Backend, storage: Storage, make: Maker) -> None:
    bad = make.append(to=["u/ann", "u/bob"], retain=True)
    changed = backend.impossible(bad.message)
    if changed is None:
        pytest.skip(f"{backend.name} stores everything")
    bad.message = changed
    await storage.commit([make.append(to=["u/ann"])])
    good = [make.append(to=["u/ann"]) for _ in range(5)]
    await storage.commit([opened(ANN), *good[:2], bad, *good[2:]])
    assert isinstance(bad.error, MessageRefused)
    assert [a.error for a in good] == [None] * 5
    assert [a.message.seq for a in good] == [2, 3, 4, 5, 6]
    assert [list(a.inbox_seqs) for a in good] == [[2], [3], [4], [5], [6]]
    assert await storage.inbox_head("u/bob") == 0
    assert await all_retained(storage) == []
    assert await storage.device(ANN) is not None
    assert len(await whole_conversation(storage, "a/b")) == 6


# --- inbound QoS 2 -------------------------------------------------------------------------------------------------


async def test_qos_2_receive_state_comes_with_the_message_and_goes_with_its_release(storage: Storage, make: Maker) -> None:
    await storage.commit([opened(ANN)])
    await storage.commit([make.append(qos=2, received=(ANN, 7)), make.append(qos=2, received=(ANN, 65535))])
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == {7, 65535}
    await storage.commit([Release(ANN, 7), Release(ANN, 99), make.append(qos=2, received=(ANN, 8)), Release(ANN, 8)])
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == {65535}


async def test_a_packet_id_can_be_used_again_within_a_group(storage: Storage, make: Maker) -> None:
    await storage.commit([opened(ANN), make.append(received=(ANN, 1)), Release(ANN, 1), make.append(received=(ANN, 1))])
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == {1}


async def test_receive_state_of_a_device_that_is_not_kept_is_not_kept(storage: Storage, make: Maker) -> None:
    append = make.append(received=(ANN, 1))
    await storage.commit([append, Release(ANN, 2)])
    assert append.message.seq == 1
    assert await storage.device(ANN) is None
    await storage.commit([opened(ANN)])
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == set()


async def test_a_qos_2_message_refused_for_its_key_is_not_remembered_as_received(storage: Storage, make: Maker) -> None:
    """Its packet id is free again (MQTT 5, 4.3.3): remembered, the next message under it would pass for a repeat."""
    await storage.commit([opened(ANN), _keyed(make)])
    conflict = _keyed(make, payload=b"another", received=(ANN, 4))
    await storage.commit([conflict])
    assert isinstance(conflict.error, IdempotencyConflict)
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == set()


async def test_an_unstored_qos_2_message_is_remembered_as_received(storage: Storage, make: Maker) -> None:
    await storage.commit([opened(ANN), make.append(store=False, received=(ANN, 3))])
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == {3}


# --- idempotency ---------------------------------------------------------------------------------------------------


def _keyed(make: Maker, key: str = "k", payload: bytes = b"x", until: int = 1000, **fields: Any) -> Append:
    return make.append(to=["u/ann"], payload=payload, idempotency_key=key, idempotency_until=START + until, **fields)


async def test_a_repeated_key_stores_nothing_and_answers_the_original(storage: Storage, make: Maker) -> None:
    first = _keyed(make)
    await storage.commit([make.append(), first])
    again = _keyed(make)
    await storage.commit([again, make.append()])
    assert (first.original, first.message.seq) == (None, 2)
    assert again.original == (first.message.id, 2)
    assert again.error is None
    assert (again.message.seq, list(again.inbox_seqs)) == (0, [])
    assert await storage.conversation_bounds("a/b") == (1, 3)
    assert await storage.inbox_head("u/ann") == 1


async def test_a_repeated_key_within_one_group(storage: Storage, make: Maker) -> None:
    first, again, conflict, after = _keyed(make), _keyed(make), _keyed(make, payload=b"y"), make.append()
    await storage.commit([first, again, conflict, after])
    assert again.original == (first.message.id, 1)
    assert isinstance(conflict.error, IdempotencyConflict)
    assert after.message.seq == 2
    assert await storage.inbox_head("u/ann") == 1


@pytest.mark.parametrize("change", [{"payload": b"y"}, {"topic": "other"}])
async def test_another_content_under_the_same_key_is_refused(storage: Storage, make: Maker, change: dict[str, Any]) -> None:
    await storage.commit([_keyed(make)])
    conflict = _keyed(make, **change)
    await storage.commit([conflict, make.append()])
    assert isinstance(conflict.error, IdempotencyConflict)
    assert conflict.original is None
    assert await storage.conversation_bounds("a/b") == (1, 2)
    assert await storage.conversation_bounds("other") == (1, 0)


async def test_a_repeat_of_what_the_broker_changed_is_known_by_what_was_sent(storage: Storage, make: Maker) -> None:
    first, again, other = (_keyed(make, payload=payload) for payload in (b"x1", b"x2", b"x3"))
    first.content, again.content, other.content = b"sent".ljust(16), b"sent".ljust(16), b"else".ljust(16)
    await storage.commit([first])
    await storage.commit([again, other])
    assert again.original == (first.message.id, 1)
    assert isinstance(other.error, IdempotencyConflict)


async def test_what_a_plugin_refuses_is_taken_where_it_is_a_repeat(storage: Storage, make: Maker) -> None:
    """And else it is as if it had never come: also its key is free."""
    first = _keyed(make)
    await storage.commit([opened(ANN), first])
    again, within = _keyed(make, received=(ANN, 5)), _keyed(make, "two")
    new, other, twice = _keyed(make, "new", received=(ANN, 6)), _keyed(make, payload=b"y"), _keyed(make, "two")
    late = _keyed(make, time=START + 1000, until=2000)
    for append in (again, new, other, twice, late):
        append.refusal = MessageRefused("by a plugin")
    said = [PutRow("t", "p", f"{one.message.id}", b"", of=one) for one in (again, new, other, twice, late)]
    await storage.commit([again, new, other, within, twice, late, after := make.append(), *said])
    assert (again.error, again.original, again.message.seq) == (None, (first.message.id, 1), 0)
    assert (twice.error, twice.original) == (None, (within.message.id, 2))
    assert isinstance(other.error, IdempotencyConflict)
    for append in (new, late):
        assert append.error is append.refusal
        assert (append.original, append.message.seq, list(append.inbox_seqs)) == (None, 0, [])
    assert after.message.seq == 3
    assert await storage.inbox_head("u/ann") == 2
    assert await storage.rows("t", "p") == []
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == {5}
    taken = _keyed(make, "new", b"another", received=(ANN, 6))
    await storage.commit([taken])
    assert (taken.error, taken.original, taken.message.seq) == (None, None, 4)


async def test_keys_are_scoped_to_the_user(storage: Storage, make: Maker) -> None:
    first, other = _keyed(make), _keyed(make, user="u/bob", payload=b"y")
    await storage.commit([first, other])
    assert (other.error, other.original, other.message.seq) == (None, None, 2)


async def test_a_key_is_forgotten_after_its_time(storage: Storage, make: Maker) -> None:
    await storage.commit([_keyed(make, until=100)])
    within = _keyed(make, time=START + 99)
    await storage.commit([within])
    assert within.original is not None
    after = _keyed(make, time=START + 100, until=200, payload=b"y")
    again = _keyed(make, time=START + 101, until=200, payload=b"y")
    await storage.commit([after])
    await storage.commit([again])
    assert (after.original, after.error, after.message.seq) == (None, None, 2)
    assert again.original == (after.message.id, 2)


async def test_a_repeat_still_remembers_its_packet_id(storage: Storage, make: Maker) -> None:
    await storage.commit([opened(ANN), _keyed(make)])
    await storage.commit([_keyed(make, received=(ANN, 5))])
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == {5}


async def test_a_key_survives_its_message(storage: Storage, make: Maker) -> None:
    first = _keyed(make)
    await storage.commit([first])
    await storage.prune_conversation("a/b", 10)
    again = _keyed(make)
    await storage.commit([again])
    assert again.original == (first.message.id, 1)


async def test_a_key_works_for_an_unstored_message(storage: Storage, make: Maker) -> None:
    first = make.append(store=False, payload=b"x", idempotency_key="k", idempotency_until=START + 1000)
    again = make.append(store=False, payload=b"x", idempotency_key="k", idempotency_until=START + 1000)
    await storage.commit([first])
    await storage.commit([again])
    assert (first.original, again.original) == (None, (first.message.id, 0))
