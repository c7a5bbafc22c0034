"""A broker with the HTTP API on a free port, real HTTP clients, and users with passwords."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from plugins.http import HttpPlugin
from tests.support.broker import ANONYMOUS, Broker, running

FILE = "amqtt.plugins.authentication.FileAuthPlugin"
ACL = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"
USERS = ("alice", "bob", "eve")
HTTP = {"http": {"bind": "127.0.0.1:0", "storage_timeout": 2.0, "operator_file": ""}, "requests": {}}


class Site(Broker):
    """A broker, and the way to its API."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.server)
        self._broker = broker
        plugin = broker.server.api.plugin(HttpPlugin)
        assert plugin is not None
        self.url = "http://{}:{}".format(*plugin.address)
        self._callers: list[httpx.AsyncClient] = []

    def caller(self, user: str = "", **options: Any) -> httpx.AsyncClient:
        """An HTTP client, of a user or of nobody."""
        auth = (user, f"{user}-password") if user else None
        client = httpx.AsyncClient(base_url=f"{self.url}/v1", auth=auth, timeout=30, **options)
        self._callers.append(client)
        return client

    async def device(self, user: str, client_id: str, version: int = 4) -> Any:
        """A durable MQTT client of a user."""
        return await self.durable(client_id, version, username=user, password=f"{user}-password".encode())

    async def close(self) -> None:
        for caller in self._callers:
            await caller.aclose()
        await self.close_clients()


@pytest.fixture(scope="session")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hasher = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    path = tmp_path_factory.mktemp("auth") / "passwords"
    path.write_text("".join(f"{name}:{hasher.hash(f'{name}-password')}\n" for name in USERS))
    return path


@asynccontextmanager
async def site(url: str = "memory://", *, plugins: dict[str, Any], **options: Any) -> AsyncIterator[Site]:
    async with running(url, plugins={**HTTP, **plugins}, **options) as broker:
        made = Site(broker)
        try:
            yield made
        finally:
            await made.close()


@pytest.fixture
async def tour() -> AsyncIterator[Site]:
    """As it comes: anonymous, bound to loopback; a caller is the operator."""
    async with site(plugins={"jobs": {}}) as made:
        yield made


@pytest.fixture
def sites(passwords: Path) -> Callable[..., AbstractAsyncContextManager[Site]]:
    """Makes a broker with users; more plugins, or another storage, may be given."""

    def make(url: str = "memory://", plugins: dict[str, Any] | None = None, **options: Any) -> Any:
        users = {next(iter(ANONYMOUS)): False, FILE: {"password_file": str(passwords)}}
        return site(url, plugins={**users, **(plugins or {})}, **options)

    return make


@pytest.fixture
async def users(sites: Callable[..., AbstractAsyncContextManager[Site]], tmp_path: Path) -> AsyncIterator[Site]:
    """Users, no topic plugin, SQLite."""
    async with sites(f"sqlite:///{tmp_path}/t.db") as made:
        yield made
