"""The messages whose senders wait for receipts, and what they are to be told. No I/O.

- A message that went to users' inboxes is *counted*: each user that is far enough is taken off the list. One that went to a
  channel is *recounted*: who reads it is known to storage alone.
- A sender is told of the first user, of the last one, and in between at most once for each look.
- What waits is bounded: `MOST` messages, `MOST_USERS` users. The oldest message makes room; its sender can ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.ledger import Counts, State
from plugins.receipts.wanted import key_of
from plugins.timelines.messages import hex_id
from storage.records import Message

MOST = 10_000
MOST_USERS = 200_000
_NAMED = 20
"""Users that one receipt names."""
_STATES = {"delivered": State.DELIVERED, "acknowledged": State.ACKNOWLEDGED}


@dataclass(slots=True)
class Goal:
    """One of the states that the sender asked for. ``waiting``: who has not reached it."""

    waiting: set[str]
    count: int = 0
    reported: int = 0
    new: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Tracked:
    """A message without its payload. ``entries``: where the inboxes have it, by user; empty where it is recounted."""

    message: Message
    entries: Mapping[str, int]
    goals: dict[str, Goal]
    until: int
    key: str | None
    of: int | None
    after: str = ""
    """How far the recount under way is."""
    partly: list[Counts] = field(default_factory=list)
    next_at: int = 0
    """When the next recount begins, ms."""

    @property
    def recounted(self) -> bool:
        """Whether it went to a channel."""
        return not self.entries

    @property
    def done(self) -> bool:
        """Nothing more will be told."""
        return self.of is not None and all(goal.reported >= self.of for goal in self.goals.values())


Event = tuple[str, dict[str, Any]]
"""A user, and what its devices are told."""


class Tracker:
    """See the module."""

    def __init__(self, most: int = MOST, most_users: int = MOST_USERS) -> None:
        self._most = most
        self._most_users = most_users
        self._tracked: dict[int, Tracked] = {}
        self._of_user: dict[str, dict[int, Tracked]] = {}
        """By user, in the order in which they are looked at next."""
        self._users = 0

    def __len__(self) -> int:
        return len(self._tracked)

    def add(self, message: Message, levels: Sequence[str], entries: Mapping[str, int], *, channel: bool, until: int) -> Event:
        """Track a message that is stored; what its sender is told of that at once. ``until`` is a time in ms."""
        others = {user: seq for user, seq in entries.items() if user != message.user}
        bare = Message(
            message.id, message.topic, message.user, message.device, message.time, message.qos, b"",
            expires=message.expires, seq=message.seq,
        )  # fmt: skip
        goals = {level: Goal(set() if channel else set(others)) for level in levels}
        tracked = Tracked(bare, {} if channel else others, goals, until, key_of(message), None if channel else len(others))
        if not tracked.done:
            self._tracked[message.id] = tracked
            self._users += len(tracked.entries)
            for user in tracked.entries:
                self._of_user.setdefault(user, {})[message.id] = tracked
            while len(self._tracked) > self._most or (self._users > self._most_users and len(self._tracked) > 1):
                self._forget(next(iter(self._tracked.values())))
        return message.user, self._event(tracked, "stored", tracked.of, [])

    # --- what is to be looked at ---------------------------------------------------------------------------------------

    def take_users(self, limit: int) -> list[str]:
        """The users that were not looked at for the longest time; they go to the end of the row."""
        taken = [user for user, _ in zip(self._of_user, range(limit), strict=False)]
        for user in taken:
            self._of_user[user] = self._of_user.pop(user)
        return taken

    def of(self, user: str) -> list[Tracked]:
        """The messages that wait for a user."""
        return list(self._of_user.get(user, {}).values())

    def to_recount(self, now: int) -> Tracked | None:
        """The message whose recount is to go on, or to begin."""
        due = [one for one in self._tracked.values() if one.recounted and (one.after or one.next_at <= now)]
        return min(due, key=lambda one: (not one.after, one.next_at), default=None)

    # --- what is known -------------------------------------------------------------------------------------------------

    def reached(self, tracked: Tracked, user: str, state: State, *, read: bool) -> None:
        """How far a user is."""
        for level, goal in tracked.goals.items():
            if user in goal.waiting and (read if level == "read" else state >= _STATES[level]):
                goal.waiting.discard(user)
                goal.count += 1
                goal.new.append(user)
        if not any(user in goal.waiting for goal in tracked.goals.values()):
            self._take_off(user, tracked)

    def recounted(self, tracked: Tracked, counts: Counts, after: str, now: int) -> None:
        """A page of a recount, without the sender; ``after`` is empty at its end. The next one comes the later the older the
        message is."""
        tracked.partly.append(counts)
        tracked.after = after
        if after:
            return
        totals = [one.users for one in tracked.partly]
        tracked.partly = []
        tracked.of = sum(users.stored for users in totals)
        for level, goal in tracked.goals.items():
            goal.count = sum(getattr(users, level) for users in totals)
        tracked.next_at = now + max(1000, (now - tracked.message.time) // 10)

    def news(self) -> set[tuple[str, str]]:
        """The users whom `events` has something for, each with a topic that it is of."""
        waiting = self._tracked.values()
        return {
            (one.message.user, one.message.topic)
            for one in waiting
            if any(goal.count != goal.reported for goal in one.goals.values())
        }

    def forget(self, user: str, topic: str) -> None:
        """Tell a user nothing more of a topic."""
        for tracked in list(self._tracked.values()):
            if (tracked.message.user, tracked.message.topic) == (user, topic):
                self._forget(tracked)

    def events(self, now: int) -> list[Event]:
        """What is to be told since the last call. What is done, or waited for too long, is forgotten."""
        due: list[Event] = []
        for tracked in list(self._tracked.values()):
            for level, goal in tracked.goals.items():
                if goal.count != goal.reported:
                    goal.reported = goal.count
                    due.append((tracked.message.user, self._event(tracked, level, goal.count, goal.new[:_NAMED])))
                    goal.new = []
            if tracked.done or tracked.until <= now:
                self._forget(tracked)
        return due

    @staticmethod
    def _event(tracked: Tracked, state: str, count: int | None, users: Iterable[str]) -> dict[str, Any]:
        message = tracked.message
        return {
            "event": "receipt",
            "message": hex_id(message.id),
            "message_id": tracked.key,
            "topic": message.topic,
            "seq": message.seq,
            "state": state,
            "count": count,
            "of": tracked.of,
            "users": list(users),
        }

    def _take_off(self, user: str, tracked: Tracked) -> None:
        waiting = self._of_user.get(user)
        if waiting is not None and waiting.pop(tracked.message.id, None) is not None:
            self._users -= 1
            if not waiting:
                del self._of_user[user]

    def _forget(self, tracked: Tracked) -> None:
        del self._tracked[tracked.message.id]
        for user in tracked.entries:
            self._take_off(user, tracked)
