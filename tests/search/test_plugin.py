"""The plugin: from a storage to whole messages with highlights."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.config.plugin_settings import checked
from broker.hooks import Group
from plugins.search import SearchPlugin
from plugins.search.engine import Query, SearchUnavailable, SearchUnusable
from plugins.search.reindex import Progress
from storage.memory import MemoryStorage
from storage.records import Append, Message
from tests.search.meili_stub import MeiliStub
from tests.search.stores import Publisher
from tests.support.broker import running
from tests.support.until import until


class _Context:
    """As much of amqtt's context as a plugin's start needs."""

    def __init__(self, config: SearchPlugin.Config) -> None:
        self.config = config


def _plugin(**options: Any) -> SearchPlugin:
    context: Any = _Context(SearchPlugin.Config(**options))
    return SearchPlugin(context)


@pytest.fixture
async def storage() -> AsyncIterator[MemoryStorage]:
    storage = MemoryStorage()
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
async def plugin(tmp_path: Path, storage: MemoryStorage) -> AsyncIterator[SearchPlugin]:
    plugin = _plugin(path=str(tmp_path / "search.db"), gather=0.0)
    await plugin.attach(storage)
    yield plugin
    await plugin.close()


async def _publish(
    plugin: SearchPlugin, storage: MemoryStorage, publisher: Publisher, *texts: str | bytes, **where: str
) -> None:
    messages = await publisher.publish(*texts, **where)
    appends = [Append(message) for message in messages]
    plugin.after_ack(Group(list(appends), appends))


async def test_a_published_message_is_found_whole_and_highlighted(plugin: SearchPlugin, storage: MemoryStorage) -> None:
    publisher = Publisher(storage)
    await _publish(plugin, storage, publisher, "Let's <b>meet</b> at noon", '{"note": "明天会议", "n": 3}')
    assert await plugin.wait_indexed(2, 60)
    (hit,) = (await plugin.search(Query(q="noon"))).hits
    assert hit.message.payload == b"Let's <b>meet</b> at noon"
    assert hit.highlight == "Let&#x27;s &lt;b&gt;meet&lt;/b&gt; at <mark>noon</mark>"
    (hit,) = (await plugin.search(Query(q="会议"))).hits
    assert hit.message.payload == '{"note": "明天会议", "n": 3}'.encode()
    assert hit.highlight == "明天<mark>会议</mark>"


async def test_what_the_store_has_no_longer_is_not_shown(plugin: SearchPlugin, storage: MemoryStorage) -> None:
    publisher = Publisher(storage)
    await _publish(plugin, storage, publisher, "common 1", "common 2", "common 3")
    assert await plugin.wait_indexed(3, 60)
    await storage.prune_conversation("chat/a", 3)
    assert [hit.message.seq for hit in (await plugin.search(Query(q="common "))).hits] == [3]
    plugin.forget("chat/a", 3)

    async def forgotten() -> bool:
        return (await plugin.search(Query(q="common "))).total == 1

    await until(forgotten)


async def test_a_writer_can_wait_for_its_own_sequence(plugin: SearchPlugin, storage: MemoryStorage) -> None:
    publisher = Publisher(storage)
    waiting = asyncio.ensure_future(plugin.wait_sequence("chat/a", 2, 60))
    await _publish(plugin, storage, publisher, "one", "two", "three")
    assert await waiting
    assert not await plugin.wait_sequence("chat/a", 4, 0.05)
    assert not await plugin.wait_sequence("chat/none", 1, 0.05)
    await storage.prune_conversation("chat/a", 3)
    assert await plugin.wait_sequence("chat/a", 1, 0.05), "it was there, and is removed"


async def test_lag_and_reindex(plugin: SearchPlugin, storage: MemoryStorage) -> None:
    publisher = Publisher(storage)
    await _publish(plugin, storage, publisher, *[f"common {n}" for n in range(50)])
    assert await plugin.wait_indexed(50, 60)
    seen: list[Progress] = []
    assert await plugin.reindex(seen.append) == 50
    assert seen[-1] == Progress(50, 1.0)
    assert (await plugin.search(Query(q="common "))).total == 50
    await until(lambda: not plugin.lag().messages)
    assert plugin.lag() == (0, 0, 50)


async def test_an_index_is_rebuilt_while_no_broker_runs(tmp_path: Path, storage: MemoryStorage) -> None:
    config = SearchPlugin.Config(path=str(tmp_path / "search.db"))
    await Publisher(storage).publish("one", "two")
    assert await SearchPlugin.reindex_alone(storage, {"path": config.path}) == 2
    plugin = _plugin(path=config.path)
    await plugin.attach(storage)
    assert (await plugin.search(Query(q="two"))).total == 1
    await plugin.close()


async def test_a_rebuild_over_meilisearch_without_a_broker_has_large_tasks(stub: MeiliStub, storage: MemoryStorage) -> None:
    publisher = Publisher(storage)
    for _ in range(3):
        await publisher.publish(*["x" * 600] * 1000)  # more than a MiB
    options = {"engine": "meilisearch", "url": stub.url, "key": stub.key}
    assert await SearchPlugin.reindex_alone(storage, options) == 3000
    received = [task["details"]["receivedDocuments"] for task in stub.tasks if "details" in task]
    assert max(received) >= 3000


async def test_what_has_expired_is_not_shown(plugin: SearchPlugin, storage: MemoryStorage) -> None:
    now = time.time_ns() // 1_000_000
    for number, expires in ((1, now - 1000), (2, now + 60_000), (3, 0)):
        message = Message(number, "chat/a", "u/ann", "phone", now, 1, b"common", expires=expires)
        await storage.commit([Append(message)])
    assert await plugin.wait_indexed(3, 60)
    assert {hit.message.id for hit in (await plugin.search(Query(q="common"))).hits} == {2, 3}


async def test_over_meilisearch(stub: MeiliStub, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELINE_MEILISEARCH_KEY", stub.key)
    plugin = _plugin(engine="meilisearch", url=stub.url)
    stub.unavailable = True
    await plugin.attach(storage)  # the broker starts all the same
    with pytest.raises(SearchUnavailable):
        await plugin.search(Query(q="x"))
    stub.unavailable = False
    await _publish(plugin, storage, Publisher(storage), "明天会议 with a meeting")
    assert await plugin.wait_indexed(1, 60)
    (hit,) = (await plugin.search(Query(q="会议 meeting"))).hits
    assert hit.highlight == "明天<mark>会议</mark> with a <mark>meeting</mark>"
    await plugin.close()


async def test_without_a_storage_it_says_so(tmp_path: Path) -> None:
    plugin = _plugin(path=str(tmp_path / "search.db"))
    plugin.after_ack(Group([], []))
    with pytest.raises(SearchUnavailable, match="no storage yet"):
        await plugin.search(Query(q="x"))
    with pytest.raises(SearchUnavailable):
        plugin.lag()
    await plugin.close()


async def test_an_unusable_file_is_refused(tmp_path: Path, storage: MemoryStorage) -> None:
    plugin = _plugin(path=str(tmp_path))
    with pytest.raises(SearchUnusable):
        await plugin.attach(storage)
    await plugin.close()


async def test_an_index_that_cannot_be_opened_is_told_in_a_line_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("plugins.search.plugin._AGAIN", 0.001)
    path = tmp_path / "search.db"
    path.mkdir()
    async with running(plugins={"plugins.search.SearchPlugin": {"path": str(path)}}) as broker:
        search = broker.server.api.plugin(SearchPlugin)
        assert search is not None
        ann = await broker.client("ann")
        await ann.publish("a", b"meeting", qos=1)
        path.rmdir()
        await until(lambda: "there is search again" in caplog.text)
        assert await search.wait_sequence("a", 1)
        assert (await search.search(Query(q="meeting"))).total == 1
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert told.getMessage() == f"there is no search, trying again: search index {path}: Is a directory"
    assert told.exc_info is None


async def test_a_broker_whose_index_never_opened_stops(tmp_path: Path) -> None:
    async with running(plugins={"plugins.search.SearchPlugin": {"path": str(tmp_path)}}) as broker:
        search = broker.server.api.plugin(SearchPlugin)
        assert search is not None
        with pytest.raises(SearchUnavailable):
            search.lag()


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "solr"},
        {"batch": -1},
        {"batch": 10_001},
        {"share": 2.0},
        {"timeout": 0},
        {"url": "ftp://x"},
        {"url": "http://me:secret@host"},
        {"poll": 0.0},
    ],
)
def test_bad_settings_are_refused_without_showing_secrets(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        SearchPlugin.Config(**options)
    assert "secret" not in str(caught.value)


def test_the_key_is_not_in_the_configuration_as_it_is_shown() -> None:
    assert "hush" not in repr(SearchPlugin.Config(key="hush"))


def test_it_loads_as_the_config_file_names_it() -> None:
    assert checked("plugins.search.SearchPlugin", {"engine": "embedded", "batch": "100"})["batch"] == 100
