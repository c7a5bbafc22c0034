"""The dry run over HTTP, and what the one of the command line refuses; what that shows is in the recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.test_commands import tideline
from tests.http.conftest import site
from tests.webhooks.receiver import SECRET


async def test_the_operator_tries_a_message_over_http_and_nothing_is_stored_or_counted() -> None:
    """What each rule would do, in the order in which they act; a payload in any encoding; wrong values are told by name."""
    hook = {"url": "https://ops.example/hooks?key=hidden", "secrets": [SECRET]}
    move = {"name": "move", "topics": ["raw/#"], "where": "@.user == 'ann'", "topic": "hot/{rest}", "set": {"by": "{client}"}}
    tell = {"name": "tell", "topics": ["hot/#"], "republish": "copies/{payload.id}", "webhook": hook}
    async with site(plugins={"rules": {"rules": [move, tell]}}) as broker:
        caller = broker.caller(headers={"Content-Type": "application/json"})

        async def tried(payload: Any, **more: Any) -> Any:
            answer = await caller.post("/rules/test", json={"topic": "raw/1", "payload": payload, **more})
            assert answer.status_code == 200, answer.text
            return answer.json()

        found = await tried({"id": 7}, encoding="json", sender="u/ann")
        assert (found["topic"], found["encoding"], found["payload"]) == ("hot/1", "json", {"id": 7, "by": "test"})
        moved, told = found["rules"]
        assert moved["does"] == ["its topic becomes hot/1", 'its payload becomes {"id":7,"by":"test"}']
        assert told["does"] == ["it is published again to copies/7", "https://ops.example/hooks is told of it"]
        found = await tried("{}", sender="u/bob")
        assert "its condition does not hold: @.user == 'ann'" in found["rules"][0]["why_not"]
        assert "raw/1 matches none of its topics" in found["rules"][1]["why_not"]
        found = await tried("{}", topic="hot/1")
        assert [(one["failed"], one["why_not"]) for one in found["rules"][1:]] == [(True, "the message has no {payload.id}")]
        assert (await tried("//8=", encoding="base64"))["encoding"] == "base64"
        wrong = {"topic": "a/#", "sender": "ann", "client": "\ud800", "payload": 7, "qos": 3, "encoding": "xml", "more": 1}
        for name, value in wrong.items():
            answer = await caller.post("/rules/test", content=json.dumps({"topic": "raw/1", "payload": "", name: value}))
            assert answer.status_code == 422, (name, answer.text)
        answer = await caller.post("/rules/test", json={"topic": "$SYS/x", "payload": ""})
        assert answer.status_code == 422
        assert "'$SYS/x': rules see no topic that begins with '$'" in answer.json()["detail"]
        states = (await caller.get("/rules")).json()["rules"]
        assert [(state["matched"], state["faults"]) for state in states] == [(0, 0)] * 2
        assert states[0]["where"] == "@.user == 'ann'"
        assert states[1]["does"] == ["it is published again to copies/{payload.id}", "https://ops.example/hooks is told of it"]
        assert (await caller.get("/topics")).json()["topics"] == []


def test_no_topic_is_tried_that_rules_never_see(tmp_path: Path) -> None:
    """What is published to $SYS by a client is refused, and what goes to $delayed is not stored there."""
    config = tmp_path / "config.yaml"
    config.write_text("plugins: {rules: {rules: [{name: all, topics: ['#'], topic: 'x/{topic}'}]}}")
    tried = tideline("rules", "test", "--config", config, "--topic", "$SYS/x", "--payload", "1")
    assert tried.exit_code == 2
    assert "topic '$SYS/x': rules see no topic that begins with '$', which is for the broker" in tried.output
    assert "stored" not in tried.output
