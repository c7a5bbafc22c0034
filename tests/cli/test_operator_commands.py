"""`tideline clients`, `retained` and `ban`, beside a running broker."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.cli.ask import Gone, RunningBroker
from broker.cli.main import main
from tests.support.broker import running

WRONG = [
    (["ban", "add"], "give one of --user, --client and --address"),
    (["ban", "add", "--user", "al", "--client", "al"], "give one of"),
    (["ban", "add", "--address", "192.0.2.1/24"], "'192.0.2.1/24': must be an IP address or a network"),
    (["ban", "add", "--client", ""], "client: '' must not be empty"),
    (["log", "level", "inherit"], "inherit is for a logger"),
    (["retained", "list", "a/#/b"], "'#' must be the whole last level"),
    (["acl", "check", "al", "publish", "a/#"], "topic name 'a/#' holds a wildcard"),
    (["acl", "check", "al", "publish", ""], "topic: '' must not be empty"),
]
"""Beside a running broker."""


async def test_the_commands_ask_the_running_broker(tmp_path: Path) -> None:
    operator = tmp_path / "operator.json"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"plugins:\n  persistence: {{url: 'memory://'}}\n  sync: {{}}\n  http: {{operator_file: {operator}}}\n  acl: {{}}\n"
    )

    async def command(*words: str, code: int = 0) -> Result:
        done = await asyncio.to_thread(CliRunner().invoke, main, [*words, "-c", str(config)])
        assert done.exit_code == code, done.output
        return done

    await command("clients", "list", code=3)
    async with running(plugins={"http": {"bind": "127.0.0.1:0", "operator_file": str(operator)}, "acl": {}}) as broker:
        assert (await command("clients", "list")).output == "nothing\n"

        await command("ban", "add", "--address", "192.0.2.0/24", "--for", "soon", code=2)
        for wrong, told in WRONG:
            said = (await command(*wrong, code=2)).output
            assert told in said, said
            assert not re.search(r"\b(body|query|path)\.", said), said
        made = (await command("ban", "add", "--address", "192.0.2.0/24", "--for", "2h", "--reason", "floods")).output
        assert made.startswith("address:192.0.2.0/24 is banned until 2")
        assert (await command("ban", "list")).output.splitlines()[1].split()[-1] == "floods"
        (line,) = (await command("ban", "list", "--json")).output.splitlines()
        await command("ban", "remove", json.loads(line)["id"])
        for added, key in [("--user=al", "user:u/al"), ("--user=c/al", "user:c/al"), ("--address=::1", "address:::1/128")]:
            assert (await command("ban", "add", added)).output == f"{key} is banned\n"
            assert (await command("ban", "remove", added.partition("=")[2])).output == f"{key} may come again\n"
        await command("ban", "add", "--user=al")
        await command("ban", "add", "--client=al")
        assert "say which of user:u/al and client:al" in (await command("ban", "remove", "al", code=2)).output
        assert (await command("ban", "remove", "u/al")).output == "user:u/al may come again\n"
        assert (await command("ban", "remove", "al")).output == "client:al may come again\n"
        assert "there is none; `tideline ban list` names" in (await command("ban", "remove", "al", code=1)).output
        assert (await command("ban", "list")).output == "nothing\n"

        sensor = await broker.durable("a/sensor", 5)
        await sensor.subscribe("in/#", options=1)
        for topic in ("t/1", "t/ü?&", "u"):
            await sensor.publish(topic, b"x", retain=True)
        titles, row = (await command("clients", "list", "--connected")).output.splitlines()
        assert titles.split()[:3] == ["user", "client", "state"]
        assert row.split()[:3] == ["c/a/sensor", "a/sensor", "connected"]
        (line,) = (await command("clients", "list", "--json")).output.splitlines()
        assert json.loads(line)["client"] == "a/sensor"
        assert (await command("clients", "list", "--user", "a/sensor")).output == "nothing\n", "which is u/a/sensor"
        shown = (await command("clients", "show", "a/sensor")).output
        assert "in/# (QoS 1)" in shown
        assert "none" in (await command("clients", "kick", "other", code=1)).output

        assert len((await command("retained", "list", "t/#")).output.splitlines()) == 3
        for payload, told in ((b'{"on":true}', '{"on": true}'), (b"\xff\xfe", "(base64) //4="), (b"//4=", "//4=")):
            await sensor.publish("how", payload, retain=True)
            (_, line) = (await command("retained", "list", "how")).output.splitlines()
            assert line.partition("c/a/sensor")[2].strip() == told
        assert (await command("retained", "clear", "how")).output == "1 retained messages cleared\n"
        assert (await command("retained", "clear", "t/#")).output == "2 retained messages cleared\n"
        (line,) = (await command("retained", "list", "--json")).output.splitlines()
        assert json.loads(line)["topic"] == "u"

        await command("clients", "kick", "a/sensor")
        await sensor.closed()
        await command("clients", "kick", "a/sensor", "--forget")
        assert (await command("clients", "list")).output == "nothing\n"


def test_plain_http_asks_for_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read those of all authorities is most of what such a command would take."""
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: pytest.fail("the authorities were read"))
    with pytest.raises(Gone):
        RunningBroker("http://127.0.0.1:1", "secret").get("/clients")
