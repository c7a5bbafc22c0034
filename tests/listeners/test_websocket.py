"""MQTT over WebSocket, with the websockets client and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import OP_BINARY, OP_CLOSE, OP_CONT, OP_PING, OP_PONG, OP_TEXT, Frame, Opcode
from websockets.typing import Subprotocol

from tests.support.certificates import Certificates

MQTT = [Subprotocol("mqtt")]
WAIT = 30

HANDSHAKE = (
    b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def url(server: Any, path: str = "/mqtt") -> str:
    host, port = server.address
    return f"ws://{host}:{port}{path}"


def frame(opcode: int, data: bytes, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), data, fin).serialize(mask=True)


async def by_hand(server: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(HANDSHAKE)
    async with asyncio.timeout(WAIT):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """(opcode, payload) of the next frame from the server, which masks nothing."""
    async with asyncio.timeout(WAIT):
        first, length = await reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack(">H", await reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await reader.readexactly(8))
        return first & 0x0F, await reader.readexactly(length)


class TestHandshake:
    @pytest.mark.parametrize("offer", [["mqtt"], ["mqttv3.1"], ["chat", "mqtt"], ["mqttv3.1", "mqtt"]])
    async def test_the_subprotocol(self, running: Callable[..., Any], offer: Any) -> None:
        server = await running({"type": "ws"})
        async with connect(url(server), subprotocols=[Subprotocol(name) for name in offer]) as client:
            assert client.subprotocol == ("mqtt" if "mqtt" in offer else "mqttv3.1")

    @pytest.mark.parametrize("offer", [None, ["chat"]])
    async def test_none_that_we_speak(self, running: Callable[..., Any], offer: Any) -> None:
        server = await running({"type": "ws"})
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url(server), subprotocols=offer):
                pass
        assert caught.value.response.status_code == 400
        assert not server.echoes

    async def test_the_path(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws", "path": "/devices"})
        async with connect(url(server, "/devices?x=1"), subprotocols=MQTT):
            pass
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url(server, "/mqtt"), subprotocols=MQTT):
                pass
        assert caught.value.response.status_code == 404

    async def test_plain_http_gets_an_answer(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(WAIT):
            assert (await reader.read()).startswith(b"HTTP/1.1 426 Upgrade Required")
        writer.close()

    @pytest.mark.parametrize(
        ("old", "new", "status", "why"),
        [
            (b"Upgrade: websocket", b"Upgrade: webs\x99cket", b"400 Bad Request", b"a header is not UTF-8"),
            (
                b"Upgrade: websocket",
                b"Upgrade: websocket, h2c",
                b"426 Upgrade Required",
                b"invalid Upgrade header: websocket, h2c",
            ),
            (
                b"Connection: Upgrade",
                b"Connection: keep-alive",
                b"426 Upgrade Required",
                b"invalid Connection header: keep-alive",
            ),
            (b"Version: 13", b"Version: 8", b"400 Bad Request", b"invalid Sec-WebSocket-Version header: 8"),
            (b"Key: AAAA", b"Key: AAA", b"400 Bad Request", b"invalid Sec-WebSocket-Key header"),
            (b"Key: AAAA", b"Key: A\xe4AA", b"400 Bad Request", b"a header is not UTF-8"),
            (b"Sec-WebSocket-Key", b"X-Key", b"400 Bad Request", b"missing Sec-WebSocket-Key header"),
            (b"Host: x", b"Sec-WebSocket-Key: x", b"400 Bad Request", b"invalid Sec-WebSocket-Key header: multiple values"),
            (b"Host: x", b"Content-Length: 1", b"400 Bad Request", b"unsupported request body"),
            (b"Host: x", b"Transfer-Encoding: chunked", b"400 Bad Request", b"transfer codings"),
            (b"Host: x", b"Host x", b"400 Bad Request", b"invalid HTTP header line: Host x"),
            (b"Host: x", b"Host : x", b"400 Bad Request", b"invalid HTTP header name: Host "),
            (b"Host: x", b" folded: x", b"400 Bad Request", b"invalid HTTP header name:  folded"),
            (b"Host: x", b"Host: x\nX: y", b"400 Bad Request", b"did not receive a valid HTTP request"),
            (b"Host: x", b"Host: x\0", b"400 Bad Request", b"invalid HTTP header value: x"),
            (b"HTTP/1.1", b"HTTP/1.0", b"400 Bad Request", b"expected HTTP/1.1"),
            (b"GET /mqtt", b"GET /mqtt?a b", b"400 Bad Request", b"expected HTTP/1.1"),
        ],
    )
    async def test_what_is_no_upgrade_is_told_why(
        self, running: Callable[..., Any], old: bytes, new: bytes, status: bytes, why: bytes
    ) -> None:
        server = await running({"type": "ws"})
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(HANDSHAKE.replace(old, new, 1))
        async with asyncio.timeout(WAIT):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 %b\r\n" % status)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert why in body
        assert b"Content-Length: %d" % len(body) in head
        assert not server.echoes
        writer.close()

    @pytest.mark.parametrize(
        "change",
        [
            (b"Upgrade: websocket\r\nConnection: Upgrade", b"upgrade:WebSocket\r\nCONNECTION:keep-alive ,\t upgrade"),
            (b"Upgrade: websocket", b"Upgrade: ,websocket, \r\nCookie: \xc3\xa4=1"),
            (b"Protocol: mqtt", b"Protocol: chat\r\nSec-WebSocket-Protocol: mqtt"),
            (b"Host: x", b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nX-Empty:"),
        ],
    )
    async def test_what_may_be_written_in_other_ways(self, running: Callable[..., Any], change: tuple[bytes, bytes]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(HANDSHAKE.replace(*change))
        async with asyncio.timeout(WAIT):
            answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n" in answer
        assert b"Sec-WebSocket-Protocol: mqtt\r\n" in answer
        assert b"Extensions" not in answer
        writer.close()

    @pytest.mark.parametrize("rubbish", [b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04phone\r\n", b"GET / HTTP/1.0\r\n\r\n"])
    async def test_rubbish_is_closed(self, running: Callable[..., Any], rubbish: Any) -> None:
        server = await running({"type": "ws"})
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(rubbish)
        async with asyncio.timeout(WAIT):
            await reader.read()
        writer.close()
        assert not server.echoes

    async def test_in_any_pieces_and_with_frames_right_behind_it(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await asyncio.open_connection(*server.address)
        for byte in HANDSHAKE[:-1]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        writer.write(HANDSHAKE[-1:] + frame(OP_BINARY, b"eager") + frame(OP_BINARY, b"more")[:3])
        async with asyncio.timeout(WAIT):
            await reader.readuntil(b"\r\n\r\n")
        assert await read_frame(reader) == (OP_BINARY, b"<eager>")
        writer.close()

    async def test_a_request_without_end(self, running: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
        server = await running({"type": "ws"})
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(HANDSHAKE[:-2] + b"X-Long: " + b"x" * 100_000)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(WAIT):
                assert await reader.read() == b""
        assert "a WebSocket request of more than 65536 bytes" in caplog.text  # and not that it took too long
        writer.close()
        assert not server.echoes

    async def test_one_that_never_ends_is_ended(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"}, connect_timeout=0.2)
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(HANDSHAKE[:40])
        async with asyncio.timeout(WAIT):
            assert await reader.read() == b""
        writer.close()

    async def test_the_limit_counts_here_too(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws", "max_connections": 1})
        async with connect(url(server), subprotocols=MQTT):
            with pytest.raises((websockets.InvalidMessage, OSError)):
                async with connect(url(server), subprotocols=MQTT):
                    pass
        assert server.counters.connections_refused == 1


class TestFrames:
    async def test_data_goes_both_ways(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        async with connect(url(server), subprotocols=MQTT, compression=None) as client:
            await client.send(b"hello")
            assert await client.recv() == b"<hello>"
        echo = await server.echo()
        await asyncio.wait_for(echo.lost.wait(), WAIT)
        assert echo.events == ["made", "lost"]
        assert echo.transport.is_closing()

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
    async def test_any_size(self, running: Callable[..., Any], size: Any) -> None:
        server = await running({"type": "ws"})
        async with connect(url(server), subprotocols=MQTT, max_size=None) as client:
            await client.send(b"x" * size)
            await client.send(b"end")
            answer = b""
            while not answer.endswith(b"end>"):
                answer += await client.recv(decode=False)
        assert answer.replace(b"><", b"") == b"<" + b"x" * size + b"end>"

    async def test_any_split_of_the_bytes(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        for byte in frame(OP_BINARY, b"abc"):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await read_frame(reader) == (OP_BINARY, b"<abc>")
        writer.close()

    async def test_a_message_in_fragments_with_a_ping_between(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        writer.write(
            frame(OP_BINARY, b"ab", fin=False) + frame(OP_PING, b"?") + frame(OP_CONT, b"", fin=False) + frame(OP_CONT, b"c")
        )
        echoed = b""
        others: list[tuple[int, bytes]] = []
        while len(echoed) < 3 or not others:
            opcode, payload = await read_frame(reader)
            if opcode == OP_BINARY:
                echoed += payload.strip(b"<>")
            else:
                others.append((opcode, payload))
        assert (echoed, others) == (b"abc", [(OP_PONG, b"?")])
        assert (await server.echo()).got == b"abc"
        writer.close()

    async def test_several_frames_in_one_read(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        writer.write(b"".join(frame(OP_BINARY, bytes([65 + n])) for n in range(10)))
        echoed = b""
        while len(echoed) < 10:
            echoed += (await read_frame(reader))[1].strip(b"<>")
        assert echoed == b"ABCDEFGHIJ"
        writer.close()

    @pytest.mark.parametrize("fin", [True, False])
    async def test_text_is_refused_and_nothing_behind_it_counts(self, running: Callable[..., Any], fin: Any) -> None:
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        writer.write(frame(OP_TEXT, b"hi", fin) + (frame(OP_BINARY if fin else OP_CONT, b"later")))
        opcode, payload = await read_frame(reader)
        assert (opcode, payload[:2]) == (OP_CLOSE, (1003).to_bytes(2, "big"))
        writer.write(frame(OP_CLOSE, payload[:2]))
        async with asyncio.timeout(WAIT):
            assert await reader.read() == b""
        writer.close()
        echo = await server.echo()
        await asyncio.wait_for(echo.lost.wait(), WAIT)
        assert echo.got == b""
        assert "broken: a WebSocket text frame, and MQTT needs binary frames" in echo.events

    @pytest.mark.parametrize(
        ("bad", "code"),
        [
            (Frame(OP_BINARY, b"not masked").serialize(mask=False), 1002),
            (frame(OP_CONT, b"of nothing"), 1002),
            (b"\xf2\x80\x00\x00\x00\x00", 1002),  # reserved bits
            (b"\x84\x80\x00\x00\x00\x00", 1002),
            (b"\x09\x80\x00\x00\x00\x00", 1002),
            (b"\x89\xfe\x00\x80\x00\x00\x00\x00", 1002),
            (frame(OP_BINARY, b"a", fin=False) + frame(OP_BINARY, b"b"), 1002),
            (frame(OP_BINARY, b"a", fin=False) + frame(OP_CLOSE, b""), 1002),
            (frame(OP_CLOSE, b"x"), 1002),
            (frame(OP_CLOSE, b"\x03\xee"), 1002),
            (frame(OP_CLOSE, b"\x03\xe8\xff"), 1007),
            (b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0", 1009),
            (frame(OP_BINARY, b"x" * 70_000), 1009),
            (frame(OP_BINARY, b"x" * 40_000, fin=False) + frame(OP_CONT, b"x" * 40_000), 1009),
        ],
        ids=[
            "not masked",
            "stray continuation",
            "reserved bits",
            "no opcode",
            "ping in fragments",
            "long ping",
            "a message in a message",
            "a close in a message",
            "short close",
            "close code that is none",
            "close reason that is no text",
            "huge frame",
            "large frame",
            "large message",
        ],
    )
    async def test_what_breaks_the_rules_closes(self, running: Callable[..., Any], bad: Any, code: Any) -> None:
        server = await running({"type": "ws"}, max_packet_size=1000)
        reader, writer = await by_hand(server)
        writer.write(bad)
        opcode: int = OP_BINARY
        while opcode != OP_CLOSE:
            opcode, payload = await read_frame(reader)
        assert int.from_bytes(payload[:2], "big") == code
        async with asyncio.timeout(WAIT):
            assert await reader.read() == b""
        writer.close()
        echo = await server.echo()
        await asyncio.wait_for(echo.lost.wait(), WAIT)
        (told,) = [event for event in echo.events if ": " in event]
        assert told.startswith(
            "too large: a WebSocket message of more than 65536" if code == 1009 else "broken: broken WebSocket"
        )


class TestClosing:
    async def test_the_mqtt_side_closes(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        async with connect(url(server), subprotocols=MQTT) as client:
            await client.send(b"close")
            assert await client.recv() == b"bye"
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1000

    async def test_nothing_more_is_written_or_taken_in_then(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        echo = await server.echo()
        echo.transport.close()
        echo.transport.close()
        echo.transport.write(b"late")
        echo.transport.writelines([b"late", b"r"])
        writer.write(frame(OP_BINARY, b"late too"))
        opcode, payload = await read_frame(reader)
        assert opcode == OP_CLOSE
        writer.write(frame(OP_CLOSE, payload))
        async with asyncio.timeout(WAIT):
            assert await reader.read() == b""
        assert echo.got == b""
        writer.close()

    async def test_a_peer_that_does_not_answer_is_cut_off(
        self, running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("broker.net.websocket.CLOSE_TIMEOUT", 0.1)
        server = await running({"type": "ws"})
        _, writer = await by_hand(server)
        echo = await server.echo()
        echo.transport.close()
        await asyncio.wait_for(echo.lost.wait(), WAIT)
        writer.close()

    async def test_who_broke_the_rules_and_stays_is_cut_off(
        self, running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("broker.net.websocket.CLOSE_TIMEOUT", 0.1)
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        writer.write(b"\x82\0")  # not masked
        assert (await read_frame(reader))[0] == OP_CLOSE
        await asyncio.wait_for((await server.echo()).lost.wait(), WAIT)
        writer.close()

    async def test_the_answer_is_read_where_reading_was_paused(
        self, running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("broker.net.websocket.CLOSE_TIMEOUT", 600.0)
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        echo = await server.echo()
        echo.transport.pause_reading()
        echo.transport.close()
        opcode, payload = await read_frame(reader)
        assert opcode == OP_CLOSE
        writer.write(frame(OP_CLOSE, payload))
        async with asyncio.timeout(WAIT):
            assert await reader.read() == b""
        writer.close()

    async def test_abort(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        async with connect(url(server), subprotocols=MQTT) as client:
            await client.send(b"abort")
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
            assert caught.value.rcvd is None

    async def test_a_peer_that_just_goes(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        _, writer = await by_hand(server)
        echo = await server.echo()
        writer.transport.abort()
        await asyncio.wait_for(echo.lost.wait(), WAIT)
        assert server.listeners.connections == 0


class TestBackPressure:
    async def test_writing_is_paused_and_resumed(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        echo = await server.echo()
        echo.transport.set_write_buffer_limits(high=1000)
        while "pause" not in echo.events:
            echo.transport.write(b"x" * 100_000)
        assert echo.transport.get_write_buffer_size() > 1000
        async with asyncio.timeout(WAIT):
            while "resume" not in echo.events:
                await reader.read(1 << 20)
        writer.close()

    async def test_reading_is_paused_and_resumed(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        echo = await server.echo()
        echo.transport.pause_reading()
        writer.write(frame(OP_BINARY, b"x"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        assert echo.got == b""
        echo.transport.resume_reading()
        assert await read_frame(reader) == (OP_BINARY, b"<x>")
        writer.close()

    async def test_pings_cannot_fill_the_memory(self, running: Callable[..., Any]) -> None:
        server = await running({"type": "ws"})
        reader, writer = await by_hand(server)
        echo = await server.echo()
        for kept, option in ((echo.transport, socket.SO_SNDBUF), (writer, socket.SO_RCVBUF)):  # else the kernel takes it all
            kept.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 1 << 14)
        writer.write(frame(OP_PING, b"p" * 125) * 40_000)  # 5 MB of answers to somebody who reads none
        writer.write(frame(OP_BINARY, b"end"))
        async with asyncio.timeout(WAIT):
            while not echo.got:
                assert echo.transport.get_write_buffer_size() < 1 << 19  # `_PONG_ROOM`, and the answers to one read
                await asyncio.sleep(0)
            reader._limit = 1 << 24  # type: ignore[attr-defined]
            assert b"<end>" in await reader.readuntil(b"<end>")
        writer.close()


async def test_over_tls(running: Callable[..., Any], certificates: Certificates) -> None:
    tls = {"certfile": str(certificates.server), "keyfile": str(certificates.server_key)}
    server = await running({"type": "ws", "tls": tls})
    host, port = server.address
    secure = f"wss://{host}:{port}/mqtt"
    async with connect(secure, subprotocols=MQTT, ssl=certificates.client(), server_hostname="localhost") as client:
        await client.send(b"hello")
        assert await client.recv() == b"<hello>"
    assert (await server.echo()).transport.get_extra_info("ssl_object") is not None


async def test_no_password_is_logged(running: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    server = await running({"type": "ws"})
    reader, writer = await by_hand(server)
    writer.write(frame(OP_BINARY, b"s3cret"))
    await read_frame(reader)
    writer.close()
    assert "s3cret" not in caplog.text
    assert b"s3cret".hex(" ") not in caplog.text
