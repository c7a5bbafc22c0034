"""Unix sockets: who may connect by the file, what is there already, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion

from broker.config import Settings, all_problems
from broker.errors import StartError
from tests.listeners.conftest import Running
from tests.support.broker import running as broker_running
from tests.support.proxy import v2
from tests.support.until import until
from tests.support.wire import TIMEOUT, Client

Start = Callable[..., Any]


async def echoed(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    async with asyncio.timeout(TIMEOUT):
        answer = await reader.readexactly(len(data) + 2)
    writer.close()
    return answer


async def test_a_file_that_only_some_may_open(running: Start, tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    server: Running = await running({"bind": f"unix:{path}", "mode": "600"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await echoed(path, b"hello") == b"<hello>"
    assert server.peers == [f"unix:{os.getpid()}"]
    await server.listeners.close()
    assert not path.exists(), "a broker that stops takes its file away"


async def test_what_is_there_already(running: Start, tmp_path: Path) -> None:
    path, plain = tmp_path / "mqtt.sock", tmp_path / "plain"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await running({"bind": f"unix:{path}"})  # nobody listens on what a killed broker has left
    assert await echoed(path, b"new") == b"<new>"
    with pytest.raises(StartError, match="another program listens there"):
        await running({"bind": f"unix:{path}"})
    assert await echoed(path, b"still") == b"<still>"
    plain.write_text("mine")
    with pytest.raises(StartError, match="there is a file, and it is no socket"):
        await running({"bind": f"unix:{plain}"})
    assert plain.read_text() == "mine"
    with pytest.raises(StartError, match="cannot listen on unix:"):
        await running({"bind": f"unix:{tmp_path}/missing/mqtt.sock"})


async def test_mqtt_by_a_stock_client_and_behind_a_proxy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="broker")
    path, proxied = tmp_path / "mqtt.sock", tmp_path / "proxied.sock"
    listeners: Any = [
        {"name": "unix", "bind": f"unix:{path}"},
        {"name": "proxied", "bind": f"unix:{proxied}", "proxy_protocol": True},
    ]
    async with broker_running(listeners=listeners) as broker:
        assert broker.server.settings.loopback_only
        phone = Paho(CallbackAPIVersion.VERSION2, "phone", transport="unix")
        phone.connect_async(str(path))
        phone.loop_start()
        await until(lambda: f"connected: 'phone' at unix:{os.getpid()}" in caplog.text)
        phone.disconnect()
        phone.loop_stop()
        reader, writer = await asyncio.open_unix_connection(str(proxied))
        client = Client(reader, writer, 4)
        client.send_bytes(v2())
        assert (await client.connect("pump")).reason == 0
        assert "connected: 'pump' at 192.0.2.7:4711" in caplog.text
        await client.drop()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"bind": "unix:"}, "must be unix: and a path"),
        ({"bind": "unix:/" + "x" * 107}, "must be unix: and a path of 107 bytes"),
        ({"bind": "unix:/x", "mode": "888"}, "must be the mode of a file in octal digits"),
        ({"bind": "unix:/x", "mode": 432}, "valid string"),
    ],
)
def test_settings(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Settings.model_validate({"listeners": [{"name": "x", **values}]})


def test_it_is_no_danger_and_no_clash() -> None:
    listeners = [{"name": name, "bind": f"unix:/run/{name}.sock"} for name in "ab"]
    _, warnings = all_problems(Settings.model_validate({"listeners": listeners}))
    assert [line for line in warnings if line.startswith("listener")] == []
