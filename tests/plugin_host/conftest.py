"""On asyncio's own event loop: a plugin of amqtt's maker asks whether its server is one of asyncio's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from broker.access.access_control import AccessControl
from broker.amqtt.plugin_host import PluginHost
from tests.plugin_host import third_party
from tests.plugin_host.servers import PlainServer
from tests.support.asyncio_loop import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]


@pytest.fixture
def server() -> PlainServer:
    return PlainServer()


@pytest.fixture
async def host_of(server: PlainServer) -> AsyncIterator[Callable[..., PluginHost]]:
    """Makes a plugin host from a plugins mapping; closed at the end."""
    made: list[PluginHost] = []

    def make(plugins: dict[str, dict[str, Any]], **options: Any) -> PluginHost:
        made.append(PluginHost(plugins, server, **options))
        return made[-1]

    yield make
    for plugin_host in made:
        await plugin_host.close()


@pytest.fixture
async def access_of(host_of: Callable[..., PluginHost]) -> AsyncIterator[Callable[..., AccessControl]]:
    """Makes an access from a plugins mapping."""
    made: list[AccessControl] = []

    def make(plugins: dict[str, dict[str, Any]], **options: Any) -> AccessControl:
        made.append(AccessControl(host_of(plugins).plugins, **options))
        return made[-1]

    third_party.OwnTopics.asked.clear()
    third_party.OwnTopics.gate = None
    third_party.OwnTopics.failures = 0
    yield make
    for access in made:
        access.close()
