"""What a group does to participation, read positions, bearer tokens, settings and the state of jobs. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from storage import rules
from storage.mongo.documents import pair_key
from storage.mongo.view import View, Write
from storage.records import (
    DropSetting,
    DropTokens,
    JobState,
    Join,
    MarkRead,
    SaveJob,
    SaveSetting,
    SaveToken,
    Token,
)


class Participants:
    """The part of a plan that is about users and conversations; ``last``: a conversation's, at this place in the group."""

    def __init__(self, view: View, last: Callable[[str], int]) -> None:
        self._view = view
        self._last = last
        self._joined: dict[tuple[str, str], None] = {}
        self._positions: dict[tuple[str, str], int] = {}
        self._back: set[tuple[str, str]] = set()
        self._tokens: dict[str, Token | None] = {}
        self._jobs: dict[str, JobState] = {}
        self._settings: dict[tuple[str, str], bytes | None] = {}
        self._marks: list[tuple[MarkRead, int, int]] = []

    def applied(self) -> None:
        """See `storage.mongo.sessions.Sessions.applied`."""
        del self._last

    def join(self, op: Join) -> None:
        """See `storage.records.Join`."""
        self._joined.update(dict.fromkeys(op.pairs))

    def mark_read(self, op: MarkRead) -> None:
        """See `storage.records.MarkRead`."""
        pair = (op.user, op.topic)
        last = self._last(op.topic)
        before = self._positions.get(pair, self._view.positions.get(pair, 0))
        position = self._positions[pair] = rules.read_position(op, before, last)
        if op.back:
            self._back.add(pair)
        self._marks.append((op, position, last))

    def save_token(self, op: SaveToken) -> None:
        """See `storage.records.SaveToken`."""
        self._tokens[op.token.id] = op.token

    def drop_tokens(self, op: DropTokens) -> None:
        """See `storage.records.DropTokens`."""
        self._tokens.update(dict.fromkeys(op.ids))

    def save_job(self, op: SaveJob) -> None:
        """See `storage.records.SaveJob`."""
        self._jobs[op.job.name] = op.job

    def save_setting(self, op: SaveSetting) -> None:
        """See `storage.records.SaveSetting`."""
        rules.refuse_large_setting(op)
        self._settings[op.kind, op.key] = op.value

    def drop_setting(self, op: DropSetting) -> None:
        """See `storage.records.DropSetting`."""
        self._settings[op.kind, op.key] = None

    def setting_writes(self) -> list[Write]:
        """What the group does to settings."""
        return [
            Write("settings", "remove", pair_key(kind, key), {})
            if value is None
            else Write("settings", "set", pair_key(kind, key), {"kind": kind, "name": key, "value": value})
            for (kind, key), value in self._settings.items()
        ]

    def writes(self) -> Iterator[Write]:
        """The writes but those of settings. They may be made in any order."""
        for user, topic in self._joined:
            yield Write("members", "register", pair_key(user, topic), {"user": user, "topic": topic})
        for (user, topic), seq in self._positions.items():
            if seq != self._view.positions.get((user, topic)):
                kind = "set" if (user, topic) in self._back else "raise"  # of two that move it forward, the further one holds
                yield Write("positions", kind, pair_key(user, topic), {"user": user, "topic": topic, "seq": seq})
        for token_id, token in self._tokens.items():
            if token is None:
                yield Write("tokens", "remove", token_id, {})
            else:
                fields = token._asdict()
                del fields["id"]
                yield Write("tokens", "set", token_id, fields)
        for name, job in self._jobs.items():
            fields = job._asdict()
            del fields["name"]
            yield Write("jobs", "set", name, fields)

    def fill(self) -> None:
        """Fill in the results."""
        for op, position, last in self._marks:
            op.position, op.last = position, last
