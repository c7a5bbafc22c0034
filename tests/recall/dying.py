"""A broker that dies while it erases: a plugin that kills its process before a write of a phase that a test names."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from amqtt.broker import BrokerContext
from amqtt.plugins.base import BasePlugin
from pymongo import monitoring

import plugins.recall.eraser as eraser_module
import plugins.recall.erasures as erasures_module
from plugins.recall.eraser import Eraser
from plugins.recall.erasure import DONE, Erasure
from storage.sqlite import SqliteStorage

BEHIND = "behind"
"""The phase of what is written once the erasure is done."""
_WRITES = ("insert", "update", "delete", "findAndModify")
_BEATS = ("nodes", "lease", "leases", "jobs")
"""Collections that are written to all the time, whatever is erased."""


class Dying(BasePlugin[BrokerContext]):
    """A write is a commit or a pruning of SQLite, a command to MongoDB, and the removal of a file."""

    @dataclass
    class Config:
        """Where it dies."""

        phase: str = ""
        """The erasure's; none by default."""
        write: int = 0
        """Before which write of that phase, the first is 1."""

    config: Config

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._phase = ""
        self._writes = 0
        eraser_module.PAGE = 20
        erasures_module._LOOK = 0.05
        step = Eraser.step

        async def watched(eraser: Eraser, erasure: Erasure) -> None:
            self._phase = erasure.phase
            await step(eraser, erasure)
            if erasure.state == DONE:
                self._phase = BEHIND

        Eraser.step = watched  # type: ignore[method-assign, assignment]
        for name in ("commit", "prune_inbox", "prune_conversation"):
            setattr(SqliteStorage, name, self._before(getattr(SqliteStorage, name)))
        monitoring.register(_Commands(self.written))
        sys.addaudithook(self._removed)

    def _before(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*arguments: Any, **named: Any) -> Any:
            self.written()
            return await call(*arguments, **named)

        return counted

    def _removed(self, event: str, about: tuple[Any, ...]) -> None:
        if event == "os.remove" and "/attachments/" in str(about[0]):
            self.written()

    def written(self) -> None:
        """One more write is about to be made."""
        if self._phase and self._phase == self.config.phase:
            self._writes += 1
            if self._writes == self.config.write:
                os.kill(os.getpid(), signal.SIGKILL)


class _Commands(monitoring.CommandListener):
    def __init__(self, written: Callable[[], None]) -> None:
        self._written = written

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in _WRITES and event.command[event.command_name] not in _BEATS:
            self._written()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """It is in the database."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """It is not."""
