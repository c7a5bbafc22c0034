"""Taking the content out of messages: the place stays, the content is gone wherever it was, and the rest is as before."""

from __future__ import annotations

import pytest

from storage.interface import Storage
from storage.messages import recalled_mark
from storage.records import DeviceKey, Message, Subscribe, Subscription
from tests.storage.samples import Maker, all_retained, everything, fields_of, opened, whole_conversation, whole_inbox


def bare(message: Message, by: int) -> object:
    """What is left of a message."""
    left = list(fields_of(message) or ())
    left[6], left[9] = b"", recalled_mark(by)
    return tuple(left)


async def test_what_was_recalled_keeps_its_place_without_content(storage: Storage, make: Maker) -> None:
    """In the conversation, in every inbox, by its id and in the tail; its neighbours are untouched."""
    first, secret, last = make.append("a", ["u/ann", "u/bob"]), make.append("a", ["u/ann"], b"secret"), make.append("a")
    secret.message.properties = b"\x03\x00\x01t"
    await storage.commit([first, secret, last])
    recall = make.append("a", ["u/ann", "u/bob"], b"", recalls=[secret.message.id])
    await storage.commit([recall])
    left, by = bare(secret.message, recall.message.id), recall.message.id
    wanted = [fields_of(first.message), left, fields_of(last.message), fields_of(recall.message)]
    assert await whole_conversation(storage, "a") == wanted
    assert [message for _, message, _ in await whole_inbox(storage, "u/ann")] == [wanted[0], left, wanted[3]]
    assert fields_of(await storage.read_message(secret.message.id)) == left
    assert [fields_of(m) for m in await storage.read_tail(0, 10)] == wanted
    (found,) = await storage.read_messages([secret.message.id])
    assert found.recalled
    assert found.properties == recalled_mark(by)
    assert await storage.conversation_bounds("a") == (1, 4)


async def test_a_retained_message_that_is_recalled_is_retained_no_longer(storage: Storage, make: Maker) -> None:
    """Also for a device whose inbox points to it alone; one that took its place meanwhile stays."""
    secret, other = make.append("a", retain=True), make.append("b", retain=True)
    ann = DeviceKey("u/ann", "phone")
    await storage.commit([secret, other, opened(ann)])
    await storage.commit([Subscribe(ann, 1, [Subscription("#", 1)], retained=[secret.message])])
    newer = make.append("b", retain=True)
    await storage.commit([newer])
    await storage.commit([make.append("a", (), b"", recalls=[secret.message.id])])
    await storage.commit([make.append("b", (), b"", recalls=[other.message.id])])
    assert [fields_of(m) for m in await all_retained(storage)] == [fields_of(newer.message)]
    assert await storage.retained_count() == 1
    ((_, message, _),) = await whole_inbox(storage, "u/ann")
    assert message[6] == b""  # type: ignore[index]


async def test_only_messages_of_its_own_topic_and_only_once(storage: Storage, make: Maker) -> None:
    """Ids that there are not, and of other topics, are passed over; the first recall's mark stays."""
    one, foreign = make.append("a"), make.append("b", retain=True)
    await storage.commit([one, foreign])
    first = make.append("a", (), b"", recalls=[one.message.id, foreign.message.id, 1 << 61])
    await storage.commit([first])
    await storage.commit([make.append("a", (), b"", recalls=[one.message.id])])
    assert fields_of(await storage.read_message(one.message.id)) == bare(one.message, first.message.id)
    assert fields_of(await storage.read_message(foreign.message.id)) == fields_of(foreign.message)
    assert [m.topic for m in await all_retained(storage)] == ["b"]


async def test_within_one_group_and_with_its_answer_lost(storage: Storage, make: Maker) -> None:
    """What comes before in the same group is recalled too, and doing it again changes nothing."""
    secret = make.append("a", ["u/ann"], b"secret", retain=True)
    recall = make.append("a", ["u/ann"], b"", recalls=[secret.message.id])
    await storage.commit([secret, recall])
    before = await everything(storage, ["a"], ["u/ann"])
    await storage.commit([secret, recall])
    assert await everything(storage, ["a"], ["u/ann"]) == before
    assert (await storage.read_messages([secret.message.id]))[0].recalled
    assert await all_retained(storage) == []


@pytest.mark.parametrize("what", ["key", "refused"])
async def test_a_message_that_is_not_stored_recalls_nothing(storage: Storage, make: Maker, what: str) -> None:
    """One that repeats an earlier one, or is refused."""
    kept = make.append("a")
    await storage.commit([kept, make.append("a", (), b"", idempotency_key="k", idempotency_until=1 << 50)])
    late = make.append("a", (), b"", recalls=[kept.message.id], idempotency_key="k", idempotency_until=1 << 50)
    if what == "refused":
        late = make.append("a", (), b"other", recalls=[kept.message.id], idempotency_key="k", idempotency_until=1 << 50)
    await storage.commit([late])
    assert (late.error is None) == (what == "key")
    assert fields_of(await storage.read_message(kept.message.id)) == fields_of(kept.message)
