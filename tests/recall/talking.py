"""A broker with all plugins, in which Ann has left a word of its own in every kind of place, and Bob has what must stay."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
from pwdlib.hashers.argon2 import Argon2Hasher

from broker.packets.model import PubComp, Publish, PubRec, PubRel, Will
from tests.attachments.parts import BYTES, NOBODY, metadata
from tests.conversations.conftest import follows
from tests.recall.words import word
from tests.support.laws_process import BrokerProcess, free_port
from tests.support.until import until
from tests.support.wire import Client

ROOM, OTHER = "conv/room", "conv/other"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BOBS = 6
"""Messages of Bob's in either conversation, between Ann's."""
POLICIES = [
    {"filter": "none/#", "mode": "none"},
    {"filter": "stored/#", "mode": "store"},
    {"filter": "group/#", "fanout": "read"},
]


def bob_said(topic: str) -> list[str]:
    """In this order."""
    return [f"bob in {topic} {number}" for number in range(BOBS)]


class Talking:
    """A broker process in a folder of its own, and its callers."""

    def __init__(self, folder: Path, url: str, phase: str = "", write: int = 0) -> None:
        http = {"bind": f"127.0.0.1:{free_port()}", "operator_file": "data/operator.json"}
        plugins: dict[str, Any] = {
            **NOBODY,
            "accounts": {},
            "http": http,
            "requests": {},
            "jobs": {},
            "acl": {},
            "conversations": {},
            "schedules": {},
            "presence": {"grace": 0},
            "receipts": {"resolution_seconds": 0.05},
            "recall": {},
            "attachments": {"directory": "data/attachments", "shared": True},
            "search": {"path": "data/search.db", "gather": 0.0},
            "webhooks": {
                "hooks": [{"name": "away", "url": "http://127.0.0.1:9/", "secrets": [SECRET], "events": ["message.stored"]}]
            },
            "tests.recall.dying.Dying": {"phase": phase, "write": write},
        }
        (folder / "data").mkdir(exist_ok=True)
        self.folder = folder
        self.process = BrokerProcess(folder, url, persistence={"policies": POLICIES}, plugins=plugins)
        self._http = f"http://{http['bind']}"

    async def start(self, *, mind: bool = True) -> None:
        """Returns once it can be asked, or, if it need not ``mind`` that it may die before, at once."""
        told = self.folder / "data" / "operator.json"
        told.unlink(missing_ok=True)
        if not mind:
            self.process.spawn()
            return
        await asyncio.to_thread(self.process.start)
        await until(told.exists, lambda: self.process.log[-2000:])
        await until(self._answers, lambda: self.process.log[-2000:])

    async def _answers(self) -> bool:
        try:
            async with self.caller() as operator:
                return (await operator.get("/health")).is_success
        except (OSError, httpx.TransportError):
            return False

    def caller(self, user: str = "") -> httpx.AsyncClient:
        """A user, or the operator."""
        base = f"{self._http}/v1"
        if user:
            return httpx.AsyncClient(base_url=base, auth=(user, f"{user}-password"), timeout=30)
        secret = json.loads((self.folder / "data" / "operator.json").read_text())["secret"]
        return httpx.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {secret}"}, timeout=30)

    async def device(self, user: str, client_id: str, **connect: Any) -> Client:
        """A durable device."""
        client = await Client.open(("127.0.0.1", self.process.port), 5)
        ack = await client.connect(
            client_id, clean=False, expiry=3600, username=user, password=f"{user}-password".encode(), **connect
        )
        assert ack.reason == 0
        return client


async def _done(answer: Any) -> Any:
    got = await answer
    assert got.is_success, (str(got.url), got.text)
    return got


async def fill(broker: Talking) -> None:
    """See the module; all clients are gone at the end."""
    hasher = Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)
    async with broker.caller() as operator:
        for user in ("ann", "bob"):
            made = {
                "name": user,
                "hash": hasher.hash(f"{user}-password", salt=word("hash").encode() if user == "ann" else None),
            }
            await _done(operator.post("/users", json=made))
    async with broker.caller("ann") as ann, broker.caller("bob") as bob:
        for topic, name in ((ROOM, word("name")), (OTHER, "others")):
            await _done(ann.post("/conversations", json={"kind": "group", "topic": topic, "name": name, "members": ["u/bob"]}))
        tablet = await broker.device("bob", "tablet")
        await tablet.subscribe("group/#", "none/#", options=1)
        for topic in (ROOM, OTHER):
            await follows(bob, "tablet", topic)
        await tablet.leave()
        await _devices(broker, ann)
        await _messages(ann, bob)
        await _scheduled(ann, bob)
        await _attached(ann, "", ROOM)
        await _attached(bob, "bob-", ROOM)
        await _attached(bob, "bobs own ", OTHER)
        await until(lambda: _finds(ann, word("payload")))
        await until(lambda: _finds(bob, bob_said(OTHER)[-1]))


async def _finds(caller: httpx.AsyncClient, text: str) -> bool:
    return bool((await caller.get("/search", params={"q": text})).json()["total"])


async def _devices(broker: Talking, ann: httpx.AsyncClient) -> None:
    """One that waits to say its will, and one that asks for values by MQTT."""
    phone = await broker.device("ann", "phone")
    await phone.subscribe(f"w/{word('filter')}", options=1)
    await phone.subscribe("$sync/reply/phone", options=1)
    request = {"op": "value-set", "key": "by-mqtt", "value": word("draft-by-mqtt")}
    await phone.publish("$sync/request", json.dumps(request).encode())
    await phone.message()
    await phone.leave()
    will = Will("w/will", word("will").encode(), 1, True, {24: 3000, 38: [("k", word("will-property"))]})
    watch = await broker.device("ann", "watch", will=will)
    await _say(watch, ROOM, word("by-mqtt"))
    await watch.drop()
    await _done(ann.post("/tokens", json={"label": word("token-label")}))
    await _done(ann.put(f"/me/values/{word('draft-key')}", json={"value": {"text": word("draft")}}))


async def _say(client: Client, topic: str, text: str) -> None:
    """With QoS 2. The client may follow the conversation by now, and be sent what it says itself on the way."""
    packet_id = client.new_id()
    client.send(Publish(topic, text.encode(), 2, False, False, packet_id, {}))
    while not isinstance(packet := await client.receive(), PubRec):
        assert isinstance(packet, Publish)
    client.send(PubRel(packet_id))
    while not isinstance(packet := await client.receive(), PubComp):
        assert isinstance(packet, Publish)


async def _messages(ann: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    for number in range(BOBS):
        for topic in (ROOM, OTHER):
            await _done(bob.post("/messages", json={"topic": topic, "payload": bob_said(topic)[number]}))
            await _done(
                ann.post(
                    "/messages", json={"topic": topic, "payload": f"{word('other' if topic == OTHER else 'payload')} {number}"}
                )
            )
    full = {
        "payload": "x",
        "properties": [["k", word("property")]],
        "content_type": f"text/{word('content-type')}",
        "correlation_data": base64.b64encode(word("correlation").encode()).decode(),
        "mentions": ["u/bob"],
    }
    await _done(ann.post("/messages", json={"topic": ROOM, **full}))
    await _done(ann.post("/messages", json={"topic": ROOM, "payload": "x", "message_id": word("once")}))
    for who, topic, text, retain in (
        (ann, "stored/ann", "stored-only", False),
        (ann, "group/all", "channel", False),
        (ann, "none/ann", "unstored-retained", True),
    ):
        await _done(who.post("/messages", json={"topic": topic, "payload": word(text), "retain": retain}))
    await _done(bob.post("/messages", json={"topic": "none/bob", "payload": "bob retains", "retain": True}))
    await _done(bob.post("/messages", json={"topic": "group/all", "payload": "bob to all"}))
    await _done(ann.post("/messages", json={"topic": ROOM, "payload": word("retained"), "retain": True}))
    await _done(bob.put("/me/values/draft", json={"value": "bob drafts"}))
    for who, said, edits, reacts in ((ann, "edited", "edit", "reaction"), (bob, "bob-says", "bob-edits", "bob-reacts")):
        id = (await _done(who.post("/messages", json={"topic": ROOM, "payload": word(said)}))).json()["id"]
        await _done(who.post(f"/messages/{id}/versions", json={"payload": word(edits)}))
        await _done(who.put(f"/messages/{id}/reactions/{word(reacts)}"))
    await _done(bob.post("/messages", json={"topic": ROOM, "payload": word("bob-retains"), "retain": True}))


async def _scheduled(ann: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    properties = [["k", word("scheduled-property")]]
    for who, topic, text, more in (
        (ann, ROOM, "scheduled", {"delay": 3600, "properties": properties, "message_id": word("scheduled-once")}),
        (ann, ROOM, "scheduled-again", {"schedule": "1h"}),
        (bob, ROOM, "bob-schedules", {"delay": 3600}),
        (bob, OTHER, "bobs own", {"delay": 3600}),
    ):
        await _done(who.post("/schedules", json={"topic": topic, "payload": word(text), **more}))


async def _attached(who: httpx.AsyncClient, whose: str, topic: str) -> None:
    """One that a message has; of Ann one that none has, and one of which not all has come, too."""
    for place, missing in (("attached", 0), ("loose", 0), ("unfinished", 10)):
        name = "attaches" if whose == "bob-" else place
        data = word(f"{whose}{name}").encode() * 10
        about = metadata(topic=topic, filename=word(f"{whose}{name}-name"))
        headers = {**BYTES, "Upload-Length": str(len(data) + missing), "Upload-Metadata": about}
        path = (await _done(who.post("/attachments", headers=headers, content=data))).headers["location"]
        if place == "attached":
            pairs = [["attachment", path.rpartition("/")[2]]]
            await _done(who.post("/messages", json={"topic": topic, "payload": "look", "properties": pairs}))
        if whose:
            return
