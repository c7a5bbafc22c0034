"""The part of `memory://` that plugins need: who takes part, who has read what, tokens, settings, and the state of jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from storage import rules
from storage.interface import Membership
from storage.memory.rows import MemoryRows
from storage.records import (
    DataEpoch,
    DropSetting,
    DropTokens,
    JobState,
    Join,
    MarkRead,
    SaveJob,
    SaveSetting,
    SaveToken,
    Setting,
    Token,
)
from storage.restored import new_epoch

if TYPE_CHECKING:
    from storage.memory.storage import MemoryStorage


class MemoryState:
    """Implements `storage.interface.Participation`, `Tokens`, `Jobs`, `Settings` and `Rows` for a `MemoryStorage`, which has
    the sequences."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage
        self._joined: dict[str, dict[str, None]] = {}
        self._read: dict[tuple[str, str], int] = {}
        self._tokens: dict[str, Token] = {}
        self._jobs: dict[str, JobState] = {}
        self._settings: dict[tuple[str, str], bytes] = {}
        self._rows = MemoryRows()
        self.row, self.rows, self.parts = self._rows.row, self._rows.rows, self._rows.parts
        self._epoch = new_epoch()
        self.apply: dict[type, Callable[[Any], None]] = {
            Join: self._join,
            MarkRead: self._mark_read,
            SaveToken: self._save_token,
            DropTokens: self._drop_tokens,
            SaveJob: self._save_job,
            SaveSetting: self._save_setting,
            DropSetting: self._drop_setting,
            **self._rows.apply,
        }

    def _join(self, op: Join) -> None:
        for user, topic in op.pairs:
            self._joined.setdefault(user, {})[topic] = None

    def _mark_read(self, op: MarkRead) -> None:
        key = (op.user, op.topic)
        op.last = self._storage.bounds(op.topic)[1]
        op.position = self._read[key] = rules.read_position(op, self._read.get(key, 0), op.last)

    def _save_token(self, op: SaveToken) -> None:
        self._tokens[op.token.id] = op.token

    def _drop_tokens(self, op: DropTokens) -> None:
        for token_id in op.ids:
            self._tokens.pop(token_id, None)

    def _save_job(self, op: SaveJob) -> None:
        self._jobs[op.job.name] = op.job

    def _save_setting(self, op: SaveSetting) -> None:
        rules.refuse_large_setting(op)
        self._settings[op.kind, op.key] = op.value

    def _drop_setting(self, op: DropSetting) -> None:
        self._settings.pop((op.kind, op.key), None)

    async def settings(self, kind: str) -> list[Setting]:
        """See `storage.interface.Settings`."""
        found = [Setting(*names, value) for names, value in self._settings.items() if not kind or names[0] == kind]
        return sorted(found, key=lambda setting: (setting.kind.encode(), setting.key.encode()))

    async def data_epoch(self) -> DataEpoch:
        """See `storage.interface.Epochs`."""
        return self._epoch

    async def jobs(self) -> list[JobState]:
        """See `storage.interface.Jobs`."""
        return [self._jobs[name] for name in sorted(self._jobs)]

    async def memberships(self, user: str, after: str = "", limit: int = 100) -> list[Membership]:
        """See `storage.interface.Participation`."""
        start = after.encode()
        names = sorted((topic for topic in self._joined.get(user, ()) if topic.encode() > start), key=str.encode)
        return [Membership(name, *self._storage.bounds(name), self._read.get((user, name), 0)) for name in names[:limit]]

    async def takes_part(self, user: str, topic: str) -> bool:
        """See `storage.interface.Participation`."""
        return topic in self._joined.get(user, ())

    async def read_position(self, user: str, topic: str) -> int:
        """See `storage.interface.Participation`."""
        return self._read.get((user, topic), 0)

    async def participants(self, topic: str, after: str = "", limit: int = 1000) -> list[str]:
        """See `storage.interface.Recipients`."""
        start = after.encode()
        found = (user for user, topics in self._joined.items() if topic in topics and user.encode() > start)
        return sorted(found, key=str.encode)[:limit]

    async def read_positions(self, topic: str, users: Sequence[str]) -> list[int]:
        """See `storage.interface.Recipients`."""
        return [self._read.get((user, topic), 0) for user in users]

    async def expired_between(self, topic: str, after: int, now: int) -> int:
        """See `storage.interface.Participation`."""
        return sum(1 for message in self._storage.kept(topic, after) if message.expired(now))

    async def sent_between(self, topic: str, user: str, after: int, now: int) -> int:
        """See `storage.interface.Participation`."""
        return sum(1 for m in self._storage.kept(topic, after) if m.user == user and not m.expired(now))

    async def token(self, digest: str) -> Token | None:
        """See `storage.interface.Tokens`."""
        return next((token for token in self._tokens.values() if token.digest == digest), None)

    async def tokens(self, user: str) -> list[Token]:
        """See `storage.interface.Tokens`."""
        return rules.by_creation(token for token in self._tokens.values() if not user or token.user == user)
