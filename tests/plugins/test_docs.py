"""The plugins that docs/plugins.md shows work as they stand there."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
import yaml

import broker.hooks
from broker.packets import ReasonCode
from tests.cli.test_commands import ROOT
from tests.config.test_documents import programs
from tests.support.broker import running
from tests.support.until import until

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


async def test_the_two_whole_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    programs(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (config,) = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "house." in text]
    async with running(plugins=yaml.safe_load(config)["plugins"]) as house:
        ann = await house.client("ann", 5)
        await ann.subscribe("#", options=1)
        assert await ann.publish("chat/1", b"LOUD", qos=1) == ReasonCode.PAYLOAD_FORMAT_INVALID
        assert await ann.publish("other", b"LOUD", qos=1) == 0
        assert (await ann.message()).topic == "other"
        bob = await house.client("bob", 5)
        await bob.drop()
        for what in ("comes", "goes"):
            message = await ann.message()
            assert message.topic == "door"
            assert json.loads(message.payload) == {"user": "c/bob", "client": "bob", "what": what}
        counted = house.server.plugin_host.by_path["house.NoShouting"].stored
        await until(lambda: dict(counted) == {"c/ann": 1, "b/door": 3})
    assert "not told" not in caplog.text


def test_every_method_of_the_table_is_there_with_these_parameters() -> None:
    table = re.findall(r"^\| `(\w+)\.(\w+)\((.*?)\) -> None` \|", PAGE, re.MULTILINE)
    assert len(table) == 6
    for kind, method, parameters in table:
        signature = inspect.signature(getattr(getattr(broker.hooks, kind), method))
        assert [str(one).replace("'", "") for one in signature.parameters.values()] == parameters.split(", ")
