"""Who is who in the tests that run the broker as a process of its own."""

from __future__ import annotations

from typing import Any

from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin


class NameIsPassword(BaseAuthPlugin):
    """Verifies a user name by a password that equals it; who shows no name, or another password, is refused."""

    async def authenticate(self, *, session: Any) -> bool | None:
        return bool(session.username) and session.password == session.username


class ForbiddenTopics(BaseTopicPlugin):
    """Topics under ``forbidden/`` are nobody's."""

    immediate = True

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Action | None = None) -> bool:
        return topic is not None and not topic.startswith("forbidden/")
