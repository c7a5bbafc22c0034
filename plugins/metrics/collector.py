"""`Metrics`: everything as Prometheus reads it, found out when it asks."""

from __future__ import annotations

import asyncio
import contextlib
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from broker.amqtt import ConnectedDevices, ServerStatus, Services
from broker.config import Expiry
from broker.connection import NodeState
from broker.counters import Counters
from broker.histogram import Histogram
from plugins.metrics.background import InBackground
from plugins.metrics.backlog import Behind, behind
from plugins.metrics.table import COUNTERS, HISTOGRAMS, Counted, Measured
from plugins.search.service import Lag, Search, SearchUnavailable
from storage.errors import StorageError
from storage.interface import HasDisk, Space

Source = Callable[[], Iterable[Metric]]
"""Called on the event loop; must not wait."""


def add_metrics(context: Any, source: Source) -> None:
    """Tell more: for another plugin's ``__init__``."""
    context.shared.setdefault("metrics", []).append(source)


class Taken(NamedTuple):
    """What was found out for one answer."""

    counters: Counters
    status: ServerStatus
    devices: ConnectedDevices
    space: Space | None
    search: Lag | None
    searches: bool
    search_failures: int
    node: NodeState | None
    expiries: list[Expiry]
    behind: Behind | None
    of_plugins: list[Metric]


class Sample(NamedTuple):
    """One number of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class Metrics:
    """The metrics of one node, for whoever asks. One at a time is answered."""

    def __init__(self, server: Services, version: str, sources: Sequence[Source] = (), *, compiled: bool) -> None:
        self._server = server
        self._sources = sources
        core = "compiled" if compiled else "python"
        self._core = _Core({"version": version, "core": core, "python": platform.python_version()})
        self._registry = CollectorRegistry()
        self._registry.register(self._core)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._turn = asyncio.Lock()
        storage = server.storage
        self._backlog: InBackground[Behind] | None = None
        if storage.cluster is None:  # else each node would ask all that there are
            self._backlog = InBackground("how far devices are behind", lambda: behind(storage))

    async def text(self, accept: str) -> tuple[bytes, str]:
        """(body, content type): OpenMetrics where the one that asks prefers it, else Prometheus's text."""
        encode, content_type = choose_encoder(accept)
        async with self._turn:
            self._core.taken = await self._take()
            # In a thread: to count a hundred thousand open files, as the process's metrics do, takes a while.
            return await asyncio.to_thread(encode, self._registry), content_type

    async def samples(self) -> list[Sample]:
        """The same as plain values."""
        async with self._turn:
            self._core.taken = await self._take()
            return await asyncio.to_thread(self._samples)

    def _samples(self) -> list[Sample]:
        every = (one for metric in self._registry.collect() for one in metric.samples)
        return [Sample(one.name, dict(one.labels), float(one.value)) for one in every if math.isfinite(one.value)]

    async def _take(self) -> Taken:
        server = self._server
        storage = server.storage
        space = await asyncio.to_thread(storage.space) if isinstance(storage, HasDisk) else None
        lag, failures, plugin = None, 0, server.plugin(Search)
        if plugin is not None:
            with contextlib.suppress(SearchUnavailable):
                lag, failures = plugin.lag(), plugin.failures()
        try:
            nodes = await asyncio.wait_for(server.cluster(), 1.0)
        except (TimeoutError, StorageError):
            nodes = None  # while the database is away the rest is all the more wanted
        node = next((one for one in nodes or () if one.me), None)
        devices = await server.connected_devices()
        expiries = server.certificates.expiries
        if self._backlog is not None:
            self._backlog.look()
        inboxes = self._backlog.latest if self._backlog is not None else None
        searches = plugin is not None
        more = [metric for source in self._sources for metric in source()]
        return Taken(server.counters, server.status(), devices, space, lag, searches, failures, node, expiries, inboxes, more)

    async def close(self) -> None:
        """Answer no more."""
        if self._backlog is not None:
            await self._backlog.close()


