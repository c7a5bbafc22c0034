"""Scheduled messages as a plugin."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from broker.access import DELAYED
from broker.amqtt import Services, TidelineContext
from broker.hooks import Group, GroupPlugin, Refusal
from broker.publication import Publication
from broker.routing import NOBODY
from plugins.http import add_router
from plugins.metrics import add_metrics
from plugins.recall.records import add_eraser
from plugins.schedules import topic
from plugins.schedules.config import SchedulesConfig
from plugins.schedules.entry import Place
from plugins.schedules.erasing import Erasing
from plugins.schedules.figures import Figures
from plugins.schedules.requests import kinds
from plugins.schedules.routes import make_router
from plugins.schedules.service import Schedules
from plugins.schedules.when import When
from plugins.sync_requests import add_requests
from storage.ending import end
from storage.records import Append

log = logging.getLogger("tideline.schedules")


class SchedulesPlugin(GroupPlugin):
    """Keeps messages until they are due, and publishes them then."""

    @dataclass
    class Config(SchedulesConfig):
        """Settings under ``plugins: schedules:``."""

    config: Config
    context: TidelineContext
    stand_ins: ClassVar = {DELAYED: topic.access}
    """Who may publish to a topic may do so later."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.service = Schedules(cast(Services, self.context.server), self.config)
        self._new: deque[tuple[Publication, Place]] = deque()
        """Taken in groups that are not known to be durable yet."""
        self._task: asyncio.Task[None] | None = None
        self._figures = Figures(cast(Services, self.context.server), self.service.runner)
        add_metrics(context, self._figures.metrics)
        add_router(context, make_router(self.service))
        add_requests(context, kinds(self.service))
        add_eraser(context, "schedules", Erasing(cast(Services, self.context.server), self.service))

    async def on_broker_post_start(self) -> None:
        """Begin, where clients can connect."""
        if cast(Services, self.context.server).listening:
            self.service.started()
            self._task = asyncio.create_task(self.service.runner.run(), name="schedules")
            self._task.add_done_callback(_ended)

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Publish no more; what is under way is finished, or comes after the next start. May be called twice."""
        task, self._task = self._task, None
        await end([task])
        await self._figures.close()
        await self.service.close()

    # --- a group -----------------------------------------------------------------------------------------------------

    def before_ack(self, group: Group) -> Awaitable[None] | None:
        """Take what is published to `$delayed/`; remove the rows of what is published now."""
        self.service.runner.before_ack(group)
        delayed = group.below(DELAYED)
        return self._take_all(group, delayed) if delayed else None

    async def _take_all(self, group: Group, delayed: Sequence[Append]) -> None:
        for append in delayed:
            if append.error is None:
                await self._take(group, cast(Publication, append))

    async def _take(self, group: Group, publication: Publication) -> None:
        """It goes nowhere now, and is acknowledged once it is kept."""
        publication.store = publication.retain = False
        publication.recipients = ()
        publication.matched = NOBODY
        try:
            delayed = topic.parse(publication.message.topic)
            wanted = When(delay=delayed.delay / 1000)
            entry, new = await self.service.keep(publication, delayed.topic, wanted, publication.message.id)
        except Refusal as refusal:
            publication.error = refusal
            return
        if new:
            self.service.taken(entry)
            group.operations += entry.puts()
            self._new.append((publication, entry.place))
        else:
            publication.original = int(entry.id, 16), 0

    def after_ack(self, group: Group) -> None:
        """Whoever publishes is told. Where a group is missed here, a later one tells, or it is found within a second."""
        if self._new:
            done = set(map(id, group.appends))
            last = max((place for place, (publication, _) in enumerate(self._new) if id(publication) in done), default=-1)
            for _ in range(last + 1):
                self.service.kept(self._new.popleft()[1])


def _ended(task: asyncio.Task[None]) -> None:
    """It never ends by itself: this is our bug, and must not be silent."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s has ended: internal error", task.get_name(), exc_info=error)
