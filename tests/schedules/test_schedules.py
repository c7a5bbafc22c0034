"""Scheduled messages: kept before they are acknowledged, published once and as their publisher, listed and cancelled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest

from broker.config import checked
from broker.errors import StartError
from broker.packets.codes import ReasonCode
from broker.packets.model import PubAck, Publish, PubRec, Will
from broker.packets.properties import Properties, Property
from plugins.schedules import SchedulesPlugin
from plugins.schedules.entry import DUE, OF
from plugins.schedules.recurrence import Recurrence
from storage.interface import Storage
from storage.records import PutRow, Row
from tests.http.conftest import Site, site
from tests.support.clocks import MONDAY, Clocks
from tests.support.until import until
from tests.support.wire import Client

DAY = 86_400_000


@asynccontextmanager
async def broker(url: str = "memory://", plugins: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Site]:
    async with site(url, plugins={"schedules": {}, **(plugins or {})}, **options) as made:
        yield made


async def refused(client: Client, topic: str, payload: bytes = b"x") -> int:
    client.send(Publish(topic, payload, 1, packet_id=client.new_id()))
    return int((await client.expect(PubAck)).reason)


async def left(storage: Storage) -> list[str]:
    """The keys of all that is stored of schedules."""
    return [
        row.key
        for table in (DUE, OF)
        async for page in storage.parts(table)
        for part in page
        for row in await storage.rows(table, part)
    ]


async def test_a_delayed_message_is_published_as_it_was_given(url: str) -> None:
    """With QoS, retain and properties, in the order in which messages are due, once; what it costs in storage goes with it."""
    clocks = Clocks()
    async with broker(url, time=clocks.time) as made:
        reader = await made.durable("reader", 5)
        assert await reader.subscribe("home/#", "$delayed/#", options=2) == [2, ReasonCode.NOT_AUTHORIZED]
        writer = await made.client("writer", 5)
        properties: Properties = {
            Property.CONTENT_TYPE: "text/plain",
            Property.USER_PROPERTY: [("a", "b")],
            Property.MESSAGE_EXPIRY: 60,
        }
        assert await writer.publish("$delayed/15.5/home/last", b"third") == 0
        assert await writer.publish("$delayed/10/home/lamp", b"on", 2, retain=True, properties=properties) == 0
        assert await writer.publish("$delayed/0/home/first", b"now", 0) == 0
        assert (await reader.message()).topic == "home/first"
        await reader.quiet()
        clocks.pass_by(12)
        message = await reader.message()
        assert (message.topic, message.payload, message.qos) == ("home/lamp", b"on", 2)
        assert message.properties[Property.CONTENT_TYPE] == "text/plain"
        assert message.properties[Property.USER_PROPERTY] == [("a", "b")]
        # It counts from when it was published. MongoDB's clock, which is followed, takes back a tenth of what we let pass.
        assert 60 <= cast(int, message.properties[Property.MESSAGE_EXPIRY]) <= 62
        clocks.pass_by(6)
        assert (await reader.message()).payload == b"third"
        await reader.quiet()
        history = (await made.caller().get("/conversations/home%2Flamp/messages")).json()["messages"]
        assert [(m["payload"], m["sender"], m["device"]) for m in history] == [("on", "c/writer", "writer")]
        late = await made.client("late", 5)
        await late.subscribe("home/+", "$delayed/#")
        assert (await late.message()).topic == "home/lamp"
        await late.quiet()  # `$delayed/…` is not retained
        assert await left(made.server.storage) == []


async def test_it_is_acknowledged_once_it_is_durable() -> None:
    async with broker() as made:
        writer = await made.client("writer", 5)
        async with made.held() as commits:
            writer.send(Publish("$delayed/3600/a", b"x", 1, packet_id=7))
            operations = await commits.arrived()
            assert [(op.table, op.part) for op in operations if isinstance(op, PutRow)] == [(OF, "c/writer"), (DUE, "steady")]
            await writer.ping()  # and no PUBACK comes before its answer
            commits.let()
            assert (await writer.expect(PubAck)).reason == 0


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("$delayed/soon/a", ReasonCode.TOPIC_NAME_INVALID),
        ("$delayed/5", ReasonCode.TOPIC_NAME_INVALID),
        ("$delayed/-5/a", ReasonCode.TOPIC_NAME_INVALID),
        ("$delayed/1e3/a", ReasonCode.TOPIC_NAME_INVALID),
        ("$delayed/5/", ReasonCode.TOPIC_NAME_INVALID),
        ("$delayed/9999999999/a", ReasonCode.TOPIC_NAME_INVALID),
        ("$delayed/5/$SYS/a", ReasonCode.NOT_AUTHORIZED),
        ("$delayed/5/$sync/request", ReasonCode.NOT_AUTHORIZED),
        ("$delayed/5/$delayed/5/a", ReasonCode.NOT_AUTHORIZED),
    ],
)
async def test_what_cannot_be_is_refused_with_a_reason(topic: str, code: int) -> None:
    async with broker() as made:
        writer = await made.client("writer", 5)
        assert await refused(writer, topic) == code
        assert await left(made.server.storage) == []


@pytest.mark.parametrize("version", [4, 5])
async def test_without_the_plugin_nothing_is_taken_for_later(version: int, caplog: pytest.LogCaptureFixture) -> None:
    """And whoever publishes is told what is missing, as far as the protocol can: it must not look as if it will come."""
    topic, why = "$delayed/60/a", "needs a plugin that publishes later, and there is none"
    async with site("memory://", plugins={}, mqtt={"reason_strings": "always"}) as made:
        writer = await made.client("writer", version)
        for qos in (1, 2):
            writer.send(Publish(topic, b"x", qos, packet_id=qos))
            ack = await (writer.expect(PubAck) if qos == 1 else writer.expect(PubRec))
            if version == 5:
                assert ack.reason == ReasonCode.NOT_AUTHORIZED
                assert ack.properties[Property.REASON_STRING] == f"topic '{topic}' {why}"
        assert await writer.publish(topic, b"x", 0) == 0
        assert f"may not publish to '{topic}': it {why}" in caplog.text
        newcomer = await made.socket(version)
        refusal = await newcomer.connect("c", will=Will(topic, b""))
        assert refusal.reason == (ReasonCode.NOT_AUTHORIZED if version == 5 else 5)
        http = made.caller()
        answer = await http.post("/messages", json={"topic": topic, "payload": "x"})
        assert (answer.status_code, answer.json()["detail"]) == (403, f"topic '{topic}' {why}")


async def test_a_will_of_before_the_plugin_went_is_not_taken_for_later_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    later: Properties = {Property.WILL_DELAY: 3600}
    async with broker(url) as made:
        lost = await made.durable("c", 5, will=Will("$delayed/60/a", b"gone", 1, properties=later))
        await made.lose(lost, "c")
    async with site(url, plugins={}) as made:
        await made.client("c", 5)  # a clean start: the session has ended, and its will is due
        assert "may not publish to '$delayed/60/a': it needs a plugin that publishes later" in caplog.text


async def test_limits_have_reason_codes_and_errors(url: str) -> None:
    async with broker(url, {"schedules": {"max_per_user": 3, "max_size": 100}}) as made:
        writer, other = await made.client("writer", 5), await made.client("other", 5)
        assert await refused(writer, "$delayed/60/a", bytes(101)) == ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        codes = [await refused(writer, "$delayed/60/a") for _ in range(4)]
        assert codes == [0, 0, 0, ReasonCode.QUOTA_EXCEEDED]
        assert await refused(other, "$delayed/60/a") == 0
        http = made.caller()
        body = {"topic": "a", "payload": "x", "delay": 60}
        answer = await http.post("/schedules", json=body, params={"user": "c/writer"})
        assert (answer.status_code, answer.json()["detail"]) == (429, "3 messages of yours wait already")
        assert (await http.post("/schedules", json={**body, "payload": "x" * 101})).status_code == 413
        assert (
            await http.post("/messages", json={"topic": "$delayed/1/a", "payload": "x"}, params={"user": "c/writer"})
        ).status_code == 429
        mine = (await http.get("/schedules", params={"user": "c/writer"})).json()["schedules"]
        assert (await http.delete(f"/schedules/{mine[0]['id']}", params={"user": "c/writer"})).status_code == 204
        assert await refused(writer, "$delayed/60/a") == 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "one of delay, at and schedule"),
        ({"delay": 1, "at": 1}, "one of delay, at and schedule"),
        ({"at": 1000}, "ago"),
        ({"at": "2001-02-03T04:05:06Z"}, "ago"),
        ({"at": "tomorrow"}, "at 'tomorrow': must be milliseconds since 1970 or an RFC 3339 time with a zone"),
        ({"at": [1]}, "at"),
        ({"delay": 366 * 86400}, "at most 3.1536e+07 s"),
        ({"schedule": "never"}, "an interval or a cron line"),
        ({"schedule": "10s"}, "at least 60 s"),
        ({"schedule": "61 * * * *"}, "no cron line"),
        ({"schedule": "0 0 30 2 *"}, "no such time"),
        ({"schedule": "0 9 * * *", "timezone": "Mars/Base"}, "Europe/Berlin"),
        ({"schedule": "1h", "timezone": "Europe/Berlin"}, "only a cron line"),
        ({"delay": 1, "timezone": "Europe/Berlin"}, "only a schedule"),
        ({"delay": 1, "topic": "a/+"}, "wildcard"),
        ({"delay": 1, "when": 2}, "when"),
    ],
)
async def test_what_cannot_be_is_told_over_http(changed: dict[str, Any], told: str) -> None:
    async with broker() as made:
        answer = await made.caller().post("/schedules", json={"topic": "a", "payload": "x", **changed})
        assert answer.status_code == 422
        assert told in answer.json()["detail"]


async def test_messages_are_listed_and_cancelled_over_http(url: str) -> None:
    async with broker(url) as made:
        http = made.caller()
        writer = await made.client("writer", 5)
        answer = await http.post(
            "/schedules", json={"topic": "a", "payload": {"n": 1}, "encoding": "json", "delay": 3700, "expiry": 9}
        )
        assert answer.status_code == 201
        shown = answer.json()
        assert (shown["payload"], shown["expiry"], shown["topic"], shown["sender"]) == ({"n": 1}, 9, "a", "b/operator")
        assert abs(shown["due"] - time.time() * 1000 - 3_700_000) < 60_000
        again = (await http.get(f"/schedules/{shown['id']}")).json()
        assert {**again, "due": 0} == {**shown, "due": 0}
        for number in range(3):
            assert await writer.publish(f"$delayed/{3600 - 100 * number}/b", b"%d" % number) == 0
        at = round(time.time() * 1000) + DAY
        zoned = datetime.fromtimestamp(at / 1000, timezone(timedelta(hours=1))).isoformat()
        made_one = (await http.post("/schedules", json={"topic": "c", "payload": "x", "at": zoned})).json()
        assert made_one["due"] == at
        seen: list[tuple[str, Any]] = []
        after = ""
        while after is not None:
            page = (await http.get("/schedules", params={"limit": 2, "after": after})).json()
            seen += [(m["topic"], m["payload"]) for m in page["schedules"]]
            after = page["next"]
        assert seen == [("b", "2"), ("b", "1"), ("b", "0"), ("a", {"n": 1}), ("c", "x")]  # by when they are due
        mine = (await http.get("/schedules", params={"user": "c/writer", "limit": 2})).json()
        rest = (await http.get("/schedules", params={"user": "c/writer", "after": mine["next"]})).json()
        ids = [m["id"] for m in mine["schedules"] + rest["schedules"]]
        assert len(set(ids)) == 3
        assert rest["next"] is None
        assert (await http.delete(f"/schedules/{ids[0]}")).status_code == 404  # it is not the operator's own
        for id in ids:
            assert (await http.delete(f"/schedules/{id}", params={"user": "c/writer"})).status_code == 204
        assert (await http.delete(f"/schedules/{ids[0]}", params={"user": "c/writer"})).status_code == 404
        assert (await http.get("/schedules", params={"user": "c/writer"})).json() == {"schedules": [], "next": None}


async def test_what_is_cancelled_while_it_becomes_due_is_not_published() -> None:
    clocks = Clocks()
    async with broker(time=clocks.time) as made:
        reader, http = await made.client("reader"), made.caller()
        await reader.subscribe("a")
        shown = (await http.post("/schedules", json={"topic": "a", "payload": "x", "delay": 60})).json()
        async with made.held() as commits:
            cancelled = asyncio.create_task(http.delete(f"/schedules/{shown['id']}"))
            await commits.arrived()
            reads = Reads(made.server.storage)
            clocks.pass_by(60)
            await until(lambda: reads.count > 1, "who publishes has passed over it, and looks again")
            commits.let()
            assert (await cancelled).status_code == 204
        await reader.quiet()


async def test_what_is_being_published_is_cancelled_no_more() -> None:
    clocks = Clocks()
    async with broker(time=clocks.time) as made:
        reader, http = await made.client("reader"), made.caller()
        await reader.subscribe("a")
        shown = (await http.post("/schedules", json={"topic": "a", "payload": "x", "delay": 60})).json()
        async with made.held() as commits:
            clocks.pass_by(60)
            await commits.arrived()
            assert (await http.delete(f"/schedules/{shown['id']}")).status_code == 409
            commits.let()
            assert (await reader.message()).payload == b"x"
        assert (await http.delete(f"/schedules/{shown['id']}")).status_code == 404


class Reads:
    """How often what is due was read, and there was something."""

    def __init__(self, storage: Storage) -> None:
        self.count = 0
        real = storage.rows

        async def rows(*which: Any, **more: Any) -> list[Row]:
            found = await real(*which, **more)
            self.count += bool(found)
            return found

        storage.rows = rows  # type: ignore[method-assign]


async def test_a_device_schedules_lists_and_cancels_by_requests() -> None:
    """With nothing but MQTT."""
    async with broker() as made:
        phone = await made.client("phone")
        await phone.subscribe("$sync/reply/phone", "a", options=1)

        async def ask(**fields: Any) -> Any:
            await phone.publish("$sync/request", json.dumps(fields).encode())
            return json.loads((await phone.message()).payload)

        answer = await ask(op="schedule", topic="a", payload="x", delay=3600.5, qos=1)
        assert answer["new"]
        assert (answer["schedule"]["topic"], answer["schedule"]["device"]) == ("a", "phone")
        id = answer["schedule"]["id"]
        assert [m["id"] for m in (await ask(op="schedules"))["schedules"]] == [id]
        assert (await ask(op="cancel-schedule", schedule=id))["cancelled"] == id
        assert (await ask(op="cancel-schedule", schedule=id))["error"]["status"] == 404
        wrong = await ask(op="schedule", topic="a", payload="x", delay="soon")
        assert wrong["error"]["detail"] == "request.delay: 'soon' must be a number"
        await phone.publish("$sync/request", b'{"op": "schedule", "topic": "a", "payload": "now", "delay": 0}')
        assert {m.topic for m in await phone.messages(2)} == {"$sync/reply/phone", "a"}


async def test_a_repeat_under_one_name_waits_once_and_is_published_once(url: str) -> None:
    clocks = Clocks()
    async with broker(url, time=clocks.time) as made:
        reader = await made.durable("reader")
        await reader.subscribe("a", options=1)
        writer = await made.client("writer", 5)
        named: Properties = {Property.USER_PROPERTY: [("message-id", "m1")]}
        for again in (False, True):
            writer.send(Publish("$delayed/10/a", b"x", 1, packet_id=writer.new_id(), properties=named))
            ack = await writer.expect(PubAck)
            pairs = dict(ack.properties[Property.USER_PROPERTY])
            assert ("duplicate" in pairs) == again
        assert len(await left(made.server.storage)) == 3
        http, body = made.caller(), {"topic": "a", "payload": "y", "delay": 10, "message_id": "m2"}
        first, second = await http.post("/schedules", json=body), await http.post("/schedules", json=body)
        assert (first.status_code, second.status_code, second.json()["id"]) == (201, 200, first.json()["id"])
        other = await http.post("/schedules", json={**body, "payload": "z"})
        assert "names another message" in other.json()["detail"]
        clocks.pass_by(12)
        assert sorted(m.payload for m in await reader.messages(2)) == [b"x", b"y"]
        await writer.publish("$delayed/0/a", b"x", properties=named)  # it was published: once is enough
        await writer.publish("$delayed/0/a", b"end")
        assert (await reader.message()).payload == b"end"


async def test_who_may_no_longer_publish_is_not_published() -> None:
    """Asked when it is scheduled, for the topic that it goes to, and again when it is due."""
    rules = {"acl": {"rules": [{"allow": "publish", "topics": "up/{client}"}, {"allow": "read", "topics": "#"}]}}
    clocks = Clocks()
    async with broker(plugins=rules, time=clocks.time) as made:
        http = made.caller()
        reader, writer = await made.client("reader", 5), await made.client("w", 5)
        assert await reader.subscribe("up/#", "$delayed/#", options=1) == [1, ReasonCode.NOT_AUTHORIZED]
        assert await refused(writer, "$delayed/60/up/x") == ReasonCode.NOT_AUTHORIZED
        assert await refused(writer, "$delayed/x/up/w") == ReasonCode.TOPIC_NAME_INVALID
        assert await refused(writer, "$delayed/0/up/w", b"1") == 0
        assert (await reader.message()).payload == b"1"
        assert await refused(writer, "$delayed/60/up/w", b"2") == 0
        assert await refused(writer, "$delayed/90/up/w", b"3") == 0
        rule = (await http.post("/acl/rules", json={"deny": ["publish"], "topics": ["up/w"]})).json()["id"]
        storage = made.server.storage
        clocks.pass_by(60)
        await until(lambda: denied(made) == 1, "the first one is due")
        await http.delete(f"/acl/rules/{rule}")
        clocks.pass_by(30)
        assert (await reader.message()).payload == b"3"
        await until(lambda: nothing_left(storage))


def denied(made: Site) -> int:
    plugin = made.server.api.plugin(SchedulesPlugin)
    assert plugin is not None
    return plugin.service.runner.denied


async def nothing_left(storage: Storage) -> bool:
    return not await left(storage)


async def test_a_clock_that_steps_moves_only_what_waits_for_a_time() -> None:
    clocks = Clocks()
    async with broker(time=clocks.time) as made:
        reader = await made.client("reader")
        await reader.subscribe("#", options=1)
        http = made.caller()
        await http.post("/schedules", json={"topic": "delay", "payload": "x", "delay": 3600})
        await http.post("/schedules", json={"topic": "at", "payload": "x", "at": MONDAY + 7_200_000})
        clocks.wall += 7200  # somebody sets it
        assert (await reader.message()).topic == "at"
        clocks.wall -= 7200
        clocks.pass_by(3600)
        assert (await reader.message()).topic == "delay"


async def test_one_that_comes_again_does_until_it_is_cancelled() -> None:
    """However many were missed, they are one."""
    clocks = Clocks()
    async with broker(time=clocks.time) as made:
        reader = await made.client("reader")
        await reader.subscribe("#", options=1)
        http = made.caller()
        hourly = (await http.post("/schedules", json={"topic": "hourly", "payload": "x", "schedule": "1h"})).json()
        cron = {"topic": "nine", "payload": "x", "schedule": "0 9 * * *", "timezone": "Europe/Berlin"}
        nine = (await http.post("/schedules", json=cron)).json()
        assert (hourly["due"], nine["due"]) == (MONDAY + 3_600_000, MONDAY + 8 * 3_600_000)
        clocks.pass_by(3600)
        assert (await reader.message()).topic == "hourly"
        clocks.pass_by(3 * 3600 + 60)
        assert (await reader.message()).topic == "hourly"

        async def due() -> int:
            return int((await http.get(f"/schedules/{hourly['id']}")).json()["due"])

        async def is_five() -> bool:
            return await due() == MONDAY + 5 * 3_600_000

        await until(is_five)
        assert (await http.delete(f"/schedules/{hourly['id']}")).status_code == 204
        clocks.pass_by(4 * 3600)
        assert (await reader.message()).topic == "nine"
        assert [m["due"] for m in (await http.get("/schedules")).json()["schedules"]] == [nine["due"] + DAY]


@pytest.mark.parametrize("skip", [0, "1h"])
async def test_what_is_overdue_after_downtime_is_published_or_skipped(tmp_path: Path, skip: object) -> None:
    url, clocks = f"sqlite:///{tmp_path}/t.db", Clocks()
    options = {"schedules": {"skip_older_than": skip}}
    async with broker(url, options, time=clocks.time) as made:
        reader = await made.durable("reader")
        await reader.subscribe("#", options=1)
        writer = await made.client("writer")
        await writer.publish("$delayed/60/old", b"x")
        await writer.publish("$delayed/7000/new", b"x")
    clocks.pass_by(7200)
    async with broker(url, options, time=clocks.time) as made:
        reader = await made.durable("reader")
        if not skip:
            assert (await reader.message()).topic == "old"
        assert (await reader.message()).topic == "new"
        await until(lambda: nothing_left(made.server.storage))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_ahead": "soon"}, "max_ahead"),
        ({"max_per_user": 0}, "1 to 1000000"),
        ({"max_size": "2 MiB"}, "768 KiB"),
        ({"skip_older_than": -1}, "skip_older_than"),
        ({"shortest_interval": 0}, "shortest_interval"),
    ],
)
def test_what_is_wrong_with_a_setting_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(StartError, match=told):
        checked("plugins.schedules.SchedulesPlugin", options)


def test_a_cron_line_keeps_to_its_time_zone_over_a_change_of_the_clocks() -> None:
    """In Berlin the clocks go back on 25 October 2026."""
    nine = Recurrence("0 9 * * *", "Europe/Berlin")
    saturday = nine.next(0, 1_792_800_000_000)
    assert nine.next(saturday, saturday) - saturday in (DAY, DAY + 3_600_000)
    assert {nine.next(d, d) - d for d in (saturday, nine.next(saturday, saturday))} == {DAY, DAY + 3_600_000}


async def test_what_is_due_is_looked_at_in_pages_of_about_what_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    async with broker(time=clocks.time) as made:
        writer = await made.client("writer")
        for number in range(300):
            await writer.publish(f"$delayed/60/{number}", b"x", qos=0)
        caller = made.caller()

        async def all_wait() -> bool:
            return len((await caller.get("/schedules", params={"limit": 500})).json()["schedules"]) == 300

        await until(all_wait)
        reader = await made.client("reader")
        await reader.subscribe("#", options=1)
        looks: list[tuple[int, int]] = []
        read = made.server.storage.rows

        async def counted(table: str, part: str, **asked: Any) -> list[Row]:
            found = await read(table, part, **asked)
            if (table, part) == (DUE, "steady"):
                looks.append((asked["limit"], len(found)))
            return found

        monkeypatch.setattr(made.server.storage, "rows", counted)
        clocks.pass_by(61)
        assert [message.topic for message in await reader.messages(300)] == [str(number) for number in range(300)]
        while_due = [(limit, found) for limit, found in looks if found]
        assert while_due[0][0] == 16
        assert sum(found for _, found in while_due) <= 2 * 300
        assert len(while_due) <= 12
        await until(lambda: looks[-1] == (16, 0), "it is looked for little again")
