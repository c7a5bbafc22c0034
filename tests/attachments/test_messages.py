"""Attachments and the messages that have them: who may read what, and that one goes with the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import pytest

from broker.config import checked
from broker.errors import StartError
from broker.packets import Property, ReasonCode
from broker.packets.model import PubAck, Publish
from plugins.attachments import AttachmentsPlugin
from plugins.attachments.cleaning import CleaningJob
from plugins.attachments.record import Record
from plugins.jobs import Work
from tests.attachments.parts import CONTENT, JSON, TUS, begun, cleaned, files, metadata, published, sent, url_of, whole
from tests.http.conftest import Site, passwords, site, sites
from tests.recall.test_erasure import erased
from tests.support.broker import Broker
from tests.support.cluster import cluster
from tests.support.until import until

__all__ = ["passwords", "sites"]

RULES = {
    "acl": {
        "rules": [
            {"allow": ["publish", "read"], "topics": ["team/#"], "users": ["alice", "bob"]},
            {"allow": "read", "topics": ["news/#"]},
        ]
    }
}


def plugin_of(broker: Broker) -> AttachmentsPlugin:
    plugin = broker.server.api.plugin(AttachmentsPlugin)
    assert plugin is not None
    return plugin


async def age(broker: Broker, path: str, milliseconds: int) -> None:
    """Have an attachment be so much older."""
    records = plugin_of(broker)._records
    record = cast(Record, await records.find(path.rpartition("/")[2]))
    record.expires -= milliseconds
    record.linked -= milliseconds
    assert await records.save(record)


async def test_who_may_read_the_conversation_is_given_its_attachments(
    sites: Callable[..., AbstractAsyncContextManager[Site]], tmp_path: Path
) -> None:
    async with sites(url_of(tmp_path), {"attachments": {}, **RULES}) as made:
        alice, bob, eve = (made.caller(name) for name in ("alice", "bob", "eve"))
        path = await whole(alice, "team/1", CONTENT)
        assert (await bob.get(path)).status_code == 404  # no message has it yet
        assert (await alice.get(path)).status_code == 200
        assert (await begun(eve, "team/1", 5)).status_code == 403
        assert (await begun(made.caller(), "team/1", 5)).status_code == 401
        for mine in (bob.head(path, headers=TUS), bob.delete(path, headers=TUS), sent(bob, path, 0, b"x")):
            assert (await mine).status_code == 404
        assert (await published(alice, "team/1", path)).status_code == 201
        assert (await bob.get(path)).content == CONTENT
        for other in (eve, made.caller()):
            assert (await other.get(path)).status_code in (401, 404)
        assert (await alice.delete(path, headers=TUS)).status_code == 409  # it goes with the message


async def test_an_attachment_whose_bytes_are_away_is_told_and_given_once_they_are_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where only the database was restored: not an answer that breaks off after it has promised them."""
    async with site(url_of(tmp_path), plugins={"attachments": {}}) as made:
        caller = made.caller()
        path = await whole(caller, "chat/1", b"bytes")
        folder = tmp_path / "attachments"
        folder.rename(tmp_path / "elsewhere")
        answer = await caller.get(path)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:tideline:unavailable")
        assert f"attachment {path.rpartition('/')[2]} cannot be given" in caplog.text
        (tmp_path / "elsewhere").rename(folder)
        assert (await caller.get(path)).content == b"bytes"
        (piece,) = files(tmp_path)
        piece.write_bytes(b"")
        assert (await caller.get(path)).status_code == 503


async def test_they_are_beside_the_database_however_its_url_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with site("sqlite://t.db", plugins={"attachments": {}}):
        assert (tmp_path / "t.db").exists()
        assert (tmp_path / "attachments").is_dir()


async def test_a_message_names_what_it_may_have(tmp_path: Path) -> None:
    """Over MQTT 5: the rest of the group is stored. A message that is sent again is a repeat as any."""
    async with site(url_of(tmp_path), plugins={"attachments": {}, "jobs": {}}) as made:
        caller = made.caller()
        created = await caller.post("/attachments", headers=_new("chat/1", 3), params={"user": "c/phone"})
        half = created.headers["location"].removeprefix("/v1")
        path = await _whole_of(caller, "chat/1", b"abc", "c/phone")
        other = await whole(caller, "chat/1", b"abc")
        client = await made.client("phone", 5, properties={Property.REQUEST_PROBLEM_INFORMATION: 1})

        async def told(topic: str, *paths: str, key: str = "") -> tuple[int, str]:
            pairs = [("attachment", path.rpartition("/")[2]) for path in paths] + ([("message-id", key)] if key else [])
            client.send(Publish(topic, b"look", 1, packet_id=9, properties={Property.USER_PROPERTY: pairs}))
            answer = await client.expect(PubAck)
            return answer.reason, str(answer.properties.get(Property.REASON_STRING, ""))

        refused = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        for topic, found, why in (
            ("chat/1", half, "is not complete: 0 of 3 bytes have come"),
            ("chat/1", other, "there is none of yours"),
            ("chat/1", "/attachments/nonsense", "there is none of yours"),
            ("chat/2", path, "is for 'chat/1', not for 'chat/2'"),
        ):
            reason, text = await told(topic, found)
            assert (reason, why in text) == (refused, True), text
        assert (await told("chat/1", path, key="k"))[0] == ReasonCode.NO_MATCHING_SUBSCRIBERS
        assert (await told("chat/1", path, key="k"))[0] in (0, ReasonCode.NO_MATCHING_SUBSCRIBERS)
        assert (await made.server.storage.conversation_bounds("chat/1"))[1] == 1
        assert (await caller.get(path)).content == b"abc"
        # A repeat is not stored: what it names beside that is free again.
        second = await _whole_of(caller, "chat/1", b"abc", "c/phone")
        assert (await told("chat/1", second, key="k"))[0] in (0, ReasonCode.NO_MATCHING_SUBSCRIBERS)
        await until(lambda: free(made, second))
        assert (await told("chat/1", second))[0] == ReasonCode.NO_MATCHING_SUBSCRIBERS
        assert (await cleaned(made))["of_gone_messages"] == 0


