"""/metrics as Prometheus reads it, who may read it, and whether the broker lives and is ready."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from broker.cli.settings import Failure
from broker.cli.workers import _node_binds
from broker.config.settings import Settings
from broker.counters import Counters
from broker.histogram import Histogram
from plugins.http import HttpPlugin
from plugins.http.figures import Latest
from plugins.metrics.table import COUNTERS, ELSEWHERE, HISTOGRAMS
from tests.http.conftest import HTTP, Site, passwords, site, sites
from tests.support.broker import Broker
from tests.support.certificates import Certificates
from tests.support.cluster import cluster
from tests.support.laws_process import free_port
from tests.support.until import until
from tests.webhooks.receiver import SECRET

__all__ = ["passwords", "sites"]

ROOT = Path(__file__).resolve().parents[2]
Sites = Callable[..., AbstractAsyncContextManager[Site]]


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Metric → (type, labels), as docs/metrics.md has them."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(tideline_\w+)` \| (\w+) \|([^|]*)\|", text, flags=re.MULTILINE)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def told(families: Iterable[Metric]) -> dict[str, tuple[str, frozenset[str]]]:
    """The same, as they are exposed."""
    found = {}
    for family in families:
        if family.name.startswith("tideline_"):
            kind = "info" if family.name.endswith("_info") else family.type
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[family.name + ("_total" if kind == "counter" else "")] = (kind, frozenset(labels))
    return found


async def scrape(url: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(f"{url}/metrics", headers=headers, timeout=30)


async def inboxes_told(url: str) -> bool:
    """Whether a look at the inboxes, which the first scrape begins, is done."""
    return "tideline_lagging_inboxes" in (await scrape(url)).text


def values(text: str) -> dict[str, float]:
    """Sample as it is written → value."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def test_what_is_told_is_what_happened_and_what_is_documented(tmp_path: Path) -> None:
    plugins: dict[str, Any] = {"search": {"path": str(tmp_path / "search.db")}, "jobs": {}, **followers()}
    certificates = Certificates(tmp_path)
    tls = {"certfile": str(certificates.server), "keyfile": str(certificates.server_key)}
    listeners: Any = [{"name": "tcp", "bind": "127.0.0.1:0"}, {"name": "tls", "bind": "127.0.0.1:0", "tls": tls}]
    async with site(f"sqlite:///{tmp_path}/t.db", plugins=plugins, listeners=listeners) as made:
        expires = made.server.certificates.expiries[0].not_after
        await traffic(made)
        await until(lambda: inboxes_told(made.url), "the inboxes were looked at")
        await until(
            lambda: followers_told(made.url), "the webhook and the bridge have failed, and what is scheduled is counted"
        )
        text = (await scrape(made.url)).text
        opened = await scrape(made.url, Accept="application/openmetrics-text; version=1.0.0")
    async with cluster(1, plugins=HTTP) as made_cluster:
        plugin = made_cluster.nodes[0].server.api.plugin(HttpPlugin)
        assert plugin is not None
        of_node = (await scrape("http://{}:{}".format(*plugin.address))).text
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert len(list(parse_open(opened.text))) == len(list(parse(text)))  # type: ignore[no-untyped-call]
    assert told(parse(text)) | told(parse(of_node)) == documented()
    found = values(text)
    expected = {
        'tideline_publish_packets_total{direction="received",qos="0"}': 1,
        'tideline_publish_packets_total{direction="received",qos="1"}': 2,
        'tideline_publish_packets_total{direction="received",qos="2"}': 1,
        'tideline_publish_payload_bytes_total{direction="received",qos="1"}': 30,
        'tideline_publish_packets_total{direction="sent",qos="1"}': 3,
        'tideline_publish_payload_bytes_total{direction="sent",qos="0"}': 5,
        "tideline_messages_stored_total": 4,
        "tideline_ack_seconds_count": 3,
        'tideline_ack_seconds_bucket{le="+Inf"}': 3,
        "tideline_delivery_seconds_count": 4,
        "tideline_group_messages_sum": 4,
        'tideline_connections{listener="tcp"}': 2,
        'tideline_sessions{state="connected"}': 2,
        'tideline_inflight_messages{direction="sent"}': 3,
        "tideline_subscriptions": 1,
        'tideline_bridge_connected{name="up"}': 0,
        'tideline_bridge_messages_total{name="up",result="sent"}': 0,
        'tideline_webhook_events_total{name="push",result="delivered"}': 0,
        "tideline_storage_available": 1,
        "tideline_search_available": 1,
        "tideline_storage_low_water_bytes": 64 << 20,
        'tideline_certificate_expires_seconds{name="listener tls",what="certificate"}': expires / 1000,
    }
    assert {name: found[name] for name in expected} == expected
    assert 0 < found["tideline_commit_seconds_sum"] < 60
    assert found["tideline_ack_seconds_sum"] <= found["tideline_delivery_seconds_sum"]
    assert found["tideline_storage_free_bytes"] > 0
    assert found['tideline_hook_seconds_count{plugin="HttpPlugin"}'] > 0


