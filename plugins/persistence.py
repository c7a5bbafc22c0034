"""The plugin that stores: it names the storage, and says what is kept of which topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.config import parse_size
from broker.hooks import Group, GroupPlugin, StoragePlugin
from plugins.kept import keep_as_told
from plugins.policy import Policies, Policy
from storage.errors import StorageUnusable
from storage.factory import open_url
from storage.interface import Storage


class PersistencePlugin(GroupPlugin, StoragePlugin):
    """Stores every message at ``url``, as far as the policies want it."""

    @dataclass
    class Config:
        """Settings under ``plugins: persistence:``."""

        url: str = "sqlite:///data/tideline.db"
        """Where: ``sqlite:///path``, ``mongodb://…/database``, or ``memory://`` for nothing that survives."""
        low_water_bytes: int | str = "64 MiB"
        """Free disk space below which SQLite takes no more messages; publishers wait until there is more again."""
        policies: list[Policy] = field(default_factory=list)
        """What is kept of which topics (`plugins.policy`); without any, everything but ``$`` topics is stored and synced."""

        def __post_init__(self) -> None:
            try:
                size = parse_size(self.low_water_bytes)
            except ValueError:
                size = None
            if not isinstance(size, int) or size < 0:
                raise ValueError(
                    f'low_water_bytes {self.low_water_bytes!r}: must be a size in bytes, such as 65536 or "64 MiB"'
                )
            self.low_water_bytes = size
            try:
                open_url(self.url)  # nothing is opened yet
            except StorageUnusable as error:
                raise ValueError(str(error)) from error

    def __init__(self, context: object) -> None:
        super().__init__(context)
        self._policies = Policies(self.config.policies)

    def storage(self) -> Storage:
        return open_url(self.config.url, low_water_bytes=self.config.low_water_bytes)

    def read_fanout(self) -> Sequence[str]:
        return self._policies.read_fanout

    def read_fanout_of(self, topic: str) -> str:
        policy = self._policies.policy_of(topic)
        return policy.filter if policy is not None and policy.fanout == "read" else ""

    def before_ack(self, group: Group) -> None:
        """Take from each message what its topic's policy does not want kept."""
        keep_as_told(group.appends, self._policies)
