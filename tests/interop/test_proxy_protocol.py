"""The PROXY protocol as Debian's haproxy speaks it: in front of plain MQTT, MQTT over TLS and WebSocket."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.interop.programs import Program, needs
from tests.support.broker import ANONYMOUS, running
from tests.support.certificates import Certificates
from tests.support.laws_process import free_port
from tests.support.until import until

pytestmark = needs("haproxy", "Debian's haproxy")
CLIENT = "127.0.0.7"
"""An address of loopback that is not the proxy's."""
CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05phone"
UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
CONFIG = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
"""


def proxied(name: str, front: int, back: int, how: str) -> str:
    """One address of the proxy, and the broker's listener behind it; health checks are PROXY's LOCAL in version 2."""
    return f"listen {name}\n    bind 127.0.0.1:{front}\n    server node 127.0.0.1:{back} {how} check inter 50ms\n"


async def first_bytes(port: int, tls: ssl.SSLContext | None, data: bytes) -> bytes:
    """What is answered to a client at CLIENT; nothing where the proxy is not there yet."""
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(CLIENT, 0), ssl=tls, server_hostname="localhost" if tls else None
        )
    except OSError:
        return b""
    writer.write(data)
    try:
        return await reader.read(4)
    except OSError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
async def test_the_client_keeps_its_address(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="broker")
    certificates = Certificates(tmp_path)
    tls = {"certfile": str(certificates.server), "keyfile": str(certificates.server_key)}
    proxy = {"bind": "127.0.0.1:0", "proxy_protocol": True, "proxy_from": ["127.0.0.1"]}
    listeners: Any = [{"name": "tcp", **proxy}, {"name": "tls", **proxy, "tls": tls}, {"name": "ws", **proxy, "type": "ws"}]
    async with running(listeners=listeners) as broker:
        fronts = {name: free_port() for name in broker.server.addresses}
        parts = [proxied(name, fronts[name], address[1], how) for name, address in broker.server.addresses.items()]
        (tmp_path / "haproxy.cfg").write_text(CONFIG + "".join(parts))
        with Program("haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")):
            assert await until(lambda: first_bytes(fronts["tcp"], None, CONNECT)) == b"\x20\x02\x00\x00"
            assert await until(lambda: first_bytes(fronts["tls"], certificates.client(), CONNECT)) == b"\x20\x02\x00\x00"
            assert await until(lambda: first_bytes(fronts["ws"], None, UPGRADE)) == b"HTTP"
            seen = [line for line in caplog.messages if line.startswith("connected: ")]
            assert seen, "the clients were let in"
            assert all(line.startswith(f"connected: 'phone' at {CLIENT}:") for line in seen)
        assert "PROXY" not in caplog.text, "neither the proxy nor its health checks said anything wrong"


async def test_a_certificate_that_the_proxy_verified_names_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="broker")
    certificates = Certificates(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.server.read_bytes() + certificates.server_key.read_bytes())
    proxy = {"bind": "127.0.0.1:0", "proxy_protocol": True, "proxy_from": ["127.0.0.1"]}
    nobody = {next(iter(ANONYMOUS)): {"allow_anonymous": False}}
    async with running(listeners=[{"name": "tcp", **proxy, "identity": "cn"}], plugins=nobody) as broker:
        front = free_port()
        bind = f"    bind 127.0.0.1:{front} ssl crt {both} ca-file {certificates.ca} verify optional\n"
        server = f"    server node 127.0.0.1:{broker.address[1]} send-proxy-v2-ssl-cn\n"
        (tmp_path / "haproxy.cfg").write_text(f"{CONFIG}\nlisten tls\n{bind}{server}")
        with Program("haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")):
            known, unknown = certificates.client(with_certificate=True), certificates.client()
            assert await until(lambda: first_bytes(front, known, CONNECT)) == b"\x20\x02\x00\x00"
            assert await first_bytes(front, unknown, CONNECT) == b"\x20\x02\x00\x05"
            assert " as 'u/phone'" in caplog.text
