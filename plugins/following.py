"""Plugins that follow all that is stored and tell others of it, such as webhooks and bridges: on one node of those there are.

Kept true: who follows has the lease of its kind; another node goes on from the stored places when that one ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from broker.amqtt import Services
from broker.hooks import Group, GroupPlugin
from plugins.metrics import Counted, add_metrics
from plugins.tail_place import TailPlace
from storage.ending import end

log = logging.getLogger("tideline.following")

May = Callable[[], Awaitable[bool]]
"""Whether it is this node's turn. Raises `StorageError`."""


class Section(Protocol):
    """What the configuration says of one who is told."""

    name: str


class Runner(Protocol):
    """Tells one of them."""

    place: TailPlace

    def state(self) -> dict[str, Any]:
        """For the operator."""

    async def run(self) -> None:
        """Until it is cancelled."""


R = TypeVar("R", bound=Runner)


def check_names(setting: str, sections: Sequence[Section]) -> None:
    """Raises ValueError where two have one name: a place is kept under each."""
    names = [section.name for section in sections]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{setting}: {', '.join(sorted(twice))}: a name may be given once")


class FollowingPlugin(GroupPlugin, Generic[R]):
    """Runs a `Runner` for each of `sections`, where clients can connect."""

    kind: str
    """One word for one of them, such as ``bridge``."""
    counted: Sequence[Counted] = ()
    """What is counted of each, by attributes of its runner; the first label is its name."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._services = cast(Services, context.server)
        self._runners: list[R] = []
        self._tasks: list[asyncio.Task[None]] = []
        add_metrics(context, self._metrics)

    @property
    def sections(self) -> Sequence[Section]:
        """Those who are told, as configured."""
        raise NotImplementedError

    def runner(self, section: Any, may: May) -> R:
        """What tells one of them."""
        raise NotImplementedError

    async def on_broker_post_start(self) -> None:
        """Begin, where clients can connect."""
        server, lease = self._services, f"{self.kind}s"
        if not server.listening or not self.sections:
            return
        server.answer_nodes(lease, self._answer)
        self._runners = [self.runner(section, partial(server.may, lease)) for section in self.sections]
        for section, runner in zip(self.sections, self._runners, strict=True):
            task = asyncio.create_task(runner.run(), name=f"{self.kind} {section.name}")
            task.add_done_callback(ended)
            self._tasks.append(task)

    def after_ack(self, group: Group) -> None:
        """Wake them; they read storage themselves, so that a group that is missed here misses nothing."""
        if group.appends:
            for runner in self._runners:
                runner.place.news.set()

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is under way: who goes on does it again. May be called twice."""
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        self._runners = []

    # --- what the operator asks ----------------------------------------------------------------------------------------

    async def anywhere(self) -> list[dict[str, Any]] | None:
        """The state of each on the node that runs them; None where none does now."""
        found = self._answer({}) if self.sections else {"states": []}
        if found is None:
            found = await self._services.ask_nodes(f"{self.kind}s", {})
        return None if found is None else list(found["states"])

    def _answer(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if not any(runner.place.running for runner in self._runners):
            return None
        return {"states": [runner.state() for runner in self._runners]}

    def _metrics(self) -> Iterator[Metric]:
        running = [(s.name, r) for s, r in zip(self.sections, self._runners, strict=False) if r.place.running]
        if not running:
            return
        help = "Age of the oldest stored message that was read and is not dealt with; 0 where there is none."
        lag = GaugeMetricFamily(f"tideline_{self.kind}_lag_seconds", help, labels=["name"])
        for name, runner in running:
            lag.add_metric([name], runner.place.lag)
        yield lag
        for counted in self.counted:
            family = CounterMetricFamily(counted.name, counted.help, labels=counted.labels)
            for name, runner in running:
                for values, attribute in counted.series:
                    family.add_metric([name, *values], getattr(runner, attribute))
            yield family


def ended(task: asyncio.Task[None]) -> None:
    """None ends by itself: this is our bug, and must not be silent."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s has ended: internal error", task.get_name(), exc_info=error)
