"""Tests of how a connection ends run on both event loops: each tells the end of a stream in its own way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from amqtt.plugins.base import BaseAuthPlugin

from tests.leaving.dial import KINDS
from tests.support.broker import Broker, running
from tests.support.certificates import Certificates

Loop = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Loop]:
    loops: dict[str, Loop] = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop
    except ImportError:
        return loops
    return loops | {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


class Knows(BaseAuthPlugin):
    """Knows everybody. It is asked in a task, as its class does not say that it answers at once."""

    async def authenticate(self, *, session: Any) -> bool | None:
        return True


@pytest.fixture
async def broker(request: pytest.FixtureRequest, certificates: Certificates) -> AsyncIterator[Broker]:
    """A broker with a listener of each kind. It reads no more from a connection that has 10 messages uncommitted. A parameter
    are plugins that it has besides."""
    tls = {"certfile": str(certificates.server), "keyfile": str(certificates.server_key)}
    listeners = [
        {"name": kind, "type": kind.removesuffix("+tls"), "bind": "127.0.0.1:0", "tls": tls if kind.endswith("+tls") else None}
        for kind in KINDS
    ]
    plugins = getattr(request, "param", {})
    async with running(listeners=listeners, limits={"connection_pending": 10}, plugins=plugins) as started:
        yield started
