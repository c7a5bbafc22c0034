"""`tideline acl check` of a topic that rules lead elsewhere: as its publisher would be answered. With a broker and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import tideline
from tests.http.conftest import site

ACCESS = [{"allow": ["publish"], "topics": ["v1/#", "maybe/#", "open/#"]}, {"deny": ["publish"], "topics": ["v2/shut/#"]}]
RULES = [
    {"name": "second", "topics": ["v1/#"], "topic": "v2/{rest}"},
    {"name": "onwards", "topics": ["v2/open/#"], "topic": "open/{user}"},
    {"name": "asks", "topics": ["maybe/1"], "where": "@.payload.x == 1", "topic": "x"},
    {"name": "fills", "topics": ["maybe/#"], "topic": "x/{payload.id}"},
    {"name": "adds", "topics": ["#"], "set": {"seen": "{user}"}},
]
CASES = [
    ("v1/x", False, "a rule leads it to v2/x: no rule allows it"),
    ("v1/shut/x", False, "a rule leads it to v2/shut/x: denied by "),
    ("v1/open/x", True, "a rule leads it to open/bob: allowed by "),
    ("maybe/1", True, "; where the message itself says so, asks, fills may lead it elsewhere: ask about that topic, too"),
    ("maybe/2", True, "; where the message itself says so, fills may lead it elsewhere"),
    ("open/x", True, "allowed by "),
    ("other", False, "no rule allows it"),
]


@pytest.mark.parametrize(("topic", "allowed", "why"), CASES)
def test_where_no_broker_runs(tmp_path: Path, topic: str, allowed: bool, why: str) -> None:
    config = tmp_path / "config.yaml"
    plugins = {"acl": {"rules": ACCESS}, "rules": {"rules": RULES}}
    config.write_text(json.dumps({"persistence": f"sqlite:///{tmp_path}/none.db", "plugins": plugins}))
    shown = tideline("acl", "check", "bob", "publish", topic, "-c", config)
    assert why in shown.output
    assert shown.output.startswith("allowed" if allowed else "denied")
    assert shown.exit_code == (0 if allowed else 1)


async def test_by_the_running_broker() -> None:
    plugins: dict[str, Any] = {"acl": {"rules": ACCESS}, "rules": {"rules": RULES}}
    async with site(plugins=plugins) as made:
        for topic, allowed, why in CASES:
            asked = {"user": "bob", "action": "publish", "topic": topic}
            answer = (await made.caller().get("/acl/check", params=asked)).json()
            assert (answer["allowed"], why in answer["why"]) == (allowed, True), answer
