"""paho_c_pub and paho_c_sub, Eclipse's C clients (Debian: paho.mqtt.c-examples), over each transport and in both versions."""

from __future__ import annotations

import itertools

import pytest

from tests.interop.conftest import Site
from tests.interop.programs import Program, needs, ok
from tests.support.until import wait_until

pytestmark = needs("paho_c_pub", "Debian's paho.mqtt.c-examples")
WAYS = list(itertools.product(("tcp", "ws", "tls", "wss"), ("311", "5")))


@pytest.fixture(params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest, shared: Site) -> list[str]:
    """The options that choose a listener and a version."""
    transport, version = request.param
    scheme = {"tls": "ssl"}.get(transport, transport)
    path = "/mqtt" if "ws" in transport else ""
    secure = ["--cafile", shared.cafile] if transport in ("tls", "wss") else []
    return ["-c", f"{scheme}://localhost:{shared.ports[transport]}{path}", "-V", version, *secure]


def subscriber(shared: Site, way: list[str], name: str, *options: str) -> Program:
    """A paho_c_sub that listens; it says nothing of its SUBACK, so it is asked until it hears."""
    program = Program("paho_c_sub", f"{name}/#", *way, "-i", f"{name}-sub", "--verbose", *options)
    number = itertools.count()

    def hears() -> bool:
        ok("paho_c_pub", f"{name}/hears", *way, "-i", f"{name}-asks", "-q", "1", "-m", f"ping {next(number)}")
        return any("ping" in line for line in program.seen(""))

    wait_until(hears, "paho_c_sub is subscribed")
    return program


@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_what_is_published_arrives(shared: Site, way: list[str], name: str, qos: str) -> None:
    with subscriber(shared, way, name, "-q", qos) as sub:
        ok("paho_c_pub", f"{name}/a", *way, "-i", f"{name}-pub", "-q", qos, "-m", "grüße 会议")
        assert sub.line(lambda line: f"{name}/a" in line).split()[-2:] == ["grüße", "会议"]


def test_a_retained_message_comes_with_the_subscription(shared: Site, way: list[str], name: str) -> None:
    ok("paho_c_pub", f"{name}/a", *way, "-i", f"{name}-pub", "-q", "1", "-r", "-m", "21.5")
    with Program("paho_c_sub", f"{name}/#", *way, "-i", f"{name}-sub", "--verbose", "-q", "1") as sub:
        assert "21.5" in sub.line(lambda line: f"{name}/a" in line)
