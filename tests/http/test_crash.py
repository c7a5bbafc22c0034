"""Over SIGKILL: what HTTP said was stored is in the history, once, and an acknowledged offset stays."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import httpx

from tests.support.laws_process import BrokerProcess, free_port
from tests.support.until import wait_until

KILLS = 2


class Poster:
    """Posts numbered messages until each was said to be stored, with the same key as often as it takes."""

    def __init__(self, url: str, topic: str) -> None:
        self.url, self.topic = url, topic
        self.stored: dict[str, tuple[str, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        with httpx.Client(base_url=self.url, auth=("alice", "alice"), timeout=30) as http:
            while not self._stop.is_set():
                text = f"{self.topic}-{number}"
                try:
                    path = f"/v1/conversations/{self.topic}/messages"
                    answer = http.post(path, json={"payload": text}, headers={"Idempotency-Key": text})
                except httpx.HTTPError:
                    self._stop.wait(0.05)
                    continue
                if answer.status_code in (200, 201):
                    receipt = answer.json()
                    self.stored[text] = (receipt["id"], receipt["seq"])
                    number += 1

    def finish(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def history(http: httpx.Client, topic: str) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = []
    params: dict[str, str | int] = {"order": "oldest", "limit": 100}
    while True:
        page = http.get(f"/v1/conversations/{topic}/messages", params=params).json()
        found += [(m["payload"], m["id"], m["seq"]) for m in page["messages"]]
        if page["next"] is None:
            return found
        params = {"cursor": page["next"], "limit": 100}


def test_history_is_what_was_published_after_kills(tmp_path: Path) -> None:
    dice = random.Random(7)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    plugins = {"http": {"bind": f"127.0.0.1:{port}", "operator_file": ""}, "requests": {}}
    broker = BrokerProcess(tmp_path, f"sqlite:///{tmp_path}/t.db", plugins=plugins)
    broker.start()
    posters = [Poster(url, f"room/{n}") for n in range(3)]
    offset = 0
    try:
        with httpx.Client(base_url=url, auth=("alice", "alice"), timeout=30) as http:

            def answers() -> bool:
                try:
                    return http.get("/v1/health").status_code == 200
                except httpx.HTTPError:
                    return False

            wait_until(answers, "the API answers")
            http.get("/v1/sync", params={"device": "laptop"})
            http.post("/v1/devices/laptop/subscriptions", json={"filter": "room/#"})
            for _ in range(KILLS):
                count = sum(len(poster.stored) for poster in posters) + dice.randrange(20, 60)
                wait_until(lambda: sum(len(poster.stored) for poster in posters) >= count, "messages were stored")  # noqa: B023
                page = http.get("/v1/sync", params={"device": "laptop", "limit": 10}).json()
                ack = {"device": "laptop", "epoch": page["epoch"], "offset": page["next"]}
                offset = http.post("/v1/sync/ack", json=ack).json()["offset"]
                broker.kill()
                broker.start()
                wait_until(answers, "the API answers")
                assert http.get("/v1/devices/laptop").json()["offset"] == offset
            for poster in posters:
                poster.finish()
            for poster in posters:
                found = history(http, poster.topic)
                assert [seq for _, _, seq in found] == list(range(1, len(found) + 1))
                assert len({text for text, _, _ in found}) == len(found)
                stored = {text: (message_id, seq) for text, message_id, seq in found}
                assert poster.stored.items() <= stored.items()
                assert len(found) <= len(poster.stored) + 1
            broker.stop()
    finally:
        for poster in posters:
            poster.finish()
        broker.kill()
