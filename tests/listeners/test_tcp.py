"""TCP and TLS listeners."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from broker.clock import Wheel
from broker.config.settings import Listener
from broker.errors import StartError
from broker.net.listeners import Listeners
from tests.support.certificates import Certificates

WAIT = 30


async def exchange(address: tuple[str, int], data: bytes, size: int, **options: Any) -> bytes:
    reader, writer = await asyncio.open_connection(*address, **options)
    writer.write(data)
    async with asyncio.timeout(WAIT):
        answer = await reader.readexactly(size)
    writer.close()
    return answer


class TestTcp:
    async def test_data_goes_both_ways(self, running: Callable[..., Any]) -> None:
        server = await running({})
        assert await exchange(server.address, b"hello", 7) == b"<hello>"
        echo = await server.echo()
        await asyncio.wait_for(echo.lost.wait(), WAIT)
        assert (echo.events[0], echo.events[-1]) == ("made", "lost")
        assert echo.listener == "l0"
        assert server.listeners.connections == 0

    async def test_after_some_the_others_wait_in_the_kernel_s_queue(self, running: Callable[..., Any]) -> None:
        server = await running({}, pause=lambda: 3600.0)
        clients = [socket.create_connection(server.address) for _ in range(3)]
        await server.echo(1)
        clients[2].send(b"x")
        for client in clients[:2]:
            client.send(b"x")
        while not all(echo.got for echo in server.echoes):
            await asyncio.sleep(0)  # not a wait: one round
        assert len(server.echoes) == 2
        for client in clients:
            client.close()

    async def test_several_listeners_at_once(self, running: Callable[..., Any]) -> None:
        server = await running({"name": "a"}, {"name": "b"})
        assert set(server.addresses) == {"a", "b"}
        for name, (address,) in server.addresses.items():
            await exchange(address, b"x", 3)
            assert server.echoes[-1].listener == name

    @pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
    async def test_ipv6(self, running: Callable[..., Any]) -> None:
        server = await running({"bind": "[::1]:0"})
        assert server.address[0] == "::1"
        assert await exchange(server.address, b"x", 3) == b"<x>"

    async def test_nodelay_is_set(self, running: Callable[..., Any]) -> None:
        server = await running({})
        _, writer = await asyncio.open_connection(*server.address)
        echo = await server.echo()
        assert echo.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert echo.transport.get_extra_info("peername")[:2] == writer.get_extra_info("sockname")[:2]
        writer.close()

    async def test_over_the_limit_a_client_is_closed_at_once(
        self, running: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        server = await running({"max_connections": 2})
        kept = [await asyncio.open_connection(*server.address) for _ in range(2)]
        await server.echo(1)
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*server.address)
            async with asyncio.timeout(WAIT):
                assert await reader.read() == b""
            writer.close()
        assert server.counters.connections_refused == 5
        assert server.counters.connections_total == 2
        assert len(server.echoes) == 2
        assert caplog.text.count("max_connections 2 are open") == 1
        kept[0][1].close()
        await asyncio.wait_for(server.echoes[0].lost.wait(), WAIT)
        assert await exchange(server.address, b"x", 3) == b"<x>"
        kept[1][1].close()

    async def test_after_stop_accepting_open_connections_go_on(self, running: Callable[..., Any]) -> None:
        server = await running({})
        reader, writer = await asyncio.open_connection(*server.address)
        await server.echo()
        server.listeners.stop_accepting()
        with pytest.raises(OSError):
            await asyncio.open_connection(*server.address)
        writer.write(b"x")
        assert await asyncio.wait_for(reader.readexactly(3), WAIT) == b"<x>"
        await server.listeners.close()
        assert server.echoes[0].events[-1] == "lost"
        assert await asyncio.wait_for(reader.read(), WAIT) == b""
        writer.close()

    async def test_a_port_can_be_had_again_at_once(self, running: Callable[..., Any]) -> None:
        server = await running({})
        await exchange(server.address, b"close", 3)
        await server.listeners.close()
        again = await running({"bind": f"127.0.0.1:{server.address[1]}"})
        assert await exchange(again.address, b"x", 3) == b"<x>"


class TestBindErrors:
    async def fail(self, **values: object) -> str:
        listeners = Listeners(max_packet_size=1024, connect_timeout=1, clock=Wheel(asyncio.get_running_loop()))
        listener = Listener.model_validate({"name": "mine", **values})
        with pytest.raises(StartError) as caught:
            await listeners.open([listener], lambda name, peer, user: pytest.fail("made"))
        return str(caught.value)

    async def test_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            told = await self.fail(bind=f"127.0.0.1:{port}")
        assert told.startswith(f"listener mine: cannot listen on 127.0.0.1:{port}: address already in use; stop what")

    async def test_not_of_this_machine(self) -> None:
        told = await self.fail(bind="192.0.2.1:0")
        assert "this machine does not have that address" in told

    async def test_not_a_name(self) -> None:
        told = await self.fail(bind="no-such-host.invalid:0")
        assert "use an address of this machine" in told

    async def test_all_or_none(self, running: Callable[..., Any]) -> None:
        listeners = Listeners(max_packet_size=1024, connect_timeout=1, clock=Wheel(asyncio.get_running_loop()))
        with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
            port, address = taken.getsockname()[1], free.getsockname()
            free.close()
            settings = [
                Listener(name="first", bind=f"127.0.0.1:{address[1]}"),
                Listener(name="second", bind=f"127.0.0.1:{port}"),
            ]
            with pytest.raises(StartError, match="listener second"):
                await listeners.open(settings, lambda name, peer, user: pytest.fail("made"))
        with pytest.raises(OSError):
            await asyncio.open_connection(*address)


class TestTls:
    def settings(self, certificates: Certificates, **more: Any) -> Any:
        return {"tls": {"certfile": str(certificates.server), "keyfile": str(certificates.server_key), **more}}

    async def test_data_goes_both_ways(self, running: Callable[..., Any], certificates: Certificates) -> None:
        server = await running(self.settings(certificates))
        answer = await exchange(server.address, b"hello", 7, ssl=certificates.client(), server_hostname="localhost")
        assert answer == b"<hello>"
        echo = await server.echo()
        assert echo.transport.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
    async def test_old_versions_are_refused(self, running: Callable[..., Any], certificates: Certificates) -> None:
        server = await running(self.settings(certificates))
        context = certificates.client()
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await exchange(server.address, b"x", 3, ssl=context, server_hostname="localhost")

    async def test_a_client_certificate_is_asked_for_and_shown(
        self, running: Callable[..., Any], certificates: Certificates
    ) -> None:
        server = await running(self.settings(certificates, cafile=str(certificates.ca)))
        context = certificates.client(with_certificate=True)
        assert await exchange(server.address, b"x", 3, ssl=context, server_hostname="localhost") == b"<x>"
        shown = (await server.echo()).transport.get_extra_info("ssl_object").getpeercert()
        assert ("URI", "spiffe://fleet/device/phone") in shown["subjectAltName"]
        assert await exchange(server.address, b"x", 3, ssl=certificates.client(), server_hostname="localhost") == b"<x>"

    async def test_or_required(self, running: Callable[..., Any], certificates: Certificates) -> None:
        server = await running(self.settings(certificates, cafile=str(certificates.ca), require_client_certificate=True))
        context = certificates.client(with_certificate=True)
        assert await exchange(server.address, b"x", 3, ssl=context, server_hostname="localhost") == b"<x>"
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await exchange(server.address, b"x", 3, ssl=certificates.client(), server_hostname="localhost")
        assert len(server.echoes) == 1

    async def test_a_handshake_that_never_ends_is_ended(self, running: Callable[..., Any], certificates: Certificates) -> None:
        server = await running(self.settings(certificates), connect_timeout=0.2)
        reader, writer = await asyncio.open_connection(*server.address)
        async with asyncio.timeout(WAIT):
            assert await reader.read() == b""
        writer.close()
        assert not server.echoes

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"certfile": "/no/such.crt"}, "tls.certfile /no/such.crt: no such file or directory"),
            ({"keyfile": "/no/such.key"}, "tls.keyfile /no/such.key: no such file or directory"),
            ({"cafile": "/no/such.crt"}, "tls.cafile /no/such.crt: no such file or directory"),
            ({"keyfile": "{device_key}"}, "the key does not belong to the certificate"),
            ({"keyfile": "{encrypted_key}"}, "is encrypted; give one without a passphrase"),
            ({"certfile": "{server_key}"}, "not a PEM certificate and key"),
            ({"cafile": "{server_key}"}, "not PEM certificates"),
        ],
    )
    async def test_what_is_wrong_with_the_files_is_said(self, certificates: Certificates, change: Any, told: Any) -> None:
        values = self.settings(certificates)["tls"] | {k: v.format(**vars(certificates)) for k, v in change.items()}
        listener = Listener.model_validate({"name": "secure", "bind": "127.0.0.1:0", "tls": values})
        listeners = Listeners(max_packet_size=1024, connect_timeout=1, clock=Wheel(asyncio.get_running_loop()))
        with pytest.raises(StartError) as caught:
            await listeners.open([listener], lambda name, peer, user: pytest.fail("made"))
        assert str(caught.value).startswith("listener secure: tls.")
        assert told in str(caught.value)