def _new(topic: str, length: int) -> dict[str, str]:
    return {**TUS, "Upload-Length": str(length), "Upload-Metadata": metadata(topic=topic)}


async def _whole_of(caller: Any, topic: str, data: bytes, user: str) -> str:
    created = await caller.post("/attachments", headers=_new(topic, len(data)), params={"user": user})
    path = str(created.headers["location"]).removeprefix("/v1")
    assert (await sent(caller, f"{path}?user={user}", 0, data)).status_code == 204
    return path


async def test_an_attachment_goes_with_its_message(tmp_path: Path) -> None:
    """Retention takes the message: nobody is given the attachment, and the job removes it."""
    jobs = {"retention": {"schedule": "never", "rules": [{"filter": "chat/#", "max_messages": 1}]}}
    async with site(url_of(tmp_path), plugins={"attachments": {}, "jobs": jobs}) as made:
        caller = made.caller()
        first, second = [await whole(caller, "chat/1", CONTENT) for _ in range(2)]
        for path in (first, second):
            assert (await published(caller, "chat/1", path)).status_code == 201
        await age(made, first, 3_600_000)
        assert (await cleaned(made))["of_gone_messages"] == 0
        assert (await caller.post("/jobs/retention/run", headers=JSON)).status_code == 202
        await until(lambda: gone(made))
        assert (await caller.get(first)).status_code == 404
        assert (await cleaned(made))["of_gone_messages"] == 1
        assert len(files(tmp_path)) == 1
        assert (await caller.get(second)).content == CONTENT
        assert await plugin_of(made)._records.find(first.rpartition("/")[2]) is None


async def test_an_erasure_takes_also_what_no_message_has(tmp_path: Path) -> None:
    """Of a user, and for a conversation: begun, complete, and of a message; what others have stays."""
    async with site(url_of(tmp_path), plugins={"attachments": {}, "recall": {}}) as made:
        ann, bob = made.caller(params={"user": "c/ann"}), made.caller(params={"user": "c/bob"})
        paths: dict[str, str] = {}
        for name, caller in (("ann", ann), ("bob", bob)):
            for topic in ("chat/1", "chat/2"):
                for kind in ("begun", "whole", "said"):
                    created = await begun(caller, topic, 3)
                    path = paths[f"{name} {topic} {kind}"] = created.headers["location"].removeprefix("/v1")
                    await sent(caller, path, 0, b"ab" if kind == "begun" else b"abc")
                    if kind == "said":
                        assert (await published(caller, topic, path)).status_code == 201
        assert len(files(tmp_path)) == 12
        await erased(made, user="c/ann")
        assert await _there(made, paths) == {name for name in paths if name.startswith("bob")}
        await erased(made, conversation="chat/1")
        left = {name for name in paths if name.startswith("bob chat/2")}
        assert await _there(made, paths) == left
        assert await plugin_of(made)._records.ids_of_user("c/ann", "", 9) == []
        await until(lambda: len(files(tmp_path)) == 3)


async def test_an_erasure_waits_until_the_bytes_can_be_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with site(url_of(tmp_path), plugins={"attachments": {}, "recall": {}}) as made:
        caller = made.caller(params={"user": "c/ann"})
        assert (await published(caller, "chat/1", await whole(caller, "chat/1", b"bytes"))).status_code == 201
        (file,) = files(tmp_path)
        in_the_way = file.with_name("folder")
        in_the_way.mkdir()
        erasing = asyncio.create_task(erased(made, user="c/ann"))
        try:
            await until(lambda: "erasing waits: the directory of attachments: " in caplog.text)
            assert not erasing.done()
        finally:
            in_the_way.rmdir()
            await erasing
        assert files(tmp_path) == []
        assert await plugin_of(made)._records.ids_of_user("c/ann", "", 9) == []


async def _there(made: Broker, paths: dict[str, str]) -> set[str]:
    """Of which of these there is a record."""
    records = plugin_of(made)._records
    return {name for name, path in paths.items() if await records.find(path.rpartition("/")[2]) is not None}