class _Core(Collector):
    """What `taken` says."""

    def __init__(self, about: dict[str, str]) -> None:
        self._about = about
        self.taken: Taken | None = None

    def describe(self) -> Sequence[Metric]:
        """Nothing is looked at when it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        taken = self.taken
        if taken is None:
            return
        yield InfoMetricFamily("tideline_build", "The broker's version, and what it runs on.", self._about)
        yield from (_counter(counted, taken.counters) for counted in COUNTERS)
        yield from (_histogram(measured, taken.counters) for measured in HISTOGRAMS)
        yield from _clients(taken.status, taken.devices)
        if taken.behind is not None:
            yield from _inboxes(taken.behind)
        yield from _health(taken)
        if taken.expiries:
            yield _certificates(taken.expiries)
        yield from taken.of_plugins


def _counter(counted: Counted, counters: Counters) -> Metric:
    family = CounterMetricFamily(counted.name, counted.help, labels=counted.labels)
    for values, attribute in counted.series:
        family.add_metric(values, getattr(counters, attribute))
    return family


def _histogram(measured: Measured, counters: Counters) -> Metric:
    found = getattr(counters, measured.attribute)
    return histogram_of(measured.name, measured.help, found if measured.label else {"": found}, measured.label)


def histogram_of(name: str, help: str, found: Mapping[str, Histogram], label: str = "") -> Metric:
    """Histograms by the value of a label; without one, the only one."""
    family = HistogramMetricFamily(name, help, labels=[label] if label else [])
    for value, histogram in found.items():
        family.add_metric([value] if label else [], _buckets(histogram), histogram.total)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """(upper bound, how many were not above it)."""
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        below += count
        buckets.append((bound, below))
    return buckets


def _certificates(expiries: list[Expiry]) -> Metric:
    text = "When what is served by TLS expires, or a list of revoked certificates, in seconds since 1970."
    family = GaugeMetricFamily("tideline_certificate_expires_seconds", text, labels=["name", "what"])
    for one in expiries:
        family.add_metric([one.name, one.what], one.not_after / 1000)
    return family


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"tideline_{name}", help, value)


def _by(name: str, help: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"tideline_{name}", help, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _clients(status: ServerStatus, devices: ConnectedDevices) -> Iterator[Metric]:
    yield _by("connections", "Open connections, by listener.", "listener", devices.listeners)
    sessions = {"connected": status.clients_connected, "disconnected": status.clients_disconnected}
    yield _by("sessions", "Sessions, by whether their client is connected.", "state", sessions)
    yield _gauge("subscriptions", "Subscriptions.", status.subscriptions)
    yield _gauge("shared_subscription_groups", "Groups of shared subscriptions.", status.shared_subscriptions)
    yield _gauge("retained_messages", "Retained messages.", status.retained)
    in_flight = {"received": devices.inflight_in, "sent": devices.inflight_out}
    yield _by("inflight_messages", "QoS 1 and 2 messages not acknowledged to the end.", "direction", in_flight)
    yield _gauge("lag_entries", "Entries that connected devices have not been given yet, all together.", devices.lag)
    yield _gauge("lag_entries_largest", "The same of the device that is furthest behind.", devices.lag_largest)
    yield _gauge("lagging_devices", "Connected devices that have not been given all.", devices.lagging)
    yield _gauge("pending_messages", "Publishes read and not durable yet.", status.pending_messages)
    yield _gauge("pending_bytes", "Bytes that they hold.", status.pending_bytes)


def _inboxes(behind: Behind) -> Iterator[Metric]:
    yield _gauge("lagging_inboxes", "Inboxes of which a device, connected or not, has not acknowledged all.", behind.inboxes)
    yield _gauge("inbox_lag_entries", "Entries that the last of each inbox's devices has not acknowledged.", behind.entries)
    yield _gauge("inbox_lag_entries_largest", "The same of the inbox with the most.", behind.largest)


def _health(taken: Taken) -> Iterator[Metric]:
    status = taken.status
    yield _gauge("ready", "1 where clients should come here, as /readyz says.", not status.not_ready)
    yield _gauge("storage_available", "0 while commits fail and are tried again.", status.storage_available)
    if taken.space is not None:
        yield _gauge("storage_free_bytes", "Free space on the disk of the database.", taken.space.free)
        yield _gauge("storage_low_water_bytes", "Free space below which publishers wait.", taken.space.low_water)
    if taken.searches:
        yield _gauge("search_available", "0 while the search index is not open.", taken.search is not None)
        yield CounterMetricFamily("tideline_search_errors", "Times that the index or the store failed.", taken.search_failures)
    if taken.search is not None:
        yield _gauge("search_lag_messages", "Stored messages that cannot be found yet.", taken.search.messages)
        yield _gauge("search_lag_seconds", "About the age of the oldest of them.", taken.search.milliseconds / 1000)
    if taken.node is not None:
        about = {"number": str(taken.node.number), "name": taken.node.name}
        yield InfoMetricFamily("tideline_node", "Which node of the cluster this is.", about)
        yield _gauge("routes_lag_changes", "Changes of who is subscribed elsewhere, not applied yet.", taken.node.lag)