def followers() -> dict[str, Any]:
    """A webhook and a bridge to a port where nobody is, and a rule."""
    nowhere = f"127.0.0.1:{free_port()}"
    hook = {"name": "push", "url": f"http://{nowhere}/", "secrets": [SECRET], "start": "earliest"}
    bridge = {"name": "up", "address": nowhere, "send": [{"filter": "#"}], "start": "earliest"}
    rule = {"name": "again", "topics": ["again"], "republish": "b"}
    return {
        "webhooks": {"hooks": [hook]},
        "bridge": {"bridges": [bridge]},
        "rules": {"rules": [rule]},
        "attachments": {},
        "schedules": {},
    }


async def followers_told(url: str) -> bool:
    """Whether both have something that nobody takes."""
    found = values((await scrape(url)).text)
    lags = [
        found.get(name, 0) for name in ('tideline_webhook_lag_seconds{name="push"}', 'tideline_bridge_lag_seconds{name="up"}')
    ]
    return all(lags) and "tideline_schedules_pending" in found and found['tideline_webhook_failures_total{name="push"}'] > 0


async def traffic(broker: Broker) -> None:
    """Messages of each QoS to a device that takes QoS 1, and acknowledges none."""
    device = await broker.durable("device")
    await device.subscribe("a", options=1)
    publisher = await broker.client("publisher")
    for payload, qos in ((b"zero!", 0), (b"x" * 10, 1), (b"y" * 20, 1), (b"z", 2)):
        await publisher.publish("a", payload, qos)
    for _ in range(4):
        await device.message(finish=False)


def test_every_counter_is_told() -> None:
    """And nothing twice. A new counter goes into plugins/metrics/table.py, and into docs/metrics.md."""
    counters = Counters()
    fields = {field.name: getattr(counters, field.name) for field in dataclasses.fields(Counters)}
    counted = [attribute for metric in COUNTERS for _, attribute in metric.series]
    whole = {name for name, value in fields.items() if isinstance(value, int)}
    assert {*counted, *ELSEWHERE} - {"messages_sent"} == whole
    assert len(set(counted)) == len(counted)
    assert {measured.attribute for measured in HISTOGRAMS} == set(fields) - whole


def test_a_histogram_counts_what_is_not_above_each_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value, times in ((0.5, 1), (1.0, 2), (1.5, 3), (9.0, 4)):
        histogram.observe(value, times)
    assert (histogram.counts, histogram.count, histogram.total) == ([3, 3, 4], 10, 0.5 + 2 + 4.5 + 36)


async def test_lag_is_what_a_device_was_not_given(tmp_path: Path) -> None:
    async with site(plugins={}, mqtt={"inflight_window": 2}) as made:
        device = await made.durable("device")
        await device.subscribe("a", options=1)
        publisher = await made.client("publisher")
        for _ in range(5):
            await publisher.publish("a")
        await until(lambda: made.server.counters.publish_sent_1 == 2)
        found = values((await scrape(made.url)).text)
        names = ("tideline_lag_entries", "tideline_lag_entries_largest", "tideline_lagging_devices")
        assert [found[name] for name in names] == [3, 3, 1]


async def test_devices_that_are_away_lag_too(tmp_path: Path) -> None:
    """By inbox: as far as the last of its devices."""
    async with site(f"sqlite:///{tmp_path}/t.db", plugins={}) as made:
        publisher = await made.client("publisher")
        for name, count in (("a", 2), ("b", 3), ("c", 0)):
            device = await made.durable(name)
            await device.subscribe(name, options=1)
            await made.lose(device, name)
            for _ in range(count):
                await publisher.publish(name)
        assert await until(lambda: inboxes_told(made.url))
        found = values((await scrape(made.url)).text)
        names = ("tideline_lagging_inboxes", "tideline_inbox_lag_entries", "tideline_inbox_lag_entries_largest")
        assert [found[name] for name in names] == [2, 5, 3]