async def test_a_recall_removes_the_bytes_at_once(tmp_path: Path) -> None:
    """And what is given is looked up by the message: a recall on another node, or one that was missed here, is heeded too."""
    async with site(url_of(tmp_path), plugins={"attachments": {}, "recall": {}}) as made:
        caller = made.caller()
        path = await whole(caller, "chat/1", CONTENT)
        message = (await published(caller, "chat/1", path)).json()
        assert (await caller.get(path)).content == CONTENT
        answer = await caller.post(f"/messages/{message['id']}/recall", headers=JSON)
        assert answer.is_success, answer.text
        assert (await caller.get(path)).status_code == 404
        await until(lambda: not files(tmp_path))


async def free(made: Site, path: str) -> bool:
    record = await plugin_of(made)._records.find(path.rpartition("/")[2])
    return record is not None and not record.message


async def gone(made: Site) -> bool:
    return (await made.server.storage.conversation_bounds("chat/1"))[0] == 2


async def test_what_no_message_got_in_a_day_and_what_nobody_knows_of_is_removed(tmp_path: Path) -> None:
    async with site(url_of(tmp_path), plugins={"attachments": {}, "jobs": {}}) as made:
        caller = made.caller()
        kept = await whole(caller, "chat/1", b"kept")
        late = await whole(caller, "chat/1", b"late")
        half = (await begun(caller, "chat/1", 1000)).headers["location"].removeprefix("/v1")
        await sent(caller, half, 0, b"x" * 500)
        stray = tmp_path / "attachments" / "ab" / ("ab" + "0" * 30) / "0000-00000000"
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"left by a crash")
        for path in (late, half):
            await age(made, path, 86_400_000 - 30_000)
        answer = await published(caller, "chat/1", late)
        assert (answer.status_code, "has expired" in answer.text) == (422, True)
        assert await cleaned(made) == {"expired": 0, "of_gone_messages": 0, "pieces": 0}
        for path in (late, half):
            await age(made, path, 30_000)
        assert await cleaned(made) == {"expired": 2, "of_gone_messages": 0, "pieces": 0}
        assert (await caller.get(kept)).content == b"kept"
        assert (await caller.head(half, headers=TUS)).status_code == 404
        plugin = plugin_of(made)
        work = Work()
        await CleaningJob(plugin._server, plugin._records, plugin._pieces, plugin._links, kept=-1).run(work)
        assert work.detail["pieces"] == 1
        assert [path.read_bytes() for path in files(tmp_path)] == [b"kept"]


async def test_a_cluster_needs_one_place_for_all_nodes(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="several nodes may serve this database"):
        async with cluster(1, plugins={"attachments": {"directory": str(tmp_path)}}):
            pass
    http = {"http": {"bind": "127.0.0.1:0", "operator_file": ""}}
    shared = {"attachments": {"directory": str(tmp_path / "attachments"), "shared": True}}
    async with cluster(2, plugins={**http, **shared}) as made:
        one, other = (Site(node) for node in made.nodes)
        try:
            path = await whole(one.caller(), "chat/1", CONTENT)
            assert (await published(other.caller(), "chat/1", path)).status_code == 201
            for node in (one, other):
                assert (await node.caller().get(path)).content == CONTENT
            await two_write_at_once(tmp_path, one, other)
        finally:
            await one.close()
            await other.close()


async def two_write_at_once(folder: Path, one: Site, other: Site) -> None:
    """Of two nodes that take bytes at one offset, one counts, and the other one's bytes are gone."""
    before = len(files(folder))
    path = (await begun(one.caller(), "chat/1", 10)).headers["location"].removeprefix("/v1")

    async def takes(node: Site, data: bytes) -> Record:
        async def body() -> AsyncIterator[bytes]:
            yield data

        plugin = plugin_of(node)
        record = cast(Record, await plugin._records.find(path.rpartition("/")[2]))
        both.append(node)
        await until(lambda: len(both) == 2)
        return await plugin.uploads.take(record, 0, body(), 0, None, asyncio.Event())

    both: list[Site] = []
    done = await asyncio.gather(takes(one, b"a" * 10), takes(other, b"b" * 10), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in done) == ["Conflict", "Record"]
    assert len(files(folder)) == before + 1
    assert (await other.caller().get(path)).content in (b"a" * 10, b"b" * 10)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_size": "1 TiB"}, 'max_size: .1 TiB. must be a size of 1 to .* bytes, such as "100 MiB"'),
        ({"keep": "1s"}, "keep: .1s. must be a duration of 10 minutes to a year"),
        ({"max_unfinished": 0}, "max_unfinished: 0 must be 1 to 1000"),
        ({"schedule": "often"}, "often"),
        ({"directory": "x", "s3": {"bucket": "b"}}, "directory: leave it out"),
        ({"s3": {"bucket": "b", "endpoint": "b.example"}}, "endpoint: .b.example. must be https://host"),
        ({"s3": {"bucket": "b", "access_key": "a"}}, "access_key: give secret_key with it"),
    ],
)
def test_what_is_wrong_with_the_settings_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(StartError, match=told):
        checked("plugins.attachments.AttachmentsPlugin", options)
