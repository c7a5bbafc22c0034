"""The same on uvloop, whose transports are asyncio's in all but name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.listeners.conftest import TIMEOUT, start
from tests.support.certificates import Certificates

uvloop = pytest.importorskip("uvloop")


def run(main: Any) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(main, TIMEOUT))


def test_tcp_and_the_limit() -> None:
    async def main() -> None:
        server = await start({"max_connections": 1})
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"hello")
        assert await reader.readexactly(7) == b"<hello>"
        refused, other = await asyncio.open_connection(*server.address)
        assert await refused.read() == b""
        other.close()
        await server.listeners.close()
        assert server.echoes[0].events[-1] == "lost"
        writer.close()

    run(main())


def test_tls(certificates: Certificates) -> None:
    async def main() -> None:
        tls = {"certfile": str(certificates.server), "keyfile": str(certificates.server_key), "cafile": str(certificates.ca)}
        server = await start({"tls": tls})
        context = certificates.client(with_certificate=True)
        reader, writer = await asyncio.open_connection(*server.address, ssl=context, server_hostname="localhost")
        writer.write(b"close")
        assert await reader.read() == b"bye"
        writer.close()
        echo = await server.echo()
        await echo.lost.wait()
        assert echo.transport.get_extra_info("ssl_object").getpeercert()["subject"]
        await server.listeners.close()

    run(main())


def test_websocket() -> None:
    async def main() -> None:
        server = await start({"type": "ws"})
        host, port = server.address
        async with connect(f"ws://{host}:{port}/mqtt", subprotocols=[Subprotocol("mqtt")]) as client:
            await client.send(b"hello")
            assert await client.recv() == b"<hello>"
            await client.send(b"close")
            assert await client.recv() == b"bye"
        await (await server.echo()).lost.wait()
        await server.listeners.close()

    run(main())
