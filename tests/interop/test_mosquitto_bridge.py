"""A mosquitto broker (Debian: mosquitto) that bridges to Tideline, as docs/mqtt.md says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.interop.conftest import Site
from tests.interop.programs import Program, needs, ok
from tests.support.laws_process import free_port
from tests.support.until import wait_until

pytestmark = [
    needs("mosquitto", "Debian's mosquitto"),
    needs("mosquitto_pub", "Debian's mosquitto-clients"),
    needs("curl", "Debian's curl"),
]


@pytest.fixture(params=["mqttv311", "mqttv50"])
def bridge(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Site], AbstractContextManager[int]]:
    """Starts a mosquitto that sends ``up/#`` to a site and fetches ``down/#`` from it; tells its port."""

    @contextmanager
    def start(site: Site) -> Iterator[int]:
        port = free_port()
        lines = [
            *(f"listener {port} 127.0.0.1", "allow_anonymous true"),
            *("connection site", f"address 127.0.0.1:{site.port}", f"bridge_protocol_version {request.param}"),
            *("remote_clientid edge", "cleansession false", "restart_timeout 1", "notifications_local_only true"),
            *("topic up/# out 2", "topic down/# in 2"),
        ]
        (tmp_path / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        with Program("mosquitto", "-c", str(tmp_path / "mosquitto.conf")) as program:
            program.line(lambda line: "running" in line)
            yield port

    return start


def published(port: int, topic: str, text: str, *options: str) -> None:
    ok("mosquitto_pub", "-p", str(port), "-q", "2", "-t", topic, "-m", text, *options)


def linked(far: Program, near: int, topic: str) -> None:
    """Wait until what is published at one end comes out at the other: the bridge has subscribed."""

    def through() -> bool:
        published(near, topic, "ping")
        return bool(far.seen("ping"))

    wait_until(through, "the bridge passes messages on")


def test_messages_go_both_ways(
    crashing: AbstractContextManager[Site], bridge: Callable[..., AbstractContextManager[int]]
) -> None:
    with (
        crashing as site,
        bridge(site) as edge,
        Program("mosquitto_sub", "-p", str(site.port), "-q", "2", "-t", "up/#") as cloud,
        Program("mosquitto_sub", "-p", str(edge), "-q", "2", "-t", "down/#") as field,
    ):
        linked(cloud, edge, "up/ping")
        linked(field, site.port, "down/ping")
        published(edge, "up/a", "from the field")
        published(site.port, "down/a", "from the cloud")
        cloud.line("from the field")
        field.line("from the cloud")


def test_what_the_edge_sent_while_the_site_was_away_comes(
    crashing: AbstractContextManager[Site], bridge: Callable[..., AbstractContextManager[int]]
) -> None:
    durable = ("-q", "2", "-i", "cloud", "-c", "-t", "up/#")
    with (
        crashing as site,
        bridge(site) as edge,
        Program("mosquitto_sub", "-p", str(site.port), *durable) as cloud,
    ):
        linked(cloud, edge, "up/ping")
        site.broker.kill()
        for number in range(20):
            published(edge, "up/a", f"kept at the edge {number}")
        site.broker.start()
        got = [cloud.line("kept at the edge") for _ in range(20)]
        assert got == [f"kept at the edge {number}" for number in range(20)]


@pytest.mark.parametrize("bridge", ["mqttv311"], indirect=True)  # in version 5 its session ends with the connection
def test_what_was_published_while_the_bridge_was_away_is_fetched(
    crashing: AbstractContextManager[Site], bridge: Callable[..., AbstractContextManager[int]]
) -> None:
    with crashing as site:
        with (
            bridge(site) as edge,
            Program("mosquitto_sub", "-p", str(edge), "-q", "2", "-t", "down/#") as field,
        ):
            linked(field, site.port, "down/ping")
        for number in range(20):
            published(site.port, "down/a", str(number))
        assert lag(site, "edge") >= 20  # and a ping, where the link went first
        with bridge(site):
            wait_until(lambda: lag(site, "edge") == 0, "the bridge has fetched it all")


def lag(site: Site, device: str) -> int:
    """The entries that a device has not acknowledged."""
    found: int = json.loads(ok("curl", "-s", f"http://localhost:{site.ports['http']}/v1/devices/{device}"))["lag"]
    return found
