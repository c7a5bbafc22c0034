"""Whoever does not get as far as MQTT is in the log once, with address and reason, and is counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.counters import Counters
from tests.listeners.conftest import Running
from tests.support.broker import running as broker_running
from tests.support.certificates import Certificates
from tests.support.until import until

Start = Callable[..., Any]
MQTT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c"
HTTP = b"GET /wrong?token=s3cret HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def tls_of(certificates: Certificates, **more: Any) -> dict[str, Any]:
    return {"tls": {"certfile": str(certificates.server), "keyfile": str(certificates.server_key), **more}}


async def told(counters: Counters, caplog: pytest.LogCaptureFixture, count: int = 1) -> list[str]:
    """The lines about failed handshakes, once so many were counted."""
    await until(lambda: counters.handshakes_failed == count)
    return [line for line in caplog.messages if line.startswith("listener ") and ": 127.0.0.1:" in line]


def send(address: tuple[str, int], data: bytes) -> str:
    """Write, read to the end, go; the address that we had."""
    with socket.create_connection(address, 10) as client:
        client.sendall(data)
        with contextlib.suppress(ConnectionError):
            while client.recv(1 << 16):
                pass
        return "{}:{}".format(*client.getsockname())


def shake(address: tuple[str, int], context: ssl.SSLContext) -> None:
    """A TLS handshake that fails, at once or (in 1.3) where the first answer is read."""
    with contextlib.suppress(OSError), socket.create_connection(address, 10) as client:
        secure = context.wrap_socket(client, server_hostname="localhost")
        secure.sendall(MQTT)
        assert not secure.recv(1)


@pytest.mark.parametrize(
    ("data", "what"), [(MQTT, "plain MQTT"), (HTTP, "plain HTTP"), (b"\x00\x01\x02\x03\x04", "bytes 00 01 02 03")]
)
async def test_without_tls_to_a_tls_port(
    running: Start, certificates: Certificates, caplog: pytest.LogCaptureFixture, data: bytes, what: str
) -> None:
    server: Running = await running(tls_of(certificates))
    ours = await asyncio.to_thread(send, server.address, data)
    assert await told(server.counters, caplog) == [f"listener l0: {ours}: {what}, where TLS is expected"]


async def test_client_certificates(
    running: Start, certificates: Certificates, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    server: Running = await running(tls_of(certificates, cafile=str(certificates.ca), require_client_certificate=True))
    await asyncio.to_thread(shake, server.address, certificates.client())
    stranger = Certificates(tmp_path)
    context = certificates.client()
    context.load_cert_chain(stranger.device, stranger.device_key)
    await asyncio.to_thread(shake, server.address, context)
    missing, unknown = await told(server.counters, caplog, 2)
    assert missing.endswith(": the client showed no certificate, and this listener requires one")
    assert ": the client's certificate is not accepted: " in unknown


async def test_a_client_that_does_not_trust_us(
    running: Start, certificates: Certificates, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    server: Running = await running(tls_of(certificates))
    await asyncio.to_thread(shake, server.address, Certificates(tmp_path).client())
    (line,) = await told(server.counters, caplog)
    assert ": the client does not " in line


async def test_one_that_takes_too_long_and_one_that_goes(
    running: Start, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    server: Running = await running(tls_of(certificates), connect_timeout=0.3)
    await asyncio.to_thread(send, server.address, b"\x16\x03\x01")
    (late,) = await told(server.counters, caplog)
    assert late.endswith(": the TLS handshake was not completed in time")
    with socket.create_connection(server.address) as client:
        client.sendall(b"\x16\x03\x01")
    _, gone = await told(server.counters, caplog, 2)
    assert gone.endswith(": it left in the middle of the TLS handshake")


async def test_who_only_looks_whether_the_port_is_open_is_no_failure(
    running: Start, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    server: Running = await running(tls_of(certificates))
    socket.create_connection(server.address).close()
    await until(lambda: server.counters.connections_total == 1 and server.listeners.connections == 0)
    await asyncio.to_thread(send, server.address, MQTT)
    assert len(await told(server.counters, caplog)) == 1


async def test_a_flood_is_counted_and_told_once(
    running: Start, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    server: Running = await running(tls_of(certificates))
    for _ in range(50):
        await asyncio.to_thread(send, server.address, MQTT)
    assert len(await told(server.counters, caplog, 50)) == 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET /wrong?token=s3cret HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n", "refused: path '/wrong'; MQTT is at /mqtt"),
        (MQTT + b"\r\n", "plain MQTT, where a WebSocket is expected"),
        (b"\x16\x03\x01\x00\x05hello\r\n", "TLS, where a WebSocket is expected"),
        (b"\r\n\r\n", "bytes 0d 0a 0d 0a, where a WebSocket is expected"),
        (b"G\r\n\r\n", "bytes 47 0d 0a 0d, where a WebSocket is expected"),
        (
            b"GET /mqtt HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"Sec-WebSocket-Protocol: chat\r\n\r\n",
            "refused: invalid subprotocol",
        ),
    ],
)
async def test_a_websocket_that_is_none(running: Start, caplog: pytest.LogCaptureFixture, data: bytes, why: str) -> None:
    server: Running = await running({"type": "ws"})
    ours = await asyncio.to_thread(send, server.address, data)
    (line,) = await told(server.counters, caplog)
    assert line.startswith(f"listener l0: {ours}: ")
    assert why in line
    assert "s3cret" not in line


@pytest.mark.parametrize(("data", "what"), [(None, "TLS"), (HTTP, "plain HTTP")])
async def test_something_else_to_a_plain_port(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, data: bytes | None, what: str
) -> None:
    caplog.set_level(logging.INFO)
    async with broker_running() as broker:
        if data is None:
            await asyncio.to_thread(shake, broker.address, certificates.client())
        else:
            await asyncio.to_thread(send, broker.address, data)
        (line,) = await told(broker.server.counters, caplog)
        assert line.endswith(f": {what}, where MQTT is expected")
        assert "passes the end" not in caplog.text
