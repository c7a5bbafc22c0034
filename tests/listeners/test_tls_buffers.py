"""What the TLS connections of a listener share, and what each client gets for its next one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

from tests.listeners.conftest import TIMEOUT, Running
from tests.listeners.test_handshakes import tls_of
from tests.support.certificates import Certificates

Start = Callable[..., Any]


class Client:
    """A client of a TLS port that decides itself what leaves, and in which pieces."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self._reader = reader
        self.writer = writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")

    @classmethod
    async def begin(cls, server: Running, context: ssl.SSLContext) -> Client:
        return cls(*await asyncio.open_connection(*server.address), context)

    @classmethod
    async def connected(cls, server: Running, context: ssl.SSLContext) -> Client:
        client = await cls.begin(server, context)
        await client.handshake()
        return client

    async def handshake(self) -> None:
        await self.until(self.tls.do_handshake)
        self.send(self.leaving())

    def sealed(self, data: bytes) -> bytes:
        """What goes over the wire for it."""
        self.tls.write(data)
        return self.leaving()

    def leaving(self) -> bytes:
        return self._out.read()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            got += await self.some()
        return got

    async def some(self) -> bytes:
        data: bytes = await self.until(lambda: self.tls.read(1 << 16))
        return data

    async def until(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.send(self.leaving())
                async with asyncio.timeout(TIMEOUT):
                    data = await self._reader.read(1 << 16)
                assert data
                self._in.write(data)


async def heard(server: Running, index: int, data: bytes) -> None:
    """The connection that was made as the index-th has got this."""
    echo = await server.echo(index)
    async with asyncio.timeout(TIMEOUT):
        while echo.got != data:
            await asyncio.sleep(0)


async def test_a_part_of_a_record_is_nobody_else_s(running: Start, certificates: Certificates) -> None:
    server: Running = await running(tls_of(certificates))
    context = certificates.client()
    slow, quick = [await Client.connected(server, context) for _ in range(2)]
    record = slow.sealed(b"in two pieces")
    slow.send(record[:9])
    late = await Client.begin(server, context)  # its handshake is between the pieces, and in pieces itself
    await slow.writer.drain()
    for _ in range(3):
        quick.send(quick.sealed(b"x"))
        assert await quick.read(3) == b"<x>"
    await late.handshake()
    slow.send(record[9:])
    assert await slow.read(15) == b"<in two pieces>"
    late.send(late.sealed(b"late"))
    assert await late.read(6) == b"<late>"
    for client in (slow, quick, late):
        client.writer.close()


async def test_a_record_may_be_cut_anywhere(running: Start, certificates: Certificates) -> None:
    """What comes of it last may be less than what it holds: all of it is heard at once, and not with the next record."""
    server: Running = await running(tls_of(certificates))
    client = await Client.connected(server, certificates.client())
    payload = b"x" * (1 << 14)
    for cut in (1, 5, 6, 1000, 8192, 16_000, (1 << 14) + 20):
        before, record = client.sealed(b"before"), client.sealed(payload)
        client.send(before + record[:cut])
        assert await client.read(8) == b"<before>"  # so the server has read the first part, which came with it
        client.send(record[cut:])
        assert await client.read(len(payload) + 2) == b"<" + payload + b">"
    client.writer.close()


async def test_what_comes_behind_the_end_of_a_stream_reaches_nobody(running: Start, certificates: Certificates) -> None:
    server: Running = await running(tls_of(certificates))
    context = certificates.client()
    leaving = await Client.connected(server, context)
    last = leaving.sealed(b"last")
    with contextlib.suppress(ssl.SSLWantReadError):
        leaving.tls.unwrap()  # a close_notify
    leaving.send(last + leaving.leaving() + b"\x17\x03\x03\x00\x05hello" * 3)
    await heard(server, 0, b"last")
    async with asyncio.timeout(TIMEOUT):
        await server.echoes[0].lost.wait()
    after = await Client.connected(server, context)
    after.send(after.sealed(b"x"))
    assert await after.read(3) == b"<x>"
    for client in (leaving, after):
        client.writer.close()


async def test_a_handshake_that_fails_leaves_nothing_to_the_next(running: Start, certificates: Certificates) -> None:
    server: Running = await running(tls_of(certificates))
    context = certificates.client()
    broken = await Client.begin(server, context)
    broken.send(b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff" + b"\x16\x03\x01\x00\x05hello" * 9)
    async with asyncio.timeout(TIMEOUT):
        while not server.counters.handshakes_failed:
            await asyncio.sleep(0)
    client = await Client.connected(server, context)
    client.send(client.sealed(b"x"))
    assert await client.read(3) == b"<x>"
    for one in (broken, client):
        one.writer.close()


async def test_what_is_written_after_tls_broke_reaches_nobody(running: Start, certificates: Certificates) -> None:
    """It broke while reading is paused: what is inside does not know yet. Nor is any of it in another client's stream."""
    server: Running = await running(tls_of(certificates))
    context = certificates.client()
    broken, other = [await Client.connected(server, context) for _ in range(2)]
    broken.send(broken.sealed(b"pause") + b"\x17\x03\x03\x00\x20" + bytes(32))
    await heard(server, 0, b"pause")
    echo = server.echoes[0]
    echo.transport.write(b"to nobody" * 5000)
    async with asyncio.timeout(TIMEOUT):
        await echo.lost.wait()
    other.send(other.sealed(b"x"))
    assert await other.read(3) == b"<x>"
    for one in (broken, other):
        one.writer.close()


async def test_what_comes_with_the_end_of_the_handshake_is_heard(running: Start, certificates: Certificates) -> None:
    server: Running = await running(tls_of(certificates))
    client = await Client.begin(server, certificates.client())
    await client.until(client.tls.do_handshake)
    client.send(client.leaving() + client.sealed(b"together") + client.sealed(b" and more"))
    await heard(server, 0, b"together and more")
    client.writer.close()


async def test_what_we_end_ends_with_a_close_notify(running: Start, certificates: Certificates) -> None:
    """So the client knows that it has all, and that nobody cut the stream short (RFC 8446, 6.1)."""
    server: Running = await running(tls_of(certificates))
    client = await Client.connected(server, certificates.client())
    client.send(client.sealed(b"close"))
    assert await client.read(3) == b"bye"
    assert await client.some() == b""
    client.writer.close()


async def test_large_messages_both_ways(running: Start, certificates: Certificates) -> None:
    server: Running = await running(tls_of(certificates))
    client = await Client.connected(server, certificates.client())
    client.send(client.sealed(b"x" * (1 << 20)))
    got = b""
    while got.count(b"x") < 1 << 20:
        got += await client.some()
    assert not got.strip(b"x<>")
    client.writer.close()


async def test_a_client_gets_one_ticket_and_continues_its_session_by_it(running: Start, certificates: Certificates) -> None:
    server: Running = await running(tls_of(certificates))
    context = certificates.client()
    tickets = []

    def message(_: Any, direction: str, __: Any, ___: Any, kind: Any, ____: bytes) -> None:
        if direction == "read" and kind == 4:  # NewSessionTicket (RFC 8446, 4.6.1)
            tickets.append(kind)

    context._msg_callback = message  # type: ignore[attr-defined]
    first = await Client.connected(server, context)
    first.send(first.sealed(b"x"))
    assert await first.read(3) == b"<x>"
    assert len(tickets) == 1
    again = await Client.begin(server, context)
    again.tls = context.wrap_bio(again._in, again._out, server_hostname="localhost", session=first.tls.session)
    await again.handshake()
    again.send(again.sealed(b"x"))
    assert await again.read(3) == b"<x>"
    assert again.tls.session_reused
    assert len(tickets) == 2  # its place is taken by a new one
    for client in (first, again):
        client.writer.close()
