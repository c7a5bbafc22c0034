"""Which web pages may connect: a browser sends their origin, and lets any page try."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from broker.config import ConfigError, Origins, load
from plugins.http import HttpPlugin
from tests.http.conftest import site
from tests.support.broker import Broker
from tests.support.broker import running as broker_running
from tests.support.wire import TIMEOUT

LISTED = ["https://app.example", "http://localhost:3000"]
UPGRADE = (
    "GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n"
)


async def upgrade(broker: Broker, *headers: str) -> str:
    """The answer to an upgrade with these headers; ``{port}`` in them is the listener's."""
    lines = "".join(f"{header}\r\n" for header in headers).replace("{port}", str(broker.websocket[1]))
    reader, writer = await asyncio.open_connection(*broker.websocket)
    writer.write((UPGRADE + lines + "\r\n").encode())
    async with asyncio.timeout(TIMEOUT):
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101 "):
            answer += await reader.read()
    writer.close()
    return answer.decode()


@pytest.mark.parametrize(
    ("host", "origin", "taken"),
    [
        ("127.0.0.1:{port}", "", True),  # no browser
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", True),
        ("localhost:{port}", "http://[::1]:{port}", True),
        ("LOCALHOST:{port}", "http://localhost:{port}", True),
        ("localhost:18083", "http://localhost:18083", True),  # a port that leads here
        ("127.0.0.1:{port}", "http://evil.example", False),
        ("127.0.0.1:{port}", "null", False),
        ("127.0.0.1:{port}", "http://localhost:1", False),  # another program's page
        ("evil.example:{port}", "http://evil.example:{port}", False),  # its name leads here (DNS rebinding)
        ("broker.example:{port}", "http://localhost:{port}", False),  # the visitor's own machine
        ("127.0.0.1:{port}", "https://app.example", True),
        ("127.0.0.1:{port}", "https://APP.example:443", True),
        ("127.0.0.1:{port}", "http://app.example", False),
        ("127.0.0.1:{port}", "https://app.example.evil.example", False),
        ("127.0.0.1:{port}", "http://localhost:3000", True),
        ("127.0.0.1:x", "http://127.0.0.1:{port}", False),
    ],
)
async def test_a_websocket(host: str, origin: str, taken: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with broker_running(origins=LISTED) as broker:
        answer = await upgrade(broker, f"Host: {host}", *([f"Origin: {origin}"] if origin else []))
        if taken:
            assert answer.startswith("HTTP/1.1 101 ")
            return
        assert answer.startswith("HTTP/1.1 403 ")
        said = origin.replace("{port}", str(broker.websocket[1]))
        why = f"pages of origin {said!r} may not connect here; origins in config.yaml lists those that may"
        assert why in answer
        assert why in caplog.text
        assert broker.server.counters.handshakes_failed == 1


async def test_two_origins_are_none(caplog: pytest.LogCaptureFixture) -> None:
    async with broker_running(origins=LISTED) as broker:
        answer = await upgrade(broker, "Host: localhost", "Origin: https://app.example", "Origin: http://evil.example")
        assert answer.startswith("HTTP/1.1 400 ")


def test_a_name_that_a_browser_has_seen_our_certificate_for() -> None:
    origins = Origins()
    assert origins.takes("https://broker.example", "broker.example", secure=True)
    assert origins.takes("https://broker.example", "broker.example:443", secure=True)
    assert not origins.takes("https://broker.example", "broker.example", secure=False)
    assert not origins.takes("https://evil.example", "broker.example", secure=True)
    assert not origins.takes("https://broker.example:8443", "broker.example", secure=True)
    origins.ports.add(8443)  # our HTTP API
    assert origins.takes("https://broker.example:8443", "broker.example", secure=True)
    assert Origins("*").takes("null", "x", secure=False)


async def test_the_http_api_answers_pages_that_are_listed(caplog: pytest.LogCaptureFixture) -> None:
    async with site(plugins={}, origins=LISTED) as made:
        http = made.caller()
        page = {"Origin": LISTED[0], "Sec-Fetch-Site": "cross-site"}
        asks = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        }
        preflight = await http.options("/conversations/a/messages", headers={**page, **asks})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == LISTED[0]
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "idempotency-key" in preflight.headers["access-control-allow-headers"].lower()
        posted = await http.post("/conversations/a/messages", json={"payload": "x"}, headers=page)
        assert posted.status_code == 201
        missing = await http.get("/devices/never", headers=page)
        wrong = await http.post("/conversations/a/messages", content=b"x", headers=page)
        assert (missing.status_code, wrong.status_code) == (404, 415)
        for answer in (posted, missing, wrong):  # errors can be read too
            assert answer.headers["access-control-allow-origin"] == LISTED[0]
            assert "Origin" in answer.headers["vary"]
        for other in ("http://app.example", "null"):
            refused = await http.get("/me", headers={"Origin": other})
            assert refused.status_code == 403
            assert f"pages of origin {other!r} may not connect here; origins in config.yaml" in refused.json()["detail"]
            assert f"http: pages of origin {other!r} may not" in caplog.text
            assert "access-control-allow-origin" not in refused.headers
        own = made.server.api.plugin(HttpPlugin)
        assert own is not None
        documentation = f"http://127.0.0.1:{own.address[1]}"  # a page of the API's own server
        assert (await upgrade(made, "Host: 127.0.0.1:{port}", f"Origin: {documentation}")).startswith("HTTP/1.1 101 ")


async def test_a_reload_takes_the_list_over() -> None:
    async with broker_running() as broker:
        page = ("Host: localhost:{port}", "Origin: https://app.example")
        assert (await upgrade(broker, *page)).startswith("HTTP/1.1 403 ")
        changed = broker.server.settings.model_copy(update={"origins": LISTED})
        broker.server.reload.read = lambda: changed
        report = await broker.server.reload()
        assert "origins: 2" in report.done
        assert (await upgrade(broker, *page)).startswith("HTTP/1.1 101 ")


@pytest.mark.parametrize("wrong", ["app.example", "https://app.example/", "https://a@b", "https://app.example:x", ""])
def test_what_is_no_origin_is_refused(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"origins": [wrong]}))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml", {})
    (problem,) = caught.value.problems
    assert problem.startswith(f"origins[0] (line 2): {wrong!r} ")
    assert "origin" in problem or "port" in problem
