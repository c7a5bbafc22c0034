"""A broker with users, devices, conversations and a fleet that goes on publishing: what the console has to show."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.interop.conftest import NOBODY
from tests.support.broker import ANONYMOUS
from tests.support.laws_process import broker_process, free_port
from tests.support.paho_client import PahoClient
from tests.support.until import wait_until

PASSWORD = "correct horse battery"
USERS = ("alice", "bob", "fleet")
SAID = (
    ("alice", "Did the boiler report this morning?"),
    ("bob", "Yes, 62 °C at seven. The kitchen is fine too."),
    ("alice", "好，会议改到三点，在厨房旁边的房间。"),
    ("bob", "Gut, dann um drei im Besprechungszimmer neben der Küche."),
    ("alice", "هل المطبخ جاهز؟"),
    ("bob", "Ready. I moved the kitchen sensor to the window, readings may drop a little."),
)
PLUGINS = (
    *("console", "requests", "jobs", "acl", "accounts", "recall", "conversations"),
    *("receipts", "schedules", "attachments"),
)
RULES = (
    {"name": "cellar", "topics": ["alarm/#"], "where": "@.payload.water == true", "republish": "pager/{rest}"},
    {"name": "sort", "topics": ["ingest"], "topic": "home/{payload.room}/state", "set": {"from": "{client}"}},
)
ROOMS = ("kitchen", "hall", "office", "attic", "garage", "cellar")
STRANGE = (
    "chat/" + "k" * 250,
    "chat/evil\u202egnp",
    "chat/مطبخ/بيت",
    "chat/北京/" + "会议室" * 40,
    "chat/<b>bold</b>",
)
"""Topics that a page may be torn by, or that pass for others."""
KINDS = ("temperature", "humidity", "power")


class House:
    """Where it is, and what opens it."""

    def __init__(self, port: int, url: str, secret: str) -> None:
        self.port = port
        self.url = url
        self.secret = secret
        self.http = httpx.Client(base_url=f"{url}/v1", headers={"Authorization": f"Bearer {secret}"}, timeout=30)
        self.clients = ExitStack()
        self.said: list[str] = []
        """The ids of what was said in the kitchen team."""
        self._ends = threading.Event()

    def say(self, user: str, topic: str, text: Any, **more: Any) -> str:
        """Publish as a user; the message's id."""
        path = f"/conversations/{quote(topic)}/messages"
        answer = self.http.post(path, params={"user": f"u/{user}"}, json={"payload": text, **more})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def device(self, user: str, client_id: str, *filters: str) -> PahoClient:
        """A durable device that is connected until the house is closed, or it says goodbye itself."""
        client = PahoClient(client_id, paho.MQTTv5)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 86400
        reason = client.connect(
            ("127.0.0.1", self.port), user, PASSWORD, clean_start=False, properties=properties, keepalive=120
        )
        assert reason == "Success", reason
        for filter_ in filters:
            client.subscribe(filter_, 1)
        self.clients.callback(client.paho.loop_stop)
        self.clients.callback(client.paho.disconnect)
        return client

    def furnish(self) -> None:
        """Users, who said what, and devices of which one is behind."""
        for user in USERS:
            self.http.post("/users", json={"name": user, "password": PASSWORD}).raise_for_status()
        for client_id in ("alice-laptop", "alice-phone", "alice-tablet"):
            device = self.device("alice", client_id, "chat/#", "alarm/#", "home/kitchen/#")
            if client_id == "alice-tablet":
                device.paho.disconnect()
        self.device("bob", "bob-phone", "chat/#", "alarm/#")
        self.device("fleet", "dashboard", "home/#")
        self.said = [self.say(user, "chat/kitchen-team", text) for user, text in SAID]
        self._talk()
        self.say("bob", "chat/alice-bob", "See you at three")
        self.say("fleet", "alarm/cellar", {"water": True, "since": "07:12"}, encoding="json", retain=True)
        for room in ROOMS:
            self.say("fleet", f"home/{room}/state", {"window": "closed", "lights": 2}, encoding="json", retain=True)
        self.http.put("/acl/rules/home", json={"allow": ["all"], "topics": ["home/#", "alarm/#"], "users": ["fleet", "alice"]})
        self.http.put("/acl/rules/presence", json={"allow": ["read"], "topics": ["$presence/#"]})
        self.http.put("/acl/rules/chat", json={"allow": ["all"], "topics": ["chat/#"], "users": ["alice", "bob"]})

    def _talk(self) -> None:
        """Somebody edits, others react, and something waits to be said."""
        edited = {"payload": "Yes, 61 °C at seven. The kitchen is fine too."}
        self.http.post(f"/messages/{self.said[1]}/versions?user=u/bob", json=edited).raise_for_status()
        for user, reaction in (("alice", "👍"), ("bob", "👍"), ("alice", "❤️")):
            self.http.put(f"/messages/{self.said[5]}/reactions/{reaction}?user=u/{user}", json={}).raise_for_status()
        standup = {
            "topic": "chat/kitchen-team",
            "payload": "Who is in?",
            "schedule": "30 9 * * 1-5",
            "timezone": "Europe/Berlin",
        }
        self.http.post("/schedules?user=u/bob", json=standup).raise_for_status()

    def live(self) -> None:
        """Have the fleet publish, until the house is closed."""
        sensors = [self.device("fleet", f"sensor-{room}") for room in ROOMS]
        thread = threading.Thread(target=self._live, args=(sensors,), daemon=True)
        self.clients.callback(thread.join, 30)
        self.clients.callback(self._ends.set)
        thread.start()

    def _live(self, sensors: list[PahoClient]) -> None:
        chance = random.Random(15)
        for number in itertools.count():
            if self._ends.wait(0.05 * (1.2 - 0.8 * ((number // 200) % 2))):
                return
            place = chance.randrange(len(ROOMS))
            kind = chance.choice(KINDS)
            sensors[place].paho.publish(f"home/{ROOMS[place]}/{kind}", f"{chance.uniform(15, 30):.2f}", 1)

    def indexed(self) -> None:
        """Returns once what was said can be found."""
        wait_until(lambda: self.http.get("/search/index").json()["lag_messages"] == 0, "the index has all")


@contextmanager
def house(folder: Path, **plugins: Any) -> Iterator[House]:
    """A broker with the console, on free ports; ``plugins`` are others, or other settings of them."""
    http, ws = free_port(), free_port()
    settings = {
        **NOBODY,
        **ANONYMOUS,
        "http": {"bind": f"127.0.0.1:{http}", "operator_file": str(folder / "operator.json")},
        "search": {"path": str(folder / "search.db")},
        "presence": {"grace": "200ms"},
        "rules": {"rules": list(RULES)},
        **{name: {} for name in PLUGINS},
        **plugins,
    }
    sections: dict[str, Any] = {
        "listeners": [{"name": "websocket", "type": "ws", "bind": f"127.0.0.1:{ws}"}],
        "hooks": {"timeout": 30.0},  # a browser and many tests leave little for the hashing of passwords
    }
    with broker_process(folder, f"sqlite:///{folder}/t.db", plugins=settings, **sections) as broker:
        wait_until((folder / "operator.json").exists, "the API listens")
        secret = (folder / "operator.secret").read_text().strip()
        made = House(broker.port, f"http://127.0.0.1:{http}", secret)
        with made.http, made.clients:
            yield made
