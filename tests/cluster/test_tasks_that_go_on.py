"""What a node does all the time goes on after a fault of our own in it, and says so: nobody else would do it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.cluster import cluster
from tests.support.wire import TIMEOUT


class FailsOnce:
    """Stands before a method: the first call fails, and the next one tells that there was one."""

    def __init__(self, owner: Any, method: str) -> None:
        self._real = getattr(owner, method)
        self._failed = False
        self.again = asyncio.Event()
        setattr(owner, method, self)

    def __call__(self, *args: Any) -> Any:
        if self._failed:
            self.again.set()
            return self._real(*args)
        self._failed = True
        raise ZeroDivisionError("in our own code")


async def test_a_fault_of_our_own_ends_no_task_that_nobody_else_would_take_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The beats, and the look at the others; following the routes where no group does, and trimming them; looking for groups of
    shared subscriptions that nobody has; ending sessions and publishing wills in time."""
    for constant in ("cluster.shared_groups._LOOKS", "sessions.deadlines._AMONG_OTHERS", "sessions.deadlines._AFTER_BUG"):
        monkeypatch.setattr(f"broker.{constant}", 0.01)
    async with cluster(1, lease=0.2, errors=True) as made:
        server = made.nodes[0].server
        assert server._cluster is not None
        parts = server._cluster
        faults = {
            "a beat failed": FailsOnce(parts.heartbeats, "_beat"),
            "following the routes failed": FailsOnce(parts.routes, "refresh"),
            "trimming the routes failed": FailsOnce(parts.routes, "trim"),
            "looking for groups that nobody has failed": FailsOnce(parts.groups, "_look_for_unused"),
            "looking at the deadlines of sessions failed": FailsOnce(server.sessions.deadlines, "end_due"),
        }
        async with asyncio.timeout(TIMEOUT):
            for fault in faults.values():
                await fault.again.wait()
        assert faults.keys() <= {record.message for record in caplog.records if record.exc_info}
