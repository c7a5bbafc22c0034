"""The plugin as it is, in a process that is killed at a step of a change of membership."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plugins.conversations import ConversationsPlugin
from storage.records import Operation


class Crashing(ConversationsPlugin):
    """Steps are counted from the first change of membership of ``of`` on."""

    @dataclass
    class Config(ConversationsPlugin.Config):
        """What else there is to say."""

        of: str = ""
        """The user at whose membership it dies."""
        step: int = 0
        """Before which step: a write, or bringing the devices to it."""

    config: Config

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._steps = 0
        store, following = self.service.members.store, self._server.following
        write = store.write

        async def counted(operations: Sequence[Operation]) -> None:
            if any(
                self.config.of in (getattr(op, "part", ""), getattr(op, "key", "").rpartition("\x1f")[2]) for op in operations
            ):
                self._count()
            await write(operations)

        store.write = counted  # type: ignore[method-assign]
        for name in ("follow", "unfollow"):
            setattr(following, name, self._before(getattr(following, name)))

    def _before(self, call: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def counted(user: str, *arguments: Any) -> None:
            if user == self.config.of:
                self._count()
            await call(user, *arguments)

        return counted

    def _count(self) -> None:
        self._steps += 1
        if self._steps == self.config.step:
            os.kill(os.getpid(), signal.SIGKILL)
