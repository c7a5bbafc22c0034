"""What systemd is told of the broker (``Type=notify``): ready, reloading, stopping, and that its event loop still turns.

Without the variable ``NOTIFY_SOCKET``, which systemd sets, all of it is nothing. The watchdog (``WatchdogSec=``) watches the
event loop and nothing else: a broker whose database is away is well, and restarting it would help nobody.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

from sdnotify import SystemdNotifier

SERVES = "serves"

_EARLY = 0.4
"""The part of the watchdog's time after which it is told again: systemd advises half."""


class Supervisor:
    """The notification socket. Nothing that goes wrong there is of consequence to the broker."""

    def __init__(self) -> None:
        self._notifier = SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.setblocking(False)
        self._watchdog: asyncio.Task[None] | None = None
        # Not for processes that the broker starts.
        os.environ.pop("NOTIFY_SOCKET", None)
        seconds, process = (os.environ.pop(name, "") for name in ("WATCHDOG_USEC", "WATCHDOG_PID"))
        mine = not process or process == str(os.getpid())
        self._every = int(seconds) / 1e6 * _EARLY if seconds.isdecimal() and mine else 0.0

    def ready(self, status: str) -> None:
        """It serves, or stands by."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It reads users, rules and certificates again; `ready` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """It ends."""
        self._tell("STOPPING=1", "STATUS=stopping")

    def watch(self) -> None:
        """Say again and again that the running event loop turns, where the service has ``WatchdogSec=``."""
        if self._every and self._watchdog is None:
            self._watchdog = asyncio.create_task(self._turn(), name="watchdog")

    async def close(self) -> None:
        """Watch no longer."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            with suppress(asyncio.CancelledError):
                await self._watchdog
            self._watchdog = None

    async def _turn(self) -> None:
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._every)

    def _tell(self, *lines: str) -> None:
        if self._notifier is not None:
            self._notifier.notify("\n".join(lines))
