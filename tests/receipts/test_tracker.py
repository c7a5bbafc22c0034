"""What the sender of a message is told, and how often."""

from __future__ import annotations

from typing import Any

from broker.ledger import Counts, State
from broker.ledger.counts import Users
from plugins.receipts.tracker import Tracker
from storage.records import Message


def message(number: int = 1) -> Message:
    return Message(number, "chat/a", "u/ann", "phone", 1000, 1, b"hello", seq=number)


def track(tracker: Tracker, *levels: str, users: int = 3, number: int = 1, channel: bool = False) -> dict[str, Any]:
    entries = {f"u/{n}": n + 1 for n in range(users)} | {"u/ann": 9}
    told, event = tracker.add(message(number), levels, entries, channel=channel, until=10_000)
    assert told == "u/ann"
    return event


def reach(tracker: Tracker, user: str, state: State = State.ACKNOWLEDGED, *, read: bool = False) -> None:
    for tracked in tracker.of(user):
        tracker.reached(tracked, user, state, read=read)


def events(tracker: Tracker, now: int = 2000) -> list[tuple[Any, ...]]:
    return [(event["state"], event["count"], event["of"], event["users"]) for _, event in tracker.events(now)]


def test_the_sender_is_told_at_once_what_was_stored_and_is_not_counted_itself() -> None:
    event = track(Tracker(), "delivered")
    assert (event["state"], event["of"], event["message"], event["seq"]) == ("stored", 3, f"{1:016x}", 1)


def test_the_first_user_and_the_last_are_told_and_each_once() -> None:
    tracker = Tracker()
    track(tracker, "acknowledged")
    reach(tracker, "u/0", State.DELIVERED)
    assert events(tracker) == []
    reach(tracker, "u/0")
    assert events(tracker) == [("acknowledged", 1, 3, ["u/0"])]
    assert events(tracker) == []
    reach(tracker, "u/1")
    reach(tracker, "u/2")
    assert events(tracker) == [("acknowledged", 3, 3, ["u/1", "u/2"])]
    assert len(tracker) == 0


def test_each_state_that_was_asked_for_is_counted_by_itself() -> None:
    tracker = Tracker()
    track(tracker, "delivered", "read", users=1)
    reach(tracker, "u/0", State.DELIVERED)
    assert events(tracker) == [("delivered", 1, 1, ["u/0"])]
    reach(tracker, "u/0", State.DELIVERED, read=True)
    assert events(tracker) == [("read", 1, 1, ["u/0"])]
    assert len(tracker) == 0


def test_a_message_that_nobody_else_gets_is_done() -> None:
    tracker = Tracker()
    assert track(tracker, "read", users=0)["of"] == 0
    assert len(tracker) == 0


def test_what_waits_too_long_or_is_too_much_is_forgotten_the_oldest_first() -> None:
    tracker = Tracker(most=2)
    for number in (1, 2, 3):
        track(tracker, "read", number=number)
    assert [tracked.message.id for tracked in tracker.of("u/0")] == [2, 3]
    assert events(tracker, now=10_000) == []
    assert (len(tracker), tracker.take_users(9)) == (0, [])
    bounded = Tracker(most_users=7)
    for number in (1, 2, 3):
        track(bounded, "read", number=number)
    assert [tracked.message.id for tracked in bounded.of("u/0")] == [2, 3]


def test_users_are_looked_at_in_turn() -> None:
    tracker = Tracker()
    track(tracker, "read", users=5)
    assert [tracker.take_users(2) for _ in range(3)] == [["u/0", "u/1"], ["u/2", "u/3"], ["u/4", "u/0"]]


def test_a_channel_is_recounted_in_pages_and_less_often_the_older_it_is() -> None:
    tracker = Tracker()
    assert track(tracker, "acknowledged", users=0, channel=True)["of"] is None
    tracked = tracker.to_recount(2000)
    assert tracked is not None
    tracker.recounted(tracked, Counts(users=Users(stored=500, acknowledged=2)), "next", 2000)
    assert events(tracker) == []
    assert tracker.to_recount(2000) is tracked
    tracker.recounted(tracked, Counts(users=Users(stored=100, acknowledged=3)), "", 2000)
    assert events(tracker) == [("acknowledged", 5, 600, [])]
    assert tracker.to_recount(2999) is None
    tracker.recounted(tracked, Counts(users=Users(stored=600, acknowledged=600)), "", 3000)
    assert events(tracker) == [("acknowledged", 600, 600, [])]
    assert len(tracker) == 0
