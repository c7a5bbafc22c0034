"""Rules that a running broker asks: over MQTT, over HTTP, and after they changed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from amqtt.plugins.base import BaseTopicPlugin

from broker.access.password_file import generated
from broker.config.settings import Settings
from broker.errors import StartError
from broker.packets.codes import ReasonCode
from broker.packets.model import PubAck, Publish, Will
from storage.records import DropSetting, SaveSetting
from tests.http.conftest import HTTP, Site, site
from tests.support.broker import ANONYMOUS, Broker, running, settings
from tests.support.wire import Client

DENIED = ReasonCode.NOT_AUTHORIZED
ACL = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"


async def publishes(client: Client, topic: str) -> int:
    client.send(Publish(topic, b"x", 1, packet_id=client.new_id()))
    return int((await client.expect(PubAck)).reason)


def acl(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"acl": {"rules": list(rules), **more}}


async def test_a_will_that_may_not_be_published_keeps_its_client_out() -> None:
    """[MQTT-3.1.4-2], also where the rules say so on the spot."""
    async with running(plugins=acl({"allow": "all", "topics": ["t", "wills/#"]})) as broker:
        for version, code in ((4, 5), (5, DENIED)):
            client = await broker.socket(version)
            assert (await client.connect("c", will=Will("elsewhere", b"x"))).reason == code
        await broker.client("c", 5, will=Will("wills/c", b"x"))


@pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])
async def test_what_is_retained_is_given_to_nobody_who_may_not_receive_it(durable: bool) -> None:
    rules = acl({"allow": "all", "topics": "#"}, {"deny": "receive", "topics": "secret/#"})
    async with running(plugins=rules) as broker:
        sender, reader = await broker.client("sender"), await (broker.durable if durable else broker.client)("reader", 5)
        for topic in ("secret/a", "open/a", "secret/b"):
            await sender.publish(topic, b"x", retain=True)
        await reader.subscribe("#", options=1)
        assert (await reader.message()).topic == "open/a"
        await reader.quiet()


class Waits(BaseTopicPlugin):
    """Has to ask somebody who may do what."""

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Any = None) -> bool:
        await asyncio.sleep(0)
        return topic is not None and not topic.startswith("secret/")


async def test_so_does_one_about_which_somebody_has_to_be_asked() -> None:
    async with running(plugins={f"{__name__}.Waits": {}}) as broker:
        for version, code in ((4, 5), (5, DENIED)):
            client = await broker.socket(version)
            assert (await client.connect("c", will=Will("secret/c", b"x"))).reason == code
        await broker.client("c", 5, will=Will("wills/c", b"x"))


class People:
    """Users with passwords, and the operator."""

    def __init__(self, folder: Path) -> None:
        made = {name: generated() for name in ("alice", "bob", "+")}
        (folder / "pw").write_text("".join(f"{name}:{kept}\n" for name, (_, kept) in made.items()))
        self.password = {name: password for name, (password, _) in made.items()}
        self.operator = folder / "operator.json"
        self.plugins = {
            **dict.fromkeys(ANONYMOUS, False),
            "http": {**HTTP["http"], "operator_file": str(self.operator)},
            "passwords": {"file": str(folder / "pw")},
        }

    async def device(self, broker: Broker, name: str, client_id: str, **connect: Any) -> Client:
        password = self.password[name].encode()
        return await broker.client(client_id, 5, username=name, password=password, **connect)

    def caller(self, made: Site, name: str = "") -> httpx.AsyncClient:
        """As a user, or as the operator."""
        if name:
            said = "Basic " + base64.b64encode(f"{name}:{self.password[name]}".encode()).decode()
        else:
            said = "Bearer " + str(json.loads(self.operator.read_text())["secret"])
        return made.caller(headers={"Authorization": said})


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path)


@asynccontextmanager
async def town(people: People, plugins: dict[str, Any], url: str = "memory://") -> AsyncIterator[Site]:
    async with site(url, plugins={**people.plugins, **plugins}) as made:
        yield made


async def test_rules_of_the_configuration(people: People) -> None:
    rules = acl(
        {"allow": "publish", "topics": ["up/{user}/{client}", "will"]},
        {"allow": "read", "topics": ["chat/#"], "users": ["alice", "bob", "+"]},
        {"allow": "publish", "topics": "chat/#", "users": "bob"},
        {"deny": "all", "topics": "chat/secret/#", "users": "alice"},
        {"allow": "search", "topics": "found"},
        {"allow": "read", "topics": "own/{user}"},
    )
    async with town(people, rules) as made:
        alice, bob = await people.device(made, "alice", "a"), await people.device(made, "bob", "b")
        assert [await publishes(alice, topic) for topic in ("up/alice/a", "up/alice/b", "chat/x")] == [0x10, DENIED, DENIED]
        plus = await people.device(made, "+", "p")
        assert await publishes(plus, "up/alice/p") == DENIED
        assert await plus.subscribe("own/+", "own/#") == [DENIED, DENIED]
        assert await alice.subscribe("own/alice", "own/bob") == [0, DENIED]
        assert await alice.subscribe("chat/#", "#", "chat/secret/#", "$share/g/chat/+", "$share/g/x") == [
            0,
            DENIED,
            DENIED,
            0,
            DENIED,
        ]
        assert [await publishes(bob, topic) for topic in ("chat/secret/x", "chat/a/b")] == [0, 0]
        assert (await alice.message()).topic == "chat/a/b"  # what she may not have of a filter that she has is left out
        caller = people.caller(made, "alice")
        history = [
            await caller.get(f"/conversations/{topic}/messages") for topic in ("chat%2Fa%2Fb", "chat%2Fsecret%2Fx", "found")
        ]
        assert [answer.status_code for answer in history] == [200, 404, 404]
        assert (await people.caller(made, "bob").get("/conversations/chat%2Fsecret%2Fx/messages")).status_code == 200


async def test_a_change_over_http_acts_on_who_is_connected(people: People, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with town(people, {"acl": {}}, url) as made:
        alice, bob = await people.device(made, "alice", "a"), await people.device(made, "bob", "b")
        assert made.server.access.openness.open
        assert await alice.subscribe("news/#", options=1) == [1]
        assert await publishes(bob, "news/1") == 0
        assert (await alice.message()).topic == "news/1"
        operator = people.caller(made)
        everything = {"allow": ["all"], "topics": ["#"]}
        assert (await operator.put("/acl/rules/everybody", json=everything)).json()["place"] == "stored rule everybody"
        denied = await operator.post("/acl/rules", json={"deny": ["receive"], "topics": ["news/{user}-only", "news/2"]})
        assert denied.status_code == 201
        assert [await publishes(bob, topic) for topic in ("news/2", "news/3", "other")] == [0, 0, 0x10]
        assert (await alice.message()).topic == "news/3"  # and news/2 never
        check = {"user": "alice", "action": "receive", "topic": "news/2"}
        answer = (await operator.get("/acl/check", params=check)).json()
        assert answer == {
            "allowed": False,
            "rule": f"stored rule {denied.json()['id']}",
            "why": f"denied by stored rule {denied.json()['id']}: deny receive on news/{{user}}-only, news/2",
        }
        assert (await operator.delete(f"/acl/rules/{denied.json()['id']}")).status_code == 204
        assert await publishes(bob, "news/2") == 0
        assert (await alice.message()).topic == "news/2"
        assert (await operator.put("/acl/rules/everybody", json={**everything, "users": ["bob"]})).status_code == 200
        assert await publishes(bob, "news/4") == 0  # stored, and in her inbox; but she may have nothing any more
        assert await publishes(alice, "news/5") == DENIED
        assert await alice.subscribe("news/#") == [DENIED]
        await alice.quiet()
    async with town(people, {"acl": {}}, url) as made:  # the rules outlive the broker
        operator = people.caller(made)
        (rule,) = (await operator.get("/acl/rules")).json()["rules"]
        assert rule == {
            "id": "everybody",
            "place": "stored rule everybody",
            "allow": ["all"],
            "deny": None,
            "topics": ["#"],
            "users": ["bob"],
        }
        assert await publishes(await people.device(made, "alice", "a"), "news/6") == DENIED
        assert (await operator.delete("/acl/rules/everybody")).status_code == 204
        assert (await operator.delete("/acl/rules/everybody")).status_code == 404
        assert made.server.access.openness.open


async def test_what_is_wrong_with_a_rule_is_told(people: People) -> None:
    async with town(people, {"acl": {}}) as made:
        operator = people.caller(made)
        for body, detail in (
            ({"allow": ["write"], "topics": ["a"]}, "allow 'write' must be publish, subscribe"),
            ({"allow": ["read"], "topics": ["a/#/b"]}, "topics: topic filter 'a/#/b': '#' must be"),
            ({"topics": ["a"]}, "a rule needs either allow or deny"),
        ):
            answer = await operator.post("/acl/rules", json=body)
            assert answer.status_code == 422
            assert answer.json()["detail"].startswith(detail)
        assert made.server.access.openness.open
        for path in ("/acl/rules", "/acl/check?action=publish&topic=x"):
            assert (await people.caller(made, "alice").get(path)).status_code == 403


def checks() -> Iterator[tuple[dict[str, str], bool, str]]:
    yield {"user": "alice", "action": "publish", "topic": "$SYS/x"}, False, "the topic is reserved for the broker"
    later = "the topic needs a plugin that publishes later, and there is none"
    yield {"user": "bob", "action": "publish", "topic": "$delayed/5/home/x"}, False, later
    yield {"user": "alice", "action": "subscribe", "topic": "$share/g/home/+"}, True, "allowed by plugins.acl.rules[0]"
    yield {"user": "alice", "action": "history", "topic": "home/x"}, True, "allowed by plugins.acl.rules[0]"
    yield {"user": "alice", "action": "publish", "topic": "home/x"}, False, "TopicAccessControlListPlugin said no"
    yield {"client": "c", "action": "publish", "topic": "dev/c"}, False, "TopicAccessControlListPlugin said no"
    yield {"action": "search", "topic": "dev/c"}, False, "no rule allows it"
    yield {"user": "bob", "action": "publish", "topic": "home/x"}, True, "allowed by plugins.acl.rules[0]"


async def test_all_topic_plugins_are_asked(people: People) -> None:
    """Whatever says no, wins; what decides is named."""
    rules = acl({"allow": "all", "topics": "home/#"}, {"allow": "publish", "topics": "dev/{client}"})
    others = {ACL: {"publish_acl": {"bob": ["home/x"]}, "acl": {"alice": ["#"]}}}
    async with town(people, {**rules, **others}) as made:
        operator = people.caller(made)
        for asked, allowed, why in checks():
            answer = (await operator.get("/acl/check", params=asked)).json()
            assert (answer["allowed"], answer["why"].partition(": ")[0]) == (allowed, why), asked


async def test_a_reload_has_other_rules_and_keeps_those_in_storage(tmp_path: Path, people: People) -> None:
    file = tmp_path / "acl"
    file.write_text("topic read public/#\n")

    def wanted(plugins: dict[str, Any]) -> Settings:
        return settings(plugins=plugins)

    first: dict[str, Any] = acl({"allow": "publish", "topics": "a"})
    async with running(plugins=first, errors=True) as broker:
        client = await broker.client("c", 5)
        await broker.server.api.commit([SaveSetting("rule", "s", b'{"allow": "publish", "topics": "stored"}')], 10)
        now = [wanted(first)]
        broker.server.reload.read = lambda: now[-1]
        for plugins, expected in (
            (first, "a stored"),
            (acl({"allow": "publish", "topics": "b"}), "b stored"),
            ({"acl": False}, "a b stored up"),
            (acl(acl_file=str(file)), "stored"),
            ({"acl": {}}, "stored"),
        ):
            now.append(wanted(plugins))
            assert (await broker.server.reload()).failed == []
            may = [topic for topic in ("a", "b", "stored", "up") if await publishes(client, topic) != DENIED]
            assert may == expected.split(), plugins
        file.write_text("topic raed a\n")
        now.append(wanted(acl(acl_file=str(file))))
        (problem,) = (await broker.server.reload()).failed
        assert problem.endswith(f"acl_file: {file}, line 1: 'raed' must be read, write, readwrite or deny")
        await broker.server.api.commit([DropSetting("rule", "s")], 10)
        assert broker.server.access.openness.open
        assert await publishes(client, "up") != DENIED


async def test_a_rule_in_storage_that_cannot_be_read_ends_the_start(tmp_path: Path) -> None:
    """Without it more might be allowed than was said."""
    url = f"sqlite:///{tmp_path}/t.db"
    async with running(url) as broker:
        await broker.server.api.commit([SaveSetting("rule", "odd", b'{"forbid": "all"}')], 10)
    with pytest.raises(StartError, match=r"stored rule 'odd' cannot be read, remove it .*: forbid: unknown in a rule"):
        async with running(url, plugins={"acl": {}}):
            pass