async def test_who_may_read_it(sites: Sites, tmp_path: Path) -> None:
    token = "prometheus-and-nobody-else"
    operator = tmp_path / "operator.json"

    def http(**options: Any) -> dict[str, Any]:
        return {"http": {**HTTP["http"], **options}}

    async def status(made: Site, **headers: str) -> int:
        return (await scrape(made.url, **headers)).status_code

    async with sites(plugins=http(metrics="operator", metrics_token=token, operator_file=str(operator))) as made:
        secret = re.findall(r'"secret": "([^"]+)"', operator.read_text())[0]
        assert await status(made) == 401
        assert await status(made, Authorization="Bearer wrong") == 401
        assert (await made.caller("alice").get(f"{made.url}/metrics")).status_code == 403
        assert await status(made, Authorization=f"Bearer {token}") == 200
        assert await status(made, Authorization=f"Bearer {secret}") == 200
        assert (await made.caller(headers={"Authorization": f"Bearer {token}"}).get("/devices")).status_code == 401
    async with sites(plugins=http()) as made:
        assert await status(made) == 200, "bound to loopback"
        assert await status(made, Host="evil.example") == 421
    for metrics, expected in (("local", 401), ("open", 200)):
        async with sites(plugins=http(bind="0.0.0.0:0", metrics=metrics)) as made:
            assert await status(made) == expected


async def test_the_probes(sites: Sites) -> None:
    async def ask(made: Site, path: str) -> tuple[int, str]:
        answer = await made.caller().get(made.url + path, headers={"Host": "10.0.0.7:8080"})
        return answer.status_code, answer.text

    async with sites() as made:
        assert await ask(made, "/healthz") == (200, "ok\n")
        assert await ask(made, "/readyz") == (200, "ready\n")


async def test_a_port_of_the_nodes_own(tmp_path: Path) -> None:
    async with site(plugins={"http": {**HTTP["http"], "node_bind": "127.0.0.1:0"}}) as made:
        plugin = made.server.api.plugin(HttpPlugin)
        assert plugin is not None
        assert plugin.node_address != plugin.address
        assert (await scrape("http://{}:{}".format(*plugin.node_address))).status_code == 200


def test_workers_have_ports_in_a_row() -> None:
    def binds(bind: str, count: int) -> list[str]:
        return _node_binds(Settings.model_validate({"plugins": {"http": {"node_bind": bind}}}), count)

    assert binds("", 2) == ["", ""]
    assert binds("[::1]:9464", 2) == ["[::1]:9464", "[::1]:9465"]
    assert binds("127.0.0.1:0", 2) == ["127.0.0.1:0", "127.0.0.1:0"]
    with pytest.raises(Failure, match=r"node_bind 127.0.0.1:65535: 2 workers need as many ports"):
        binds("127.0.0.1:65535", 2)


async def test_the_operator_has_the_same_figures_as_json(sites: Sites) -> None:
    async with site(plugins={}) as made:
        client = await made.client("c")
        await client.publish("a", b"x", qos=1)
        answer = (await made.caller().get("/metrics")).json()
        figures = {(one["name"], tuple(one["labels"].items())): one["value"] for one in answer["figures"]}
        assert figures["tideline_publish_packets_total", (("direction", "received"), ("qos", "1"))] == 1
        text = {sample.name for family in parse((await scrape(made.url)).text) for sample in family.samples}
        assert {name for name, _ in figures} | {name for name in text if "lag" in name} == text  # some are known a little later
    async with sites() as made:
        assert (await made.caller("alice").get("/metrics")).status_code == 403


async def test_many_who_ask_for_the_figures_are_told_the_same_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Latest, "AGE", 3600.0)
    async with site(plugins={}) as made:
        answers = await asyncio.gather(*(made.caller().get("/metrics") for _ in range(5)))
        (first,) = {answer.json()["time"] for answer in answers}
    monkeypatch.setattr(Latest, "AGE", 0.0)
    async with site(plugins={}) as made:
        caller = made.caller()
        first = (await caller.get("/metrics")).json()["time"]

        async def later() -> bool:
            return bool((await caller.get("/metrics")).json()["time"] > first)

        await until(later)
