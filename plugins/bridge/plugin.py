"""The bridges as a plugin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from plugins.bridge.bridge import BridgeRunner
from plugins.bridge.config import Bridge
from plugins.bridge.states import BridgeList
from plugins.following import FollowingPlugin, May, check_names
from plugins.following_routes import states_router
from plugins.http import add_router
from plugins.metrics import BRIDGES


class BridgePlugin(FollowingPlugin[BridgeRunner]):
    """Sends what is stored to other brokers, and stores what is published there."""

    @dataclass
    class Config:
        """Settings under ``plugins: bridge:``."""

        bridges: list[Bridge] = field(default_factory=list)
        """The other brokers, each with a ``name`` and an ``address``."""

        def __post_init__(self) -> None:
            check_names("bridges", self.bridges)

    config: Config
    kind = "bridge"
    counted = BRIDGES

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        add_router(context, states_router(self, BridgeList))

    @property
    def sections(self) -> Sequence[Bridge]:
        return self.config.bridges

    def runner(self, section: Bridge, may: May) -> BridgeRunner:
        return BridgeRunner(self._services, section, may)

    def _metrics(self) -> Iterator[Metric]:
        yield from super()._metrics()
        connected = GaugeMetricFamily("tideline_bridge_connected", "1 while the other broker is connected.", labels=["name"])
        for runner in self._runners:
            if runner.place.running:
                connected.add_metric([runner.bridge.name], runner.connected)
        yield connected
