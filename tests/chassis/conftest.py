from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from broker.access.authority import Authority
from broker.amqtt.chassis import Chassis
from tests.chassis import third_party
from tests.chassis.servers import PlainServer


@pytest.fixture
def server() -> PlainServer:
    return PlainServer()


@pytest.fixture
async def chassis_of(server: PlainServer) -> AsyncIterator[Callable[..., Chassis]]:
    """Makes a chassis from a plugins mapping; closed at the end."""
    made: list[Chassis] = []

    def make(plugins: dict[str, dict[str, Any]], **options: Any) -> Chassis:
        made.append(Chassis(plugins, server, **options))
        return made[-1]

    yield make
    for chassis in made:
        await chassis.close()


@pytest.fixture
async def authority_of(chassis_of: Callable[..., Chassis]) -> AsyncIterator[Callable[..., Authority]]:
    """Makes an authority from a plugins mapping."""
    made: list[Authority] = []

    def make(plugins: dict[str, dict[str, Any]], **options: Any) -> Authority:
        made.append(Authority(chassis_of(plugins).plugins, **options))
        return made[-1]

    third_party.OwnTopics.asked.clear()
    third_party.OwnTopics.gate = None
    third_party.OwnTopics.failures = 0
    yield make
    for authority in made:
        authority.close()
