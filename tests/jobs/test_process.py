"""A broker that people run, with stock clients: killed in the midst of retention, and started again after its jobs were due."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from storage.factory import open_url
from storage.records import Append, JobState, Message, SaveJob
from tests.support import mongo_server
from tests.support.laws_process import BrokerProcess, free_port
from tests.support.seeds import seeds
from tests.support.until import wait_until

KILLS = 3
WAITING = 40


class Phone:
    """A paho-mqtt client with a durable session on ``chat/#``; what it was given, in order."""

    def __init__(self, port: int) -> None:
        self.received: list[str] = []
        self._port = port
        self._subscribed = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, "phone", clean_session=False)
        self.client.username_pw_set("ann", "ann")
        self.client.on_message = lambda client, userdata, message: self.received.append(message.payload.decode())
        self.client.on_subscribe = lambda *args: self._subscribed.set()

    def __enter__(self) -> Phone:
        self.client.connect("127.0.0.1", self._port)
        self.client.loop_start()
        self.client.subscribe("chat/#", qos=1)
        assert self._subscribed.wait(20)
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Operator:
    """The API, asked with the secret that the running broker left in its file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def ask(self, method: str, path: str, **options: Any) -> Any:
        told = json.loads(self._file.read_text())
        headers = {"Authorization": f"Bearer {told['secret']}"}
        answer = httpx.request(method, f"{told['url']}/v1{path}", headers=headers, timeout=20, **options)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def answers(self) -> bool:
        try:
            return bool(self.ask("GET", "/jobs"))
        except (OSError, httpx.HTTPError, AssertionError):
            return False

    def job(self, name: str) -> Any:
        return self.ask("GET", f"/jobs/{name}")

    def history(self, topic: str) -> tuple[int, list[int]]:
        """First kept sequence, and every sequence."""
        seqs: list[int] = []
        params: dict[str, str | int] = {"order": "oldest", "limit": 500}
        while True:
            page = self.ask("GET", f"/conversations/{topic}/messages", params=params)
            seqs += [message["seq"] for message in page["messages"]]
            if page["next"] is None:
                return page["first"], seqs
            params = {"cursor": page["next"], "limit": 500}


@pytest.fixture(params=seeds("sqlite", more=["mongodb"]))
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/t.db"
    else:
        database = mongo_server.new_database()
        yield mongo_server.url(database, "tideline_lease_ms=1000")
        await mongo_server.drop(database)


async def stored(url: str, count: int, *states: JobState) -> None:
    """A database with so many messages in the conversation ``bulk``, and these jobs."""
    storage = open_url(url)
    await storage.open()
    for first in range(1, count + 1, 500):
        numbers = range(first, min(first + 500, count + 1))
        await storage.commit([Append(Message(n, "bulk", "u/x", "d", 1_700_000_000_000 + n, 1, b"x" * 50)) for n in numbers])
    await storage.commit([SaveJob(state) for state in states])
    await storage.close()


def broker_with(tmp_path: Path, url: str, **jobs: Any) -> tuple[BrokerProcess, Operator]:
    file = tmp_path / "operator.json"
    http = {"bind": f"127.0.0.1:{free_port()}", "operator_file": str(file)}
    return BrokerProcess(tmp_path, url, plugins={"http": http, "jobs": jobs}), Operator(file)


async def test_kills_during_retention_leave_nothing_half_done(tmp_path: Path, url: str) -> None:
    count = 6_000 if url.startswith("sqlite") else 2_000
    await stored(url, count)
    rules = [{"filter": "#", "max_messages": 10}]
    broker, operator = broker_with(tmp_path, url, retention={"schedule": "never", "rules": rules}, share=0.05)
    await asyncio.to_thread(kill_and_look, broker, operator, count)


def kill_and_look(broker: BrokerProcess, operator: Operator, count: int) -> None:
    dice = random.Random(5)
    broker.start()
    try:
        wait_until(operator.answers, "the API answers")
        with Phone(broker.port):
            pass
        for number in range(WAITING):
            operator.ask("POST", "/conversations/chat/a/messages", json={"payload": str(number)})
        first = 1
        for kill in range(1, KILLS + 1):
            operator.ask("POST", "/jobs/retention/run", json={})
            wanted = dice.randrange(1, count // (KILLS + 2))
            wait_until(lambda: (operator.job("retention")["running"] or {"done": count})["done"] >= wanted, "it removes")  # noqa: B023
            broker.restart()
            wait_until(operator.answers, "the API answers")
            last = operator.job("retention")["last"]
            if kill > 1 and last["outcome"] == "done":  # this machine was too slow to see it at work once more
                first, _ = operator.history("bulk")
                break
            assert (last["outcome"], last["ended"]) == ("interrupted", None)
            before, (first, seqs) = first, operator.history("bulk")
            assert first > before, f"kill {kill}: something was removed"
            assert seqs == list(range(first, count + 1))
            assert operator.history("chat/a") == (1, list(range(1, WAITING + 1)))
        operator.ask("POST", "/jobs/retention/run", json={})
        wait_until(lambda: operator.job("retention")["running"] is None, "it ends", 90)
        last = operator.job("retention")["last"]
        assert last["outcome"] == "done"
        assert last["detail"]["removed"] == count - 10 - (first - 1)
        assert last["detail"]["spared"] == WAITING - 10
        assert operator.history("bulk") == (count - 9, list(range(count - 9, count + 1)))
        with Phone(broker.port) as phone:
            wait_until(lambda: len(phone.received) >= WAITING, "the phone gets what it missed")
            assert phone.received == [str(number) for number in range(WAITING)]
        broker.stop()
    finally:
        broker.kill()
    assert broker.complaints == []


async def test_what_was_due_while_the_broker_was_down_is_made_up_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    now = int(time.time() * 1000)
    month = 30 * 86_400_000
    await stored(
        url,
        30,
        JobState("retention", "6h", now - month, now - month - 10, now - month - 5, "done"),
        JobState("sessions", "6h", now + 3_600_000, now - 5000, now - 4000, "done"),
    )
    rules = [{"filter": "bulk", "max_messages": 10}]
    broker, operator = broker_with(
        tmp_path, url, retention={"schedule": "6h", "rules": rules}, sessions={"schedule": "6h"}, inboxes={"schedule": "never"}
    )
    await asyncio.to_thread(start_late, broker, operator, now)


def start_late(broker: BrokerProcess, operator: Operator, now: int) -> None:
    broker.start()
    try:
        wait_until(operator.answers, "the API answers")
        wait_until(lambda: (operator.job("retention")["last"] or {"started": 0})["started"] > now, "retention was made up for")
        job = operator.job("retention")
        assert (job["last"]["outcome"], job["last"]["detail"]["removed"]) == ("done", 20)
        assert 0 < job["next_run"] - now - 6 * 3_600_000 < 60_000
        assert operator.job("sessions")["next_run"] == now + 3_600_000, "what was not missed keeps its time"
        assert operator.job("sessions")["last"]["started"] == now - 5000
        planned = [job["next_run"] for job in operator.ask("GET", "/jobs")["jobs"]]
        broker.restart()
        wait_until(operator.answers, "the API answers")
        assert [job["next_run"] for job in operator.ask("GET", "/jobs")["jobs"]] == planned, "also over SIGKILL"
        broker.stop()
    finally:
        broker.kill()
    assert broker.complaints == []
