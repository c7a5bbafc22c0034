"""`tideline inspect` reads what a broker stores, beside it and after it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from broker.cli.main import main
from broker.ledger import TABLE, Step, Steps
from broker.sessions import member_key
from storage.factory import open_url
from storage.records import (
    Append,
    DeviceKey,
    Inflight,
    InflightState,
    MarkRead,
    Message,
    OpenSession,
    Progress,
    PutRow,
    Subscribe,
    Subscription,
)

ALICE = DeviceKey("u/alice", "phone")


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A directory with three messages in two conversations; alice's phone has finished the first."""
    storage = open_url(f"sqlite:///{tmp_path}/tideline.db")
    await storage.open()
    await storage.commit([OpenSession(ALICE, epoch=1, clean=False, expiry=0xFFFFFFFF)])
    await storage.commit([Subscribe(ALICE, 1, [Subscription("chat/#", 1)])])
    payloads = [("chat/a", b"first"), ("chat/b", b"\xff\x00"), ("chat/a", "zwölf \x1b[2J".encode())]
    for number, (topic, payload) in enumerate(payloads, 1):
        message = Message(number, topic, "u/bob", "laptop", 1_700_000_000_000 + number, 1, payload)
        await storage.commit([Append(message, recipients=["u/alice"])])
    await storage.commit([Progress(ALICE, 1, 1, 2, [Inflight(5, 2, InflightState.PUBLISHED_1)])])
    await storage.close()
    return tmp_path


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def rows(*arguments: object) -> list[dict[str, Any]]:
    shown = inspect(*arguments, "--json")
    assert shown.exit_code == 0, shown.output
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_conversations(data: Path) -> None:
    assert rows("conversations", "--data", data) == [
        {"topic": "chat/a", "first": 1, "last": 2, "kept": 2},
        {"topic": "chat/b", "first": 1, "last": 1, "kept": 1},
    ]
    assert [row["topic"] for row in rows("conversations", "--data", data, "--prefix", "chat/b")] == ["chat/b"]


def test_inboxes(data: Path) -> None:
    assert rows("inboxes", "--data", data) == [{"user": "u/alice", "first": 1, "last": 3, "kept": 3}]


async def test_a_member_of_a_channel_is_told_by_its_device(data: Path) -> None:
    storage = open_url(f"sqlite:///{data}/tideline.db")
    await storage.open()
    member = member_key("r/group/#", ALICE)
    await storage.commit([OpenSession(member, epoch=1, clean=False, expiry=0xFFFFFFFF)])
    await storage.close()
    of_alice = await asyncio.to_thread(rows, "devices", "--data", data, "--user", "alice")
    assert [(row["user"], row["device"]) for row in of_alice] == [("u/alice", "phone"), ("r/group/#", "u/alice phone")]
    of_channel = await asyncio.to_thread(rows, "devices", "--data", data, "--user", "r/group/#")
    assert [row["device"] for row in of_channel] == ["u/alice phone"]


def test_devices(data: Path) -> None:
    (row,) = rows("devices", "--data", data, "--user", "alice")
    assert (row["user"], row["device"], row["offset"], row["head"], row["lag"]) == ("u/alice", "phone", 1, 3, 2)
    assert row["inflight"] == [{"packet": 5, "seq": 2, "state": "published_1"}]
    assert row["subscriptions"] == [{"filter": "chat/#", "qos": 1, "since": 0}]
    assert rows("devices", "--data", data, "--user", "nobody") == []


def test_messages(data: Path) -> None:
    first, second = rows("messages", "chat/a", "--data", data)
    assert (first["seq"], first["payload"], first["user"], first["time"]) == (1, "first", "u/bob", "2023-11-14T22:13:20.001Z")
    assert second["payload"] == "zwölf \x1b[2J"
    assert [row["seq"] for row in rows("messages", "chat/a", "--data", data, "--newest")] == [2, 1]
    assert [row["seq"] for row in rows("messages", "chat/a", "--data", data, "--after", 1)] == [2]
    assert [row["seq"] for row in rows("messages", "chat/a", "--data", data, "--before", 2)] == [1]
    assert [row["seq"] for row in rows("messages", "chat/a", "--data", data, "--limit", 1)] == [1]


def test_inbox(data: Path) -> None:
    found = rows("inbox", "alice", "--data", data)
    assert [(row["inbox"], row["topic"], row["seq"]) for row in found] == [(1, "chat/a", 1), (2, "chat/b", 1), (3, "chat/a", 2)]
    assert found[1]["payload_base64"] == "/wA="
    assert [row["inbox"] for row in rows("inbox", "u/alice", "--data", data, "--after", 2)] == [3]


