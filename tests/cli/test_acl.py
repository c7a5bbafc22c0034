"""`tideline acl`, with and without a running broker."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from broker.access import Account
from broker.packets.codes import ReasonCode
from storage.records import SaveSetting
from storage.sqlite import SqliteStorage
from tests.access.test_live import publishes
from tests.accounts.test_users import CHEAP, users_of
from tests.cli.processes import ran
from tests.cli.test_commands import tideline
from tests.http.conftest import HTTP, site
from tests.support.wire import Client

ACL = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"
RULES = [
    {"allow": "publish", "topics": "up/{client}"},
    {"allow": "read", "topics": "home/#"},
    {"deny": "all", "topics": "home/safe/#", "users": "bob"},
]


def write(folder: Path, plugins: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    url = f"sqlite:///{folder}/t.db"
    http = {**HTTP["http"], "operator_file": str(folder / "operator.json")}
    path.write_text(yaml.safe_dump({"plugins": {"persistence": {"url": url}, "http": http, **plugins}}))
    return path


def in_a_process(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """For what configures the log of its process."""
    return ran(path.parent, "acl", "-c", str(path), *arguments)


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (
            ["bob", "publish", "up/x", "--client", "x"],
            0,
            "allowed by plugins.acl.rules[0] (line 5): allow publish on up/{client}",
        ),
        (["bob", "publish", "up/x"], 1, "denied: no rule allows it"),
        (["bob", "subscribe", "$share/g/home/+"], 0, "allowed by plugins.acl.rules[1] (line 6): allow read on home/#"),
        (
            ["bob", "receive", "home/safe/x"],
            1,
            "denied by plugins.acl.rules[2] (line 7): deny all on home/safe/# to bob",
        ),
        (["-", "receive", "home/safe/x"], 0, "allowed by plugins.acl.rules[1]"),
        (["bob", "publish", "$sync/events/x"], 1, "denied: the topic is reserved for the broker"),
        (["bob", "publish", "$delayed/5/up/x"], 1, "denied: the topic needs a plugin that publishes later, and there is none"),
        (["bob", "publish", "a/#"], 2, "topic name 'a/#' holds a wildcard"),
        (["bob", "subscribe", "a/#/b"], 2, "topic filter 'a/#/b': '#' must be the whole last level"),
        (["bob", "write", "a"], 2, "is not one of 'publish', 'subscribe', 'receive', 'history', 'search'"),
    ],
)
def test_check_of_a_configuration_alone(tmp_path: Path, asked: list[str], code: int, said: str) -> None:
    path = tmp_path / "config.yaml"
    rules = "".join(f"      - {json.dumps(rule)}\n" for rule in RULES)
    path.write_text(f"persistence: sqlite:///{tmp_path}/none.db\nplugins:\n  acl:\n    rules:\n{rules}")
    shown = tideline("acl", "check", *asked, "-c", path)
    assert said in shown.output.replace("\n", " ")
    assert shown.exit_code == code
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["publish", "$delayed/5/up/x"], "allowed by plugins.acl.rules[0]"),
        (["publish", "$delayed/5/$typing/up/x"], "allowed by plugins.acl.rules[0]"),
        (["publish", "$delayed/5/home/x"], "denied: no rule allows it"),
        (["subscribe", "$delayed/5/up/x"], "denied: such topics are nobody's"),
    ],
)
def test_check_of_a_topic_that_stands_for_another_without_a_broker(tmp_path: Path, asked: list[str], said: str) -> None:
    path = write(tmp_path, {"acl": {"rules": RULES}, "schedules": {}, "presence": {}})
    shown = tideline("acl", "check", "bob", *asked, "--client", "x", "-c", path)
    assert said in shown.output.replace("\n", " ")
    assert shown.exit_code == (0 if said.startswith("allowed") else 1)


def test_what_is_wrong_with_rules_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "plugins:\n  acl:\n    rules:\n      - allow: raed\n        topics: x\n      - {deny: all, topics: 'a/#/b'}\n"
    )
    shown = tideline("acl", "check", "bob", "publish", "x", "-c", path)
    assert shown.exit_code == 2
    assert "plugins.acl.rules[0].allow (line 4): 'raed' must be publish, subscribe, receive" in shown.output
    assert "plugins.acl.rules[1].topics (line 6): topic filter 'a/#/b': '#' must be the whole last level" in shown.output
    path.write_text("plugins:\n  acl: {acl_file: nowhere}\n")
    assert "plugins.acl.acl_file (line 2): cannot read nowhere: No such file" in tideline("check", "-c", path).output


def test_rules_without_a_broker(tmp_path: Path) -> None:
    path = write(tmp_path, {"acl": {}, ACL: {"acl": {"alice": ["#"]}}})
    nothing = tideline("acl", "list", "-c", path)
    assert nothing.output == "no rule: everybody may do everything\n"
    added = in_a_process(path, "add", "deny", "publish,history", "a/#", "b", "--user", "bob", "--id", "first")
    assert (added.returncode, added.stdout) == (0, "stored rule first: deny publish, history on a/#, b to bob\n"), added.stderr
    assert "this is the first rule: what no rule allows is denied from now on" in added.stderr
    checked = tideline("acl", "check", "bob", "publish", "a/x", "-c", path)
    assert checked.exit_code == 1
    assert f"{ACL} was not asked: only a broker that runs can do that" in checked.output
    assert "denied by stored rule first: deny publish, history on a/#, b to bob" in checked.output
    (rule,) = map(json.loads, tideline("acl", "list", "--json", "-c", path).output.splitlines())
    assert (rule["id"], rule["deny"], rule["users"]) == ("first", ["publish", "history"], ["bob"])
    asyncio.run(_stored(f"{tmp_path}/t.db", SaveSetting("rule", "odd", b'{"forbid": "all"}')))
    wrong = tideline("acl", "list", "-c", path)
    assert wrong.exit_code == 3
    assert "stored rule 'odd' cannot be read, remove it (tideline acl remove odd): forbid: unknown" in wrong.output
    removed = [in_a_process(path, "remove", key) for key in ("odd", "first")]
    assert [done.returncode for done in removed] == [0, 0], removed
    assert "no rule is left: everybody may do everything" in removed[1].stderr
    again = tideline("acl", "remove", "first", "-c", path)
    assert (again.exit_code, again.output) == (1, "tideline: rule 'first': there is none in storage\n")


async def _stored(path: str, setting: SaveSetting) -> None:
    storage = SqliteStorage(Path(path))
    await storage.open()
    await storage.commit([setting])
    await storage.close()


async def test_rules_of_the_running_broker(tmp_path: Path) -> None:
    plugins = {"acl": {"rules": RULES[2:]}, "accounts": {"anonymous": True}}
    path = write(tmp_path, plugins)
    http = {**HTTP["http"], "operator_file": str(tmp_path / "operator.json")}

    async def told(*arguments: str) -> Result:
        asked: Callable[..., Result] = tideline
        return await asyncio.to_thread(asked, "acl", *arguments, "-c", path)

    async with site(plugins={"http": http, **plugins}) as made:
        client: Client = await made.client("c", 5)
        assert await publishes(client, "x") == ReasonCode.NOT_AUTHORIZED
        added = await told("add", "allow", "all", "#")
        assert added.output.startswith("stored rule ")  # nor is it the first
        assert added.output.endswith(": allow all on #\n")
        assert await publishes(client, "x") == ReasonCode.NO_MATCHING_SUBSCRIBERS
        key = added.output.split()[2].rstrip(":")
        listed = await told("list")
        assert f"stored rule {key}" in listed.output
        assert "deny all on home/safe/# to bob" in listed.output
        checked = await told("check", "bob", "receive", "home/safe")
        assert (checked.exit_code, checked.output) == (
            1,
            "denied by plugins.acl.rules[0]: deny all on home/safe/# to bob\n",
        )
        assert (await told("check", "alice", "receive", "home/safe")).exit_code == 0
        assert (await told("add", "allow", "all", "a/#/b")).exit_code == 2
        assert "warning" not in (await told("add", "allow", "all", "z", "--user", "ghost", "--id", "z")).output, "none at all"
        await users_of(made).add("bob", CHEAP.hash("bob-password"))
        of_whom = await told("add", "allow", "all", "z", "--user", "ghost", "--user", "bob", "--id", "z")
        assert of_whom.stderr.count("warning") == 1
        assert "u/ghost is no user in storage (tideline user list): unless another plugin lets it in, the" in of_whom.stderr
        assert (await told("remove", "z")).exit_code == 0
        assert "rule id 'a b': must be 1 to 64 letters" in (await told("add", "allow", "all", "x", "--id", "a b")).output
        assert (await told("remove", key)).output == f"stored rule {key} removed\n"
        assert (await told("remove", key)).exit_code == 1
        assert await publishes(client, "x") == ReasonCode.NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("topics", "code", "said"),
    [
        (
            "{user/#",
            0,
            "warning: topics '{user/#': a { or } of its own stands for itself; placeholders are {user} and",
        ),
        ("a/client}", 0, "warning: topics 'a/client}': a { or } of its own"),
        ("{the user}/#", 0, "warning: topics '{the user}/#': a { or } of its own"),
        ("{User}/#", 2, "topics '{User}/#' must not have {User}: there is {user} and {client}"),
        ("{user}/{client}/#", 0, ""),
    ],
)
def test_a_brace_that_is_no_placeholder_is_told_of(tmp_path: Path, topics: str, code: int, said: str) -> None:
    """It is allowed in a topic, and so in a rule."""
    path = write(tmp_path, {"acl": {}})
    added = in_a_process(path, "add", "allow", "publish", topics)
    assert added.returncode == code
    assert said in added.stderr
    assert ("warning" in added.stderr) == ("warning" in said)
    if code == 0:
        path = write(tmp_path, {"acl": {"rules": [{"allow": "publish", "topics": topics}]}})
        checked = tideline("check", "-c", path).output
        assert said.removeprefix("warning: ") in checked
        assert ("of its own" in checked) == bool(said)


def test_who_is_no_user_is_told_of_without_a_broker(tmp_path: Path) -> None:
    path = write(tmp_path, {"acl": {}, "accounts": {}})
    asyncio.run(_stored(f"{tmp_path}/t.db", SaveSetting("user", "bob", Account("bob", CHEAP.hash("x")).encode())))
    added = in_a_process(path, "add", "allow", "publish", "a", "--user", "bob", "--user", "ghost")
    assert added.returncode == 0
    assert added.stderr.count("warning") == 1
    assert "warning: u/ghost is no user in storage" in added.stderr
