"""What the metrics tell of scheduled messages: the node that publishes them does."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from broker.amqtt import Services
from plugins.metrics import SCHEDULES, InBackground, histogram_of
from plugins.schedules.entry import ID, OF
from plugins.schedules.runner import Runner

_PAGE = 10_000
"""Rows that are counted at once: each has some 50 bytes."""


class Figures:
    """Of what a runner publishes."""

    def __init__(self, server: Services, runner: Runner) -> None:
        self._server = server
        self._runner = runner
        self._waiting = InBackground("how many scheduled messages wait", self._count)

    def metrics(self) -> Iterator[Metric]:
        """See `plugins.metrics.collector.Source`."""
        if not self._runner.active:
            return
        self._waiting.look()
        if self._waiting.latest is not None:
            yield GaugeMetricFamily("tideline_schedules_pending", "Messages that wait to be published.", self._waiting.latest)
        counted = CounterMetricFamily(SCHEDULES.name, SCHEDULES.help, labels=SCHEDULES.labels)
        for values, attribute in SCHEDULES.series:
            counted.add_metric(values, getattr(self._runner, attribute))
        yield counted
        help = "From when a scheduled message was due until it was durable."
        yield histogram_of("tideline_schedule_late_seconds", help, {"": self._runner.late})

    async def _count(self) -> int:
        count = 0
        async for users in self._server.storage.parts(OF):
            for user in users:
                after = ""
                while page := await self._server.storage.rows(OF, user, after=after, prefix=ID, limit=_PAGE):
                    count += len(page)
                    after = page[-1].key
        return count

    async def close(self) -> None:
        """Count no more."""
        await self._waiting.close()
