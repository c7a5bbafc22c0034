"""A proxy names the client's address: what its header may be, who may send one, and what comes behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.config import Settings
from broker.net.proxy_header import V2, BadHeader, Header, crc32c, read
from broker.net.stream import shown
from tests.listeners.conftest import Running
from tests.support.broker import running as broker_running
from tests.support.certificates import Certificates
from tests.support.proxy import certificate, extension, v1, v2
from tests.support.until import until
from tests.support.wire import TIMEOUT, Client

Start = Callable[..., Any]
FROM_HERE = {"proxy_protocol": True, "proxy_from": ["10.0.0.0/8", "127.0.0.1"]}
WEBSOCKET = (
    b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
PHONE = Header(("192.0.2.7", 4711))
GOOD = {
    v1(): PHONE,
    v1("2001:db8::7"): Header(("2001:db8::7", 4711)),
    b"PROXY UNKNOWN\r\n": Header(None),
    b"PROXY UNKNOWN ffff::1 ffff::1 1 2 whatever\r\n": Header(None),
    v2(): PHONE,
    v2("2001:db8::7"): Header(("2001:db8::7", 4711)),
    v2(command=0x20): Header(None),
    v2(crc=True): PHONE,
    v2(extensions=extension(0x01, b"mqtt") + extension(0x02, b"broker.example")): PHONE,
    v2(extensions=certificate("alice"), crc=True): PHONE._replace(common_name="alice"),
    v2(extensions=certificate("alice", wrong=1)): PHONE,
    v2(extensions=certificate("alice", shown=0)): PHONE,
    V2 + b"\x21\x00\x00\x00": Header(None),
    V2 + b"\x21\x31\x00\xd8" + bytes(216): Header(None),
    V2 + b"\x20\x99\x00\x02xx": Header(None),
}
BAD = {
    b"\x10\x10\x00\x04MQTT": "bytes 10 10 00 04 4d 51 54 54, where a PROXY header is expected",
    b"PROXY\r\n": "where a PROXY header is expected",
    b"PROXY UDP4 192.0.2.7 127.0.0.1 1 2\r\n": "must be PROXY TCP4 or TCP6",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 1\r\n": "must be PROXY TCP4 or TCP6",
    b"PROXY TCP4 192.0.2.07 127.0.0.1 1 2\r\n": "no addresses of TCP4",
    b"PROXY TCP6 192.0.2.7 ::1 1 2\r\n": "no addresses of TCP6",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 65536 2\r\n": "port '65536': must be",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 01 2\r\n": "port '01': must be",
    b"PROXY TCP4 \xff 127.0.0.1 1 2\r\n": "not ASCII",
    b"PROXY " + b"x" * 100: "more than 107 bytes",
    b"PROXY " + b"x" * 100 + b"\r\n": "more than 107 bytes",
    V2 + b"\x11": "0x11: must be 0x20 or 0x21",
    V2 + b"\x22": "0x22: must be 0x20 or 0x21",
    V2 + b"\x21\x12\x00\x0c" + bytes(12): "family 0x12",
    V2 + b"\x21\x11\x00\x0b" + bytes(11): "family 0x11 with 11 bytes",
    V2 + b"\x21\x11\xff\xff": "65551 bytes: must be 4096",
    v2(extensions=b"\x01\x00"): "cut short",
    v2(extensions=b"\x01\x00\x05abc"): "of 5 bytes, where 3 are left",
    v2(extensions=extension(0x20, b"\x01")): "about TLS of 1 bytes",
    v2(extensions=extension(0x20, b"\x03\x00\x00\x00\x00\x22\x00\x09x")): "of 9 bytes, where 1 are left",
    v2(extensions=extension(0x20, b"\x03\x00\x00\x00\x00\x22\x00\x01\xff")): "not UTF-8",
    v2(extensions=extension(0x03, b"\x00\x00\x00\x01")): "checksum is wrong",
}


@pytest.mark.parametrize("data", GOOD)
def test_a_header(data: bytes) -> None:
    assert read(data) == (GOOD[data], b"")
    assert read(data + b"\x10more") == (GOOD[data], b"\x10more")
    assert [size for size in range(len(data)) if read(data[:size]) is not None] == []


@pytest.mark.parametrize("data", BAD)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(BadHeader) as caught:
        read(data)
    assert BAD[data] in str(caught.value)


def test_the_checksum_is_the_standard_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def outcome(data: bytes) -> object:
    try:
        found = read(data)
    except BadHeader as error:
        return str(error)[:5]
    return None if found is None else found[0]


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(lambda rest: b"PROXY " + rest),
        st.binary(max_size=400).map(lambda rest: V2 + rest),
        st.tuples(st.sampled_from([*GOOD, *BAD]), st.integers(0, 250), st.integers(0, 255)).map(
            lambda it: it[0][: it[1]] + bytes([it[2]]) + it[0][it[1] + 1 :]
        ),
    )
)
@example(b"PROXY " + b"1" * 99 + b"\r")
def test_any_bytes_in_any_pieces(data: bytes) -> None:
    """Whatever comes, there is an answer by the time that the longest header would be there, and more bytes never change it."""
    answers = [outcome(data[:size]) for size in range(len(data) + 1)]
    first = next((index for index, answer in enumerate(answers) if answer is not None), len(answers))
    if first < len(answers) and isinstance(answers[first], Header):
        assert set(answers[first:]) == {answers[first]}
    else:
        assert all(isinstance(answer, str) for answer in answers[first:])
    assert outcome(data + bytes(4096)) is not None


# --- at a listener -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [v1(), v2(), v2("2001:db8::7"), v2(command=0x20)], ids=["v1", "v2", "IPv6", "local"])
@pytest.mark.parametrize("whole", [True, False])
async def test_the_address_is_the_clients(running: Start, head: bytes, whole: bool) -> None:
    server: Running = await running(FROM_HERE)
    _, writer = await asyncio.open_connection(*server.address)
    data = head + b"hello"
    for piece in [data] if whole else [data[index : index + 1] for index in range(len(data))]:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT):
        await until(lambda: server.echoes and server.echoes[0].got == b"hello")
    ours = "{}:{}".format(*writer.get_extra_info("sockname"))
    source = GOOD[head].source
    assert server.peers == [ours if source is None else shown(source)]
    writer.close()


async def test_behind_it_come_tls_and_websocket(running: Start, certificates: Certificates) -> None:
    tls = {"certfile": str(certificates.server), "keyfile": str(certificates.server_key)}
    server: Running = await running({**FROM_HERE, "type": "ws", "tls": tls})
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(v2())
    await writer.start_tls(certificates.client(), server_hostname="localhost")
    writer.write(WEBSOCKET)
    async with asyncio.timeout(TIMEOUT):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert server.peers == ["192.0.2.7:4711"]
    writer.close()


@pytest.mark.parametrize(
    ("trusted", "data", "why"),
    [
        (["10.0.0.0/8", "::1"], v1(), ": connection refused, 127.0.0.1 is not in proxy_from"),
        (["127.0.0.0/8"], b"\x10\x0d\x00\x04MQTT", ": bytes 10 0d 00 04 4d 51 54 54, where a PROXY header is expected"),
        (["127.0.0.0/8"], b"\x16\x03\x01\x00", ": bytes 16 03 01 00, where a PROXY header is expected"),
        (["127.0.0.0/8"], v2()[:20], ": the PROXY header did not come in time"),
    ],
)
async def test_nobody_else_may_say_so(
    running: Start, caplog: pytest.LogCaptureFixture, trusted: list[str], data: bytes, why: str
) -> None:
    late = data == v2()[:20]
    server: Running = await running(
        {"proxy_protocol": True, "proxy_from": trusted}, connect_timeout=0.2 if late else float(TIMEOUT)
    )
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(data)
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()
    assert server.counters.handshakes_failed == 1
    assert why in caplog.text
    assert server.echoes == []


async def test_a_health_check_is_no_failure(running: Start) -> None:
    server: Running = await running(FROM_HERE)
    for data in (b"", v2(command=0x20)):
        _, writer = await asyncio.open_connection(*server.address)
        writer.write(data)
        writer.close()
    await until(lambda: server.counters.connections_total == 2 and server.listeners.connections == 0)
    assert server.counters.handshakes_failed == 0


async def test_log_and_plugins_see_the_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    listeners: Any = [{"name": "tcp", "bind": "127.0.0.1:0", **FROM_HERE}]
    async with broker_running(listeners=listeners) as broker:
        client = await Client.open(broker.address)
        client.send_bytes(v1())
        assert (await client.connect("phone")).reason == 0
        (connection,) = broker.server.connections
        assert connection.info.session.remote_address == "192.0.2.7"
        assert connection.info.session.remote_port == 4711
        assert "connected: 'phone' at 192.0.2.7:4711" in caplog.text
        await client.drop()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"proxy_protocol": True}, "proxy_protocol needs proxy_from"),
        ({"proxy_from": ["10.0.0.0/8"]}, "proxy_from means nothing without"),
        ({"proxy_protocol": True, "proxy_from": ["10.0.0.1/8"]}, "must be an address or a network"),
    ],
)
def test_settings(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Settings.model_validate({"listeners": [{"name": "x", "bind": "127.0.0.1:0", **values}]})
