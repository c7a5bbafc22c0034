"""Whoever watches a kind of stored settings has it before clients come, and each change after it, of this node or another."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from broker.amqtt import TidelineContext
from plugins.sync import InboxPlugin
from storage.records import DeviceKey, DropSetting, Operation, Release, SaveSetting
from tests.support.broker import Broker, running
from tests.support.cluster import cluster
from tests.support.until import until

Told = list[tuple[dict[str, bytes], set[str]]]


class Watching(InboxPlugin):
    """Takes the place of the sync plugin, and watches two kinds from its start on."""

    context: TidelineContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.told: dict[str, Told] = {"user": [], "rule": []}
        for kind in self.told:
            context.server.watch_settings(kind, self._watcher(kind))

    def _watcher(self, kind: str) -> Any:
        def watch(settings: Mapping[str, bytes], changed: Collection[str]) -> None:
            self.told[kind].append((dict(settings), set(changed)))

        return watch


PLUGINS = {"sync": False, "accounts": False, "acl": False, "tests.plugin_host.test_stored_settings.Watching": {}}


def told(broker: Broker) -> dict[str, Told]:
    plugin = broker.server.api.plugin(Watching)
    assert plugin is not None
    return plugin.told


async def commit(broker: Broker, *operations: Operation) -> None:
    await broker.server.api.commit(list(operations), 30)


async def test_one_node_is_told_at_once_and_again_after_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with running(url, plugins=PLUGINS) as broker:
        users, rules = told(broker)["user"], told(broker)["rule"]
        assert users == rules == [({}, set())]
        await commit(broker, SaveSetting("user", "ann", b"1"), SaveSetting("user", "bob", b"2"))
        assert users[1:] == [({"ann": b"1", "bob": b"2"}, {"ann", "bob"})]
        large = SaveSetting("user", "cid", b"x" * (2 << 20))
        await commit(broker, large, DropSetting("user", "ann"), SaveSetting("other", "x", b"other"))
        assert large.error is not None
        assert users[2:] == [({"bob": b"2"}, {"ann"})]
        late: list[Mapping[str, bytes]] = []
        ended = broker.server.api.watch_settings("user", lambda settings, _: late.append(settings))
        ended()
        await commit(broker, SaveSetting("user", "ann", b"3"))
        assert late == [{"bob": b"2"}], "who comes late is told at once, and who went is told no more"
        assert rules == [({}, set())]
    async with running(url, plugins=PLUGINS) as broker:
        assert told(broker)["user"] == [({"ann": b"3", "bob": b"2"}, {"ann", "bob"})]


async def test_one_that_fails_keeps_nothing_from_the_others() -> None:
    async with running(plugins=PLUGINS, errors=True) as broker:
        seen: list[set[str]] = []
        broker.server.api.watch_settings("user", lambda settings, _: 1 // (len(settings) - 1))  # type: ignore[arg-type]
        broker.server.api.watch_settings("user", lambda _, changed: seen.append(set(changed)))
        await commit(broker, SaveSetting("user", "ann", b"1"))
        assert seen == [set(), {"ann"}]


async def test_another_node_is_told_soon_also_of_what_came_while_it_could_not_ask() -> None:
    async with cluster(2, plugins=PLUGINS) as nodes:
        one, other = nodes.nodes
        await commit(one, SaveSetting("user", "ann", b"1"))
        assert told(one)["user"][1:] == [({"ann": b"1"}, {"ann"})]
        await until(lambda: told(other)["user"][1:] == [({"ann": b"1"}, {"ann"})])
        other.storage.faults.away = True
        await commit(one, SaveSetting("user", "bob", b"2"))
        await commit(one, DropSetting("user", "ann"))
        other.storage.faults.away = False
        await until(lambda: told(other)["user"][-1][0] == {"bob": b"2"})
        await commit(other, SaveSetting("rule", "1", b"deny"))
        await until(lambda: told(one)["rule"][1:] == [({"1": b"deny"}, {"1"})])
        assert told(one)["user"][-1] == ({"bob": b"2"}, {"ann"}), "what it did itself it is told once"


async def test_a_change_that_is_seen_half_done_is_looked_at_again() -> None:
    """A node has said that it changes something, and then has not for a while; or it dies between the change and saying so."""
    async with cluster(2, lease=60.0, plugins=PLUGINS) as nodes:
        one, other = nodes.nodes
        committing = asyncio.create_task(commit(one, SaveSetting("user", "ann", b"1"), Release(DeviceKey("u/ann", "x"), 1)))
        one.storage.faults.freeze_at("commit devices")
        await until(lambda: "commit devices" in one.storage.faults.waiting)
        await until(lambda: other.server.api.stored_settings.mark[0] == 1, "it has looked")
        assert told(other)["user"][-1][0] == {}
        one.storage.faults.thaw()
        one.storage.faults.freeze_at("commit settings")
        await until(lambda: told(other)["user"][-1][0] == {"ann": b"1"})
        assert "commit settings" in one.storage.faults.waiting
        one.storage.faults.thaw()
        await committing
        assert told(one)["user"][-1][0] == {"ann": b"1"}
