"""Law 6, and the truth: what `mqtt.storage_timeout` says was not stored was not, and is not stored later either."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.packets.model import PubAck, PubComp, Publish, PubRec, PubRel
from tests.laws.test_storage_away import LIMITS, Outage
from tests.support import laws_check as law
from tests.support.laws_process import BrokerProcess, broker_process
from tests.support.laws_wire import dropping, enter
from tests.support.mongo_server import MongoServer
from tests.support.until import until
from tests.support.wire import Client

TIMEOUT = 0.6
REFUSED = 0x97


class Publisher:
    """Keeps ten messages of QoS 1 and 2 open, and remembers which were taken and which refused."""

    def __init__(self, client: Client, topic: str) -> None:
        self.taken: list[int] = []
        self.refused: list[int] = []
        self.sent = 0
        self._client = client
        self._topic = topic
        self._open: dict[int, int] = {}
        self._halt = False
        for _ in range(10):
            self._publish()
        self.task = asyncio.create_task(self._run())

    def _publish(self) -> None:
        number = self.sent
        packet_id = next(free for free in range(1, 100) if free not in self._open)
        self._open[packet_id] = number
        self._client.send(Publish(self._topic, str(number).encode(), 1 + number % 2, False, False, packet_id))
        self.sent += 1

    async def _run(self) -> None:
        while self._open:
            answer = await self._client.receive(timeout=60)
            assert isinstance(answer, (PubAck, PubRec, PubComp)), answer
            if isinstance(answer, PubComp):
                del self._open[answer.packet_id]
            elif answer.reason >= 0x80:
                assert answer.reason == REFUSED, answer
                self.refused.append(self._open.pop(answer.packet_id))
            else:
                self.taken.append(self._open[answer.packet_id])
                if isinstance(answer, PubRec):
                    self._client.send(PubRel(answer.packet_id))
                    continue
                del self._open[answer.packet_id]
            if not self._halt:
                self._publish()

    async def finish(self) -> None:
        """Publish nothing new; returns when everything is answered."""
        self._halt = True
        await self.task


async def publish_over(outage: Outage, broker: BrokerProcess) -> list[Publisher]:
    new, old = await enter(broker, "new", "new-1", 5, clean=True), await enter(broker, "old", "old-1", 4, clean=True)
    async with dropping(new, old):
        publishers = [Publisher(new, "t/new"), Publisher(old, "t/old")]
        await until(lambda: all(len(each.taken) > 30 for each in publishers), "both are acknowledged")
        outage.begin(broker)
        await until(lambda: len(publishers[0].refused) > 20, "the MQTT 5 publisher is told")
        outage.end(broker)
        taken = [len(each.taken) for each in publishers]

        def more() -> bool:
            return all(len(each.taken) > before + 30 for each, before in zip(publishers, taken, strict=True))

        await until(more, "both are acknowledged again")
        for each in publishers:
            await each.finish()
    return publishers


def hold(outage: Outage, folder: Path, url: str) -> None:
    with broker_process(folder, url, limits=LIMITS, mqtt={"storage_timeout": TIMEOUT}) as broker:
        new, old = asyncio.run(publish_over(outage, broker))
        broker.stop()
    stored = law.read_all(url)
    law.timelines_are_whole(stored)
    kept = {topic: [int(m.payload) for m in messages] for topic, messages in stored.conversations.items()}
    assert kept["t/new"] == sorted(new.taken)
    assert not set(kept["t/new"]) & set(new.refused)
    assert sorted(new.taken + new.refused) == list(range(new.sent))
    assert (old.refused, kept["t/old"]) == ([], list(range(old.sent)))


def test_the_disk_is_full(tmp_path: Path) -> None:
    log = tmp_path / "laws.db-wal"
    hold(
        Outage(lambda broker: broker.limit_file_size(log.stat().st_size), lambda broker: broker.limit_file_size(None)),
        tmp_path,
        f"sqlite:///{tmp_path}/laws.db",
    )


def test_mongodb_is_killed_and_started_again(tmp_path: Path, mongo: MongoServer, mongo_url: str) -> None:
    hold(Outage(lambda _: mongo.kill(), lambda _: mongo.start()), tmp_path, mongo_url)
