"""`tideline conversation` beside a running broker: as docs/conversations.md shows it, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from storage.errors import StorageUnavailable
from tests.accounts.test_users import ACCOUNTS, CHEAP, users_of
from tests.cli.test_commands import tideline
from tests.http.conftest import Site, site
from tests.support.laws_process import ROOT


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"persistence: 'memory://'\nplugins:\n  http: {{operator_file: {tmp_path}/operator.json}}\n")
    return path


@pytest.fixture
async def talk(config: Path) -> AsyncIterator[Site]:
    http = {"bind": "127.0.0.1:0", "operator_file": str(config.with_name("operator.json"))}
    async with site(plugins={"http": http, "conversations": {}, "recall": {}}) as made:
        yield made


async def run(config: Path, *words: str, code: int = 0) -> str:
    done = await asyncio.to_thread(tideline, "conversation", *words, "--config", config)
    assert done.exit_code == code, done.output
    return done.output


async def test_it_does_as_the_page_shows(talk: Site, config: Path) -> None:
    page = (ROOT / "docs" / "conversations.md").read_text(encoding="utf-8")
    (session,) = re.findall(r"```console\n(\$ tideline conversation .*?)```", page, re.DOTALL)
    calls = [one.partition("\n") for one in session.split("$ tideline conversation ")[1:]]
    assert len(calls) == 7
    for command, _, said in calls:
        told = await run(config, *shlex.split(command))
        assert told.endswith(said), command


async def test_it_lists_shows_changes_adds_and_removes(talk: Site, config: Path) -> None:
    topic = (await run(config, "create", "group", "--as", "c/ann", "--member", "bob")).strip()
    assert await run(config, "add", topic, "eve", "--role", "read-only") == "u/eve is read-only\n"
    assert await run(config, "invite", topic, "eve") == "u/eve is read-only already\n"
    await run(config, "change", topic, "--name", "tea")
    await run(config, "mute", topic, "bob")
    (one,) = (json.loads(line) for line in (await run(config, "list", "bob", "--json")).splitlines())
    assert (one["topic"], one["name"], one["role"], one["muted"]) == (topic, "tea", "member", True)
    head, row = (await run(config, "list", "bob")).splitlines()
    assert (head.split()[0], row.split()[0], "muted" in row) == ("topic", topic, True)
    await run(config, "mute", topic, "bob", "--off")
    shown = json.loads(await run(config, "show", topic, "--json"))
    assert {m["user"]: m["role"] for m in shown["members"]} == {"c/ann": "owner", "u/bob": "member", "u/eve": "read-only"}
    assert re.search(r"^u/eve +read-only +\S+ \S+ +b/operator$", await run(config, "show", topic), re.MULTILINE)
    assert await run(config, "remove", topic, "eve", "--as", "c/ann") == "u/eve removed\n"
    assert len(json.loads(await run(config, "show", topic, "--json"))["members"]) == 2
    assert await run(config, "list", "eve") == "nothing\n"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["create", "direct", "--member", "bob"], 2, "has you and exactly one other"),
        (["create", "group", "--topic", "elsewhere"], 2, "must begin with 'conv/'"),
        (["create", "club"], 2, "'club' is not one of 'direct', 'group', 'channel'"),
        (["create", "channel"], 2, "need read fan-out"),
        (["show", "conv/none"], 1, "conversation 'conv/none': there is none"),
        (["add", "conv/none", "bob"], 1, "there is none"),
        (["role", "conv/none", "bob", "king"], 2, "'king' is not one of"),
        (["role", "conv/none", "bob", "admin"], 1, "there is none"),
        (["leave", "conv/none", "c/bob"], 1, "there is none"),
        (["change", "conv/none"], 2, "give --name, --history or both"),
        (["list", ""], 2, "must be u/<user name> or c/<client id>"),
        (["erase", "conv/none"], 1, "all of its messages, and who is a member?"),
    ],
)
async def test_what_cannot_be_is_told(talk: Site, config: Path, words: list[str], code: int, told: str) -> None:
    assert told in await run(config, *words, code=code)


async def test_a_role_is_given_to_who_is_a_member_or_invited_and_to_nobody_else(talk: Site, config: Path) -> None:
    topic = (await run(config, "create", "group", "--as", "c/ann", "--member", "bob", "--topic", "conv/our room")).strip()
    told = await run(config, "role", topic, "eve", "admin", code=1)
    assert "u/eve is no member of 'conv/our room': invite it first (tideline conversation invite 'conv/our room' u/eve)" in told
    assert [m["user"] for m in json.loads(await run(config, "show", topic, "--json"))["members"]] == ["c/ann", "u/bob"]
    await run(config, "invite", topic, "eve")
    assert await run(config, "role", topic, "eve", "admin") == "u/eve is admin\n"
    refused = await talk.caller().put(f"/conversations/{topic}/members/u/dan", json={"role": "admin", "existing": True})
    assert (refused.status_code, "u/dan is no member" in refused.json()["detail"]) == (404, True)
    phone = await talk.durable("ann", 4)
    await phone.subscribe("$sync/reply/ann", options=1)
    asked = {"op": "conversation-member", "topic": topic, "user": "u/dan", "role": "admin", "existing": True}
    await phone.publish("$sync/request", json.dumps(asked).encode(), qos=1)
    assert json.loads((await phone.message()).payload)["error"]["status"] == 404


async def test_who_is_no_user_in_storage_is_told_of(config: Path) -> None:
    http = {"bind": "127.0.0.1:0", "operator_file": str(config.with_name("operator.json"))}
    async with site(plugins={"http": http, "conversations": {}, **ACCOUNTS}) as made:
        assert "warning" not in await run(config, "create", "group", "--member", "ghost"), "there are no users at all"
        await users_of(made).add("bob", CHEAP.hash("bob-password"))
        told = await run(config, "create", "group", "--member", "bob", "--member", "ghost", "--member", "c/sensor")
        assert told.count("warning") == 1
        assert "u/ghost is no user in storage (tideline user list)" in told
        topic = told.splitlines()[-1]
        for command in ("add", "invite"):
            assert "warning: u/wraith is no user" in await run(config, command, topic, "wraith")
            assert "warning" not in await run(config, command, topic, "bob")
        told = await run(config, "create", "group", "--as", "spectre", "--member", "bob")
        assert told.count("warning") == 1
        assert "u/spectre is no user in storage" in told


async def test_who_could_not_be_looked_up_is_not_called_unknown(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command is for is done, and said; what went wrong is, too."""

    class Away(dict[str, Any]):
        def get(self, name: str, default: object = None) -> Any:
            raise StorageUnavailable("the disk is away")

    http = {"bind": "127.0.0.1:0", "operator_file": str(config.with_name("operator.json"))}
    async with site(plugins={"http": http, "conversations": {}, **ACCOUNTS}) as made:
        users = users_of(made)
        await users.add("bob", CHEAP.hash("bob-password"))
        monkeypatch.setattr(users, "accounts", Away(vars(users)["accounts"]))
        warned, topic = (await run(config, "create", "group", "--member", "bob", "--member", "ghost")).splitlines()
        assert "is no user" not in warned
        assert re.fullmatch("tideline: warning: whether all of these are users is not known: .*the disk is away.*", warned)
        assert topic.startswith("conv/")


async def test_who_has_no_such_plugin_is_told_which(config: Path) -> None:
    assert "no running broker was found" in await run(config, "show", "conv/x", code=3)
    http = {"bind": "127.0.0.1:0", "operator_file": str(config.with_name("operator.json"))}
    async with site(plugins={"http": http}):
        for words in (["create", "group"], ["show", "conv/x"], ["list", "bob"]):
            assert "conversations is not among the plugins" in await run(config, *words, code=1)
        assert "recall is not among the plugins" in await run(config, "erase", "conv/x", "--yes", code=1)
