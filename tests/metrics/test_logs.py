"""The log: levels while it runs, JSON with what a line is about, and no secret in it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.cli import logs
from broker.config import Log
from broker.packets.encoder import encode
from broker.packets.model import Connect, Will
from tests.cli.test_commands import tideline
from tests.http.conftest import ACL, HTTP, Site, passwords, sites, tour

__all__ = ["passwords", "sites", "tour"]

Sites = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a broker writes with ``log: {level: debug, format: json}``."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.configure(Log(level="debug", format="json"))
    handler = root.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(out)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


SECRETS = ("alice-password", "bob-password", "wrong-secret", "payload-secret", "will-secret", "property-secret", "token-secret")


async def test_no_secret_in_the_log_of_a_busy_run(sites: Sites, written: io.StringIO, tmp_path: Path) -> None:
    """At debug, with logins that fail, refusals, violations and plugins that fail, over MQTT and HTTP."""
    rules = {"publish_acl": {"alice": ["a/#"]}, "acl": {"alice": ["a/#"], "bob": ["#"]}}
    async with sites(f"sqlite:///{tmp_path}/t.db", plugins={ACL: rules, "search": {"path": str(tmp_path / "s.db")}}) as made:
        alice = await made.device("alice", "alice-1", 5)
        await alice.subscribe("a/#", options=1)
        properties = {38: [("name", "property-secret")], 9: b"property-secret"}
        publisher = await made.device("alice", "alice-2", 5)
        for topic, qos in (("a/b", 0), ("a/b", 1), ("a/c", 2), ("forbidden/x", 1)):
            await publisher.publish(topic, b"payload-secret", qos, retain=True, properties=properties)
        await alice.messages(3)
        guess = await made.socket(5)
        guess.send(Connect("guess", 5, username="alice", password=b"wrong-secret", will=Will("w", b"will-secret")))
        await guess.closed()
        broken = await made.socket(4)
        broken.send_bytes(encode(Connect("broken", 4, username="bob", password=b"bob-password"), 4)[:-3] + b"\xff\xff\xff\xff")
        await broken.drop()
        garbage = await made.device("bob", "bob-1")
        garbage.send_bytes(b"\x30\x13\x00\x03a/bpayload-secret")
        garbage.send_bytes(b"\xf0\x0epayload-secret")
        await garbage.closed()
        http = made.caller("alice")
        assert (await http.post("/conversations/a/b/messages", json={"payload": "payload-secret"})).status_code == 201
        assert (await http.post("/conversations/a/b/messages", json={"payload": ["payload-secret"]})).status_code == 422
        assert (await made.caller(headers={"Authorization": "Bearer token-secret"}).get("/me")).status_code == 401
        token = (await http.post("/tokens", json={"label": "x"})).json()["token"]
        assert (await made.caller(headers={"Authorization": f"Bearer {token}"}).get("/me")).status_code == 200
    text = written.getvalue()
    assert [secret for secret in (*SECRETS, token, token[3:]) if secret in text] == []
    told = lines(written)
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in told))
    refused = next(line for line in told if line.get("topic") == "forbidden/x")
    assert (refused["client"], refused["user"], refused["address"]) == ("alice-2", "u/alice", "127.0.0.1")
    wrong = next(line for line in told if line.get("client") == "guess")
    assert (wrong["user"], wrong["address"]) == ("alice", "127.0.0.1")
    closed = next(line for line in told if line["message"].startswith("closing 'bob-1'"))
    assert (closed["client"], closed["user"], closed["listener"]) == ("bob-1", "u/bob", "tcp")


async def test_the_level_changes_while_it_runs(tour: Site) -> None:
    before = logging.getLogger().level
    http = tour.caller()
    assert (await http.put("/log", json={"level": "warning"})).json() == {"level": "warning", "loggers": {}}
    told = await http.put("/log", json={"level": "debug", "logger": "broker.connection"})
    assert told.json() == {"level": "warning", "loggers": {"broker.connection": "debug"}}
    assert logging.getLogger("broker.connection.connection").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("broker.server").isEnabledFor(logging.INFO)
    told = await http.put("/log", json={"level": "inherit", "logger": "broker.connection"})
    assert told.json() == (await http.get("/log")).json() == {"level": "warning", "loggers": {}}
    for body, said in (
        ({"level": "debug", "logger": "broker.conection"}, "did you mean 'broker.connection'?"),
        ({"level": "inherit"}, "inherit is for a logger"),
        ({"level": "loud"}, "must be"),
    ):
        answer = await http.put("/log", json=body)
        assert (answer.status_code, said in answer.json()["detail"]) == (422, True), answer.text
    await tour.server.stop()
    assert logging.getLogger().level == before


async def test_the_command(tmp_path: Path, sites: Sites) -> None:
    operator = str(tmp_path / "operator.json")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"plugins": {"http": {"operator_file": operator}}}))

    async def run(*arguments: str) -> tuple[int, str]:
        done = await asyncio.to_thread(tideline, "log", "level", *arguments, "-c", config)
        return done.exit_code, done.output

    async with sites(plugins={"http": {**HTTP["http"], "operator_file": operator}}) as made:
        assert await run("warning") == (0, "log: warning\n")
        assert await run("debug", "--logger", "broker.net") == (0, "log: warning\nbroker.net: debug\n")
        assert await run() == (0, "log: warning\nbroker.net: debug\n")
        code, said = await run("info", "--logger", "brokr")
        assert (code, "logger: 'brokr' is none" in said) == (2, True)
        assert (await made.caller("alice").get("/log")).status_code == 403
    assert (await run())[0] == 3
