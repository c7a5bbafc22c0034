"""What is stored is not open to all because a line of the configuration is missing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from broker.access import RULE_KIND, USER, Account
from broker.config import Settings, load
from broker.errors import StartError
from storage.records import SaveSetting
from tests.conversations.conftest import BOB, group
from tests.http.conftest import Site, passwords, site, sites
from tests.support.broker import running, settings
from tests.support.storages import url

__all__ = ["passwords", "sites", "url"]

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$" + "A" * 43
RULE = SaveSetting(RULE_KIND, "one", b'{"allow": "publish", "topics": "a/#"}')
ALICE = SaveSetting(USER, "alice", Account("alice", HASH).encode())


async def told(url: str, plugins: dict[str, Any]) -> str:
    """Why a broker does not start."""
    with pytest.raises(StartError) as refused:
        async with running(url, plugins=plugins):
            pass
    return str(refused.value)


@pytest.mark.parametrize(("stored", "plugin", "what"), [(RULE, "acl", "access rules"), (ALICE, "accounts", "users")])
async def test_a_start_without_the_plugin_of_stored_rules_or_users_is_refused(
    url: str, stored: SaveSetting, plugin: str, what: str
) -> None:
    async with running(url, plugins={plugin: {}}) as broker:
        await broker.server.api.commit([stored], 30)
    said = await told(url, {})
    assert said.startswith(f"plugins: the storage holds {what}")
    assert f"`{plugin}: {{}}`" in said
    assert f"`{plugin}: false`" in said
    async with running(url, plugins={plugin: {}}):
        pass
    async with running(url, plugins={plugin: False}):
        pass


async def test_a_start_without_the_plugin_of_stored_conversations_is_refused(
    sites: Callable[..., AbstractAsyncContextManager[Site]], url: str
) -> None:
    async with sites(url, plugins={"conversations": {}}) as talk:
        await group(talk.caller("alice"), BOB)
    said = await told(url, {})
    assert said.startswith("plugins: the storage holds conversations")
    assert "`conversations: {}`" in said
    async with running(url, plugins={"conversations": False}):
        pass


async def test_what_is_empty_needs_no_plugin(url: str) -> None:
    everything: dict[str, Any] = {"acl": {}, "accounts": {}, "conversations": {}}
    async with site(url, plugins=everything):
        pass
    async with running(url):
        pass


async def test_a_reload_that_leaves_out_the_plugin_of_stored_rules_changes_nothing() -> None:
    async with running(plugins={"acl": {}}, errors=True) as broker:
        server = broker.server
        await server.api.commit([RULE], 30)
        server.reload.read = settings
        report = await server.reload()
        assert [line.partition(":")[0] for line in report.failed] == ["plugins"]
        assert "`acl: false`" in report.failed[0]
        assert "plugins.acl.AclPlugin" in server.plugin_host.by_path
        server.reload.read = lambda: settings(plugins={"acl": False})
        report = await server.reload()
        assert report.failed == []
        assert "plugins.acl.AclPlugin" not in server.plugin_host.by_path


def test_the_environment_leaves_a_plugin_out_by_name_too(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("plugins:\n  acl: false\n  accounts:\n")
    assert load(file, {"TIDELINE__PLUGINS__CONVERSATIONS": "false"}).left_out == {"acl", "conversations"}
    assert Settings().left_out == set()
