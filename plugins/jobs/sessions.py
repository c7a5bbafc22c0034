"""Ending sessions whose time has passed. The broker's clock ends each at its time; this finds what that clock did not see pass,
where the machine slept, and ends it in the same way."""

from __future__ import annotations

from broker.amqtt import Services
from plugins.jobs.work import Work


class SessionsJob:
    """See the module."""

    name = "sessions"
    about = "ends sessions whose time has passed"

    def __init__(self, server: Services) -> None:
        self._server = server

    async def run(self, work: Work) -> None:
        """Look at every session."""
        work.what = "looking at sessions"
        work.detail["sessions"], work.detail["expired"] = await self._server.expire_sessions()