def test_tables_are_for_people_and_harmless_to_their_terminal(data: Path) -> None:
    shown = inspect("messages", "chat/a", "--data", data).stdout
    assert "\x1b" not in shown
    assert "zwölf \\x1b[2J" in shown
    assert shown.splitlines()[0].split() == ["seq", "topic", "time", "user", "device", "qos", "id", "payload"]
    assert "1 (2-2)" in inspect("devices", "--data", data).stdout


def test_a_url_and_the_configuration_name_it_too(data: Path, tmp_path: Path) -> None:
    assert len(rows("inboxes", "--url", f"sqlite:///{data}/tideline.db")) == 1
    config = tmp_path / "c.yaml"
    config.write_text(f"plugins: {{persistence: {{url: 'sqlite:///{data}/tideline.db'}}}}")
    assert len(rows("inboxes", "--config", config)) == 1


async def test_a_database_in_use_can_be_read_and_is_not_changed(data: Path) -> None:
    storage = open_url(f"sqlite:///{data}/tideline.db")
    await storage.open()
    try:
        shown = await asyncio.to_thread(rows, "conversations", "--data", data)
        assert len(shown) == 2
        await storage.commit([Append(Message(9, "chat/c", "u/bob", "laptop", 1_700_000_001_000, 0, b""))])
    finally:
        await storage.close()


def test_what_is_not_there_is_one_line_and_is_not_made(tmp_path: Path) -> None:
    shown = inspect("inboxes", "--data", tmp_path / "nothing")
    assert shown.exit_code == 3
    assert len(shown.stderr.splitlines()) == 1
    assert not (tmp_path / "nothing").exists()
    assert inspect("inboxes", "--url", "ftp://x").exit_code == 3


def test_what_is_not_there_is_named(data: Path) -> None:
    hint = "a bare name is a verified user's, u/<name>; an anonymous client's user is c/<client id>, here 'c/laptop'"
    assert inspect("inbox", "laptop", "-d", data).stderr == f"nothing in the inbox of 'u/laptop': {hint}\n"
    assert inspect("inbox", "c/laptop", "-d", data).stderr == "nothing in the inbox of 'c/laptop'\n"
    assert inspect("messages", "nope", "-d", data).stderr == "no messages of the conversation 'nope'\n"
    assert inspect("devices", "--user", "laptop", "-d", data).stderr == f"no devices of 'u/laptop': {hint}\n"


def test_the_place_stands_before_or_after_the_subcommand(data: Path) -> None:
    before, after = inspect("-d", data, "inboxes"), inspect("inboxes", "-d", data)
    assert before.exit_code == 0
    assert before.stdout == after.stdout


async def test_a_shared_group_is_shown_as_one(data: Path) -> None:
    storage = open_url(f"sqlite:///{data}/tideline.db")
    await storage.open()
    await storage.commit([OpenSession(DeviceKey("s/g/chat/#", ""), epoch=1, clean=False, expiry=0xFFFFFFFF)])
    await storage.close()
    shown = await asyncio.to_thread(inspect, "devices", "-d", data)
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("s/g/chat/#")]
    assert line.split("  ")[1] == "(shared group)"


async def test_who_has_a_message(data: Path) -> None:
    storage = open_url(f"sqlite:///{data}/tideline.db")
    await storage.open()
    steps = Steps([Step(0, 0, 1_700_000_001_000), Step(1, 2, 1_700_000_002_000)])
    await storage.commit([MarkRead("u/alice", "chat/a", 1), PutRow(TABLE, *ALICE, steps.packed())])
    await storage.close()
    (first,) = await asyncio.to_thread(rows, "message", f"{1:016x}", "--data", data)
    assert (first["user"], first["device"], first["entry"], first["state"]) == ("u/alice", "phone", 1, "acknowledged")
    assert first["acknowledged"] == "2023-11-14T22:13:21.000Z>2023-11-14T22:13:22.000Z"
    assert first["read"] is True
    (second,) = await asyncio.to_thread(rows, "message", f"{2:016x}", "--data", data)
    assert (second["entry"], second["state"], second["read"]) == (2, "delivered", False)
    (third,) = await asyncio.to_thread(rows, "message", f"{3:016x}", "--data", data)
    assert third["state"] == "stored"


def test_a_message_that_there_is_not(data: Path) -> None:
    none = inspect("message", f"{99:016x}", "--data", data)
    told = f"there is no message {99:016x}, or none any more, in sqlite:///{data}"
    assert (none.exit_code, told in none.output) == (1, True)
    wrong = inspect("message", "xyz", "--data", data)
    assert (wrong.exit_code, "16 hexadecimal digits" in wrong.output) == (2, True)
