"""What docs/conversations.md shows works as it stands there, but for the port; over MQTT with paho as its users install it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
from pathlib import Path

from tests.http.conftest import Site

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conversations.md").read_text(encoding="utf-8")


async def test_the_calls_over_http(talk: Site) -> None:
    calls = re.findall(r"^(\w+) ([A-Z]+) /v1(\S+) (?:(\{.*\}) )?(\d{3})$", PAGE, re.MULTILINE)
    assert len(calls) == 20
    callers = {name: talk.caller(name) for name in ("alice", "bob", "eve")}
    for who, method, path, body, status in calls:
        answer = await callers[who].request(method, path, json=json.loads(body) if body else None)
        assert answer.status_code == int(status), f"{who} {method} {path}: {answer.text}"
        if path == "/me/conversations":
            (one,) = answer.json()["conversations"]
            assert (one["name"], one["unread"], one["mentions"], one["total"]) == ("lunch", 1, 1, 1)
    assert (await callers["alice"].get("/conversations/conv/lunch/about")).json()["name"] == "dinner"


async def test_the_chat_over_mqtt(talk: Site) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    host, port = talk.address
    names: dict[str, object] = {}
    printed = io.StringIO()

    def chat() -> None:
        with contextlib.redirect_stdout(printed):
            exec(program.replace('"localhost", 1883', f'"{host}", {port}'), names)

    try:
        await asyncio.to_thread(chat)
        assert printed.getvalue() == "True hello\n"
    finally:
        for name in ("alice", "bob"):
            client = names.get(name)
            if client is not None:
                await asyncio.to_thread(client.disconnect)  # type: ignore[attr-defined]
                await asyncio.to_thread(client.loop_stop)  # type: ignore[attr-defined]


async def test_every_request_that_is_listed_is_known_and_the_other_way_round(talk: Site) -> None:
    listed = set(re.findall(r"`(conversation-\w+)`", PAGE))
    phone = await talk.device("alice", "phone")
    assert await phone.subscribe("$sync/reply/phone", options=1) == [1]
    await phone.publish("$sync/request", b'{"op": "nothing"}', qos=1)
    known = json.loads((await phone.message()).payload)["error"]["detail"].rpartition("one of ")[2].split(", ")
    assert listed == {op for op in known if op.startswith("conversation-")}
    for op in sorted(listed):
        await phone.publish("$sync/request", json.dumps({"op": op, "wrong": 1}).encode(), qos=1)
        assert "wrong: unknown field" in json.loads((await phone.message()).payload)["error"]["detail"]


async def test_the_same_calls_over_mqtt(talk: Site) -> None:
    phones = {name: await talk.device(name, name) for name in ("alice", "bob", "eve")}
    for name, phone in phones.items():
        assert await phone.subscribe(f"$sync/reply/{name}", options=1) == [1]

    async def ask(who: str, op: str, **fields: object) -> dict[str, object]:
        request = {"op": f"conversation-{op}", **fields}
        await phones[who].publish("$sync/request", json.dumps(request).encode(), qos=1)
        while (message := await phones[who].message()).topic != f"$sync/reply/{who}":
            pass
        answer: dict[str, object] = json.loads(message.payload)
        return answer

    made = await ask("alice", "create", kind="group", name="lunch", members=["u/bob"])
    topic = made["topic"]
    assert (await ask("alice", "change", topic=topic, history="joining"))["name"] == "lunch"
    assert (await ask("alice", "member", topic=topic, user="u/eve", invite=True))["invited"] is True
    assert (await ask("eve", "join", topic=topic))["history"] == "joining"
    assert (await ask("eve", "mute", topic=topic))["error"]["detail"] == "muted is missing"  # type: ignore[index]
    assert (await ask("eve", "mute", topic=topic, muted=True))["mine"]["muted"] is True  # type: ignore[index]
    members = (await ask("bob", "members", topic=topic))["members"]
    assert [one["user"] for one in members] == ["u/alice", "u/bob", "u/eve"]  # type: ignore[attr-defined]
    assert (await ask("bob", "remove", topic=topic, user="u/eve"))["error"]["status"] == 403  # type: ignore[index]
    assert "error" not in await ask("alice", "remove", topic=topic, user="u/eve")
    assert "error" not in await ask("bob", "leave", topic=topic)
    assert [one["topic"] for one in (await ask("alice", "list"))["conversations"]] == [topic]  # type: ignore[attr-defined]
    assert (await ask("bob", "about", topic=topic))["error"]["name"] == "not-found"  # type: ignore[index]
