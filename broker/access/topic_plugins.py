"""What access control asks: topic plugins beyond amqtt's. Apart from it, as that is compiled (setup.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from broker.access.rule_set import Verdict
from broker.access.session_info import SessionInfo

CONVERSATIONS = "conversation"
"""The table of storage that has a part for each conversation with members."""


class AuthPlugins(Protocol):
    """What is asked: `broker.amqtt.plugin_host.Plugins`, or anything alike."""

    @property
    def auth_plugins(self) -> Sequence[Any]: ...

    @property
    def topic_plugins(self) -> Sequence[Any]: ...


@runtime_checkable
class Decider(Protocol):
    """A topic plugin with rules of its own (`plugins.acl`)."""

    @property
    def unused(self) -> bool:
        """Whether it has no rules: it then says yes to everything."""

    def decide(self, info: SessionInfo, action: str, topic: str) -> Verdict:
        """Whether a client may publish, receive, read (history) or search a topic, or subscribe to a filter. Never waits."""


@runtime_checkable
class MembersOnly(Protocol):
    """A topic plugin that says who may do what on topics of its own (`plugins.conversations`). What other plugins say holds
    beside it."""

    def governs(self, topic: str) -> bool:
        """Whether a topic, or a filter, is one of its. Always the same of the same topic: it is remembered."""

    def known(self, user: str, action: str, topic: str) -> bool | None:
        """What it says of a user (key), as it is now, where that can be had without waiting."""

    async def ask(self, user: str, action: str, topic: str) -> bool:
        """The same, in any case. Raises `StorageError`."""


@runtime_checkable
class Hiding(Protocol):
    """A topic plugin that hides the beginning of some of its topics from some (`plugins.conversations`)."""

    def governs(self, topic: str) -> bool:
        """As of `MembersOnly`."""

    async def hidden(self, user: str, topic: str) -> int:
        """The last sequence of a topic of its that a user (key) is not to be given; 0 where there is none. Raises
        `StorageError`."""

    def hidden_now(self, user: str, topic: str) -> int:
        """The same, without waiting, of a user who may receive it as it has just said."""
