"""What a group says of its messages, for hooks that most of them do not concern."""

from __future__ import annotations

from broker.hooks import Group
from storage.records import Append, DeviceKey, Message, Operation, Release


def append(topic: str, properties: bytes = b"") -> Append:
    return Append(Message(0, topic, "c/a", "a", 0, 1, b"x", properties=properties))


def test_the_messages_that_have_properties() -> None:
    appends = [append("a"), append("b", b"\x01\x01"), append("a"), append("a", b"\x01\x00")]
    assert Group([], appends).with_properties == [appends[1], appends[3]]
    assert Group([], appends[:1]).with_properties == []


def test_the_messages_to_topics_that_begin_so() -> None:
    topics = ["$typing/a", "$typing/a", "a", "$typing", "$typing/b", "a"]
    appends = [append(topic) for topic in topics]
    group = Group([], appends)
    assert group.below("$typing/") == [appends[0], appends[1], appends[4]]
    assert group.below("a") == [appends[2], appends[5]]
    assert group.below("none/") == []


def test_how_many_are_stored() -> None:
    appends = [append("a") for _ in range(4)]
    appends[1].store = False
    appends[2].error = ValueError()
    assert Group([], appends).stored == 2


def test_what_is_no_message() -> None:
    released = Release(DeviceKey("c/a", "a"), 1)
    operations: list[Operation] = [append("a"), released]
    group = Group(operations, [append("a")])
    assert group.added == [released]
    del operations[1]
    assert group.added == [], "as it is now"
