"""The Python client against a real broker: offline first, what comes and what is sent survives the app."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from tideline_client import Client, Message, Outgoing, Receipt, RequestFailed

from tests.http.conftest import Site, site
from tests.support.laws_process import ROOT
from tests.support.until import PATIENCE, until

PLUGINS: dict[str, Any] = {"receipts": {"resolution_seconds": 0.05}}


class Reached(Protocol):
    """A broker at an address."""

    @property
    def address(self) -> tuple[str, int]: ...


class App:
    """An app on a device: what its callbacks were told."""

    def __init__(self, broker: Reached, folder: Path, device: str, **options: Any) -> None:
        self.client = Client("127.0.0.1", broker.address[1], device=device, store=folder / f"{device}.db", **options)
        self.came: list[str] = []
        self.receipts: list[tuple[str, int | None, str | None]] = []
        self.read: list[tuple[str, int]] = []
        self.refused: list[Outgoing] = []
        self.client.on_message = self._message
        self.client.on_receipt = self._receipt
        self.client.on_read = lambda topic, position: self.read.append((topic, position))
        self.client.on_refused = self.refused.append
        self.client.subscribe("chat/#")

    def _message(self, message: Message) -> None:
        self.came.append(message.text)

    def _receipt(self, receipt: Receipt) -> None:
        self.receipts.append((receipt.state, receipt.count, receipt.key))


@asynccontextmanager
async def app(broker: Reached, folder: Path, device: str, **options: Any) -> AsyncIterator[App]:
    made = App(broker, folder, device, **options)
    made.client.start()
    assert await asyncio.to_thread(made.client.wait_connected)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.client.stop)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(f"sqlite:///{tmp_path}/t.db", plugins=PLUGINS) as made:
        yield made


async def test_what_was_sent_offline_goes_out_in_order_and_is_stored_once(broker: Site, tmp_path: Path) -> None:
    offline = App(broker, tmp_path, "phone")
    for number in range(5):
        offline.client.send("chat/a", str(number))
    offline.client.store.close()  # the app ends
    async with app(broker, tmp_path, "phone") as phone:
        await until(lambda: not phone.client.outbox())
        await until(lambda: phone.came == ["0", "1", "2", "3", "4"])
        key = phone.client.send("chat/a", "again")
        await until(lambda: not phone.client.outbox())
        phone.client.store.put(Outgoing(key, "chat/a", b"again", ()))  # as if its acknowledgement had been lost
        phone.client._sender.wake()
        await until(lambda: not phone.client.outbox())
    assert await broker.server.storage.conversation_bounds("chat/a") == (1, 6)


async def test_an_app_that_was_away_has_what_it_missed_and_what_it_had(broker: Site, tmp_path: Path) -> None:
    sender = await broker.client("sender", 5)
    async with app(broker, tmp_path, "phone") as phone:
        await sender.publish("chat/a", b"one", 1)
        await until(lambda: phone.came == ["one"])
    await sender.publish("chat/a", b"two", 1)
    async with app(broker, tmp_path, "phone") as phone:
        await until(lambda: phone.came == ["two"])
        assert [message.text for message in phone.client.store.history("chat/a", 9)] == ["one", "two"]
        await until(lambda: phone.client.store.offset == 2)


async def test_without_its_session_the_app_goes_on_from_its_own_offset(broker: Site, tmp_path: Path) -> None:
    async with app(broker, tmp_path, "phone"):
        pass
    sender = await broker.client("sender", 5)
    keeper = await broker.durable("keeper", 5)  # the conversation has another reader
    await keeper.subscribe("chat/#", options=1)
    async with app(broker, tmp_path, "phone") as phone:
        await sender.publish("chat/a", b"one", 1)
        await until(lambda: phone.came == ["one"])
    await sender.publish("chat/a", b"two", 1)
    http = broker.caller()
    assert (await http.delete("/devices/phone", params={"user": "c/phone"})).status_code == 204
    async with app(broker, tmp_path, "phone") as phone:
        await until(lambda: phone.came == ["two"])


@pytest.mark.parametrize("killed", [False, True])
async def test_what_comes_before_the_app_has_gone_back_hides_nothing(broker: Site, tmp_path: Path, killed: bool) -> None:
    sender = await broker.client("sender", 5)
    keeper = await broker.durable("keeper", 5)  # the conversation has another reader
    await keeper.subscribe("chat/#", options=1)
    async with app(broker, tmp_path, "phone") as phone:
        await sender.publish("chat/a", b"one", 1)
        await until(lambda: phone.came == ["one"])
    await sender.publish("chat/a", b"two", 1)
    http = broker.caller()
    assert (await http.delete("/devices/phone", params={"user": "c/phone"})).status_code == 204
    slow = App(broker, tmp_path, "phone")
    publish, asked = slow.client._requests._publish, list[bytes]()
    slow.client._requests._publish = asked.append  # what it asks is long on its way
    slow.client.start()
    await until(lambda: len(asked) == 1)
    await sender.publish("chat/a", b"three", 1)
    await until(lambda: slow.came == ["three"])
    if not killed:
        slow.client._requests._publish = publish
        publish(asked[0])
        await until(lambda: slow.came == ["three", "two"])
    await asyncio.to_thread(slow.client.stop)
    async with app(broker, tmp_path, "phone") as phone:
        await until(lambda: phone.client.store.offset == 3)
        assert phone.came == (["two"] if killed else [])
        assert [message.text for message in phone.client.store.history("chat/a", 9)] == ["one", "two", "three"]


async def test_receipts_read_positions_and_unread_counts(broker: Site, tmp_path: Path) -> None:
    async with app(broker, tmp_path, "alice") as alice, app(broker, tmp_path, "bob") as bob:
        key = alice.client.send("chat/a", "hello", receipt=["delivered", "read"])
        await until(lambda: ("delivered", 1, key) in alice.receipts)
        await until(lambda: bob.came == ["hello"])
        assert bob.client.unread("chat/a") == 1
        bob.client.mark_read("chat/a", 1)
        assert bob.client.unread("chat/a") == 0
        await until(lambda: ("read", 1, key) in alice.receipts)
        await until(lambda: not bob.client.store.untold())
        (message,) = alice.client.store.history("chat/a", 9)
        counts = await asyncio.to_thread(alice.client.receipts, message.id)
        assert counts == {"stored": 2, "delivered": 2, "acknowledged": 2, "read": 1}


async def test_what_was_read_offline_is_told_later(broker: Site, tmp_path: Path) -> None:
    async with app(broker, tmp_path, "phone") as phone:
        phone.client.send("chat/a", "hello")
        await until(lambda: phone.came == ["hello"])
    offline = App(broker, tmp_path, "phone")
    offline.client.mark_read("chat/a", 1)
    offline.client.store.close()
    async with app(broker, tmp_path, "phone"):

        async def told() -> bool:
            return await broker.server.storage.read_position("c/phone", "chat/a") == 1

        await until(told)


async def test_history_fetches_what_is_missing(broker: Site, tmp_path: Path) -> None:
    writer = await broker.durable("phone", 5)
    for number in range(4):
        await writer.publish("chat/a", b"%d" % number, 1)
    await writer.leave()
    async with app(broker, tmp_path, "phone") as phone:
        found = await asyncio.to_thread(phone.client.history, "chat/a", 3)
        assert [message.text for message in found] == ["1", "2", "3"]
        older = await asyncio.to_thread(phone.client.history, "chat/a", 3, found[0].seq)
        assert [message.text for message in older] == ["0"]


async def test_a_conversation_in_which_nobody_has_said_anything_has_an_empty_history(broker: Site, tmp_path: Path) -> None:
    """The first call of nearly every chat: what is here, online as offline. So also where one may not read, or no more."""
    async with app(broker, tmp_path, "phone") as phone:
        for topic in ("chat/none", "secret/b"):
            assert await asyncio.to_thread(phone.client.history, topic) == []
        phone.client.store.take(Message("1" * 16, "secret/b", 1, "u/bob", 1, b"before"))
        (message,) = await asyncio.to_thread(phone.client.history, "secret/b")
        assert message.text == "before"
        with pytest.raises(RequestFailed, match="there is none, or you may not read it"):
            await asyncio.to_thread(phone.client.request, {"op": "history", "topic": "chat/none"})


async def test_history_is_as_long_as_was_asked_for(broker: Site, tmp_path: Path) -> None:
    """Also where the broker ends a page at 1 MiB, and where it gives no page of that many messages."""
    writer = await broker.durable("phone", 5)
    for number in range(5):
        await writer.publish("chat/a", b"%d" % number * 400_000, 1)
    await writer.leave()
    async with app(broker, tmp_path, "phone") as phone:
        for limit, first in ((4, "1"), (501, "0")):
            found = await asyncio.to_thread(phone.client.history, "chat/a", limit)
            assert "".join(message.text[0] for message in found) == "01234"[int(first) :]
        with pytest.raises(ValueError, match="limit -1: must be a whole number from 0 on"):
            phone.client.history("chat/a", -1)


async def test_what_the_broker_refuses_stays_with_the_reason(broker: Site, tmp_path: Path) -> None:
    async with app(broker, tmp_path, "phone") as phone:
        phone.client.send("chat/a", "x", receipt=["seen"])
        phone.client.send("chat/a", "y")
        await until(lambda: phone.came == ["y"] and len(phone.refused) == 1)
        (refused,) = phone.refused
        assert phone.client.outbox() == [refused]
        assert refused.reason == "tideline-receipt 'seen': must be delivered, acknowledged or read"
        with pytest.raises(TypeError, match="a dict must be str or bytes"):
            phone.client.send("chat/a", {"text": "x"})  # type: ignore[arg-type]
        phone.client.discard(refused.key)
        assert phone.client.outbox() == []


async def test_what_the_broker_ends_the_connection_for_is_found_and_the_rest_goes_on(broker: Site, tmp_path: Path) -> None:
    """Also what an earlier app, or another program, has put into the outbox."""
    offline = App(broker, tmp_path, "phone")
    deep = "/".join(["chat"] * 300)
    for key, topic, payload in (
        ("large", "chat/a", "x" * (1 << 20)),
        ("fits", "chat/a", "1"),
        ("deep", deep, "2"),
        ("filter", "chat/+", "3"),
        ("control", "chat/\x01", "4"),
        ("follows", "chat/a", "5"),
    ):
        offline.client.store.put(Outgoing(key, topic, payload.encode(), ()))
    offline.client.store.close()
    async with app(broker, tmp_path, "phone") as phone:
        await until(lambda: phone.came == ["1", "5"])
        await until(lambda: len(phone.client.outbox()) == 4)
        assert {message.key: message.reason for message in phone.client.outbox()} == {m.key: m.reason for m in phone.refused}
        reasons = {message.key: message.reason for message in phone.refused}
        assert reasons.keys() == {"large", "deep", "filter", "control"}
        assert reasons["large"] == "the message makes a packet of 1048611 bytes: the broker takes 1048576 at most"
        assert reasons["deep"].startswith("the broker ends the connection: ")
        for wrong, words in (
            ("", "at least one character"),
            ("a/+", "one topic"),
            ("a\x00", "no control"),
            ("x" * 65536, "65535"),
        ):
            with pytest.raises(ValueError, match=words):
                phone.client.send(wrong, "x")
        with pytest.raises(ValueError, match="one whole level"):
            phone.client.subscribe("a/#/b")


async def test_the_example_in_the_readme_runs(broker: Site, tmp_path: Path) -> None:
    text = (ROOT / "clients/python/README.md").read_text(encoding="utf-8")
    (tmp_path / "app.py").write_text(text.split("```python\n")[1].split("```")[0].replace("1883", str(broker.address[1])))
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "clients/python"), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    run = await asyncio.create_subprocess_exec(sys.executable, "app.py", cwd=tmp_path, env=environ, stdin=pipe, stdout=pipe)
    assert run.stdout is not None
    while (line := await asyncio.wait_for(run.stdout.readline(), PATIENCE)) != b"c/phone dinner is ready\n":
        assert line, "it ended before its message came"  # else it is a receipt, or the history
    await asyncio.wait_for(run.communicate(b"\n"), PATIENCE)
    assert run.returncode == 0
    assert await broker.server.storage.conversation_bounds("chat/kitchen") == (1, 1)
