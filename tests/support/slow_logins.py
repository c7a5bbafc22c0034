"""An auth plugin that blocks, and checks a password only when the test lets it."""

from __future__ import annotations

import os
import sys
import threading

from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session


class Gated(BaseAuthPlugin):
    """The password is the user name. ``seen`` has (user name, password) of every check that began, in order."""

    blocking = True
    remember = True

    def __init__(self, context: object) -> None:
        super().__init__(context)
        self.seen: list[tuple[str, str]] = []
        self.priorities: list[int] = []
        """The niceness of the thread of each, where the system knows of such."""
        self.threads: list[str] = []
        """The name of the thread of each."""
        self.gate = threading.Semaphore(0)

    def let(self, count: int = 1) -> None:
        self.gate.release(count)

    async def authenticate(self, *, session: Session) -> bool | None:
        self.seen.append((session.username or "", session.password or ""))
        self.priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) if sys.platform == "linux" else 0)
        self.threads.append(threading.current_thread().name)
        self.gate.acquire(timeout=20)
        return bool(session.username == session.password)
