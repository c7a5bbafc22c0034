"""The crash run: publishers, devices of several users and a shared group, while the broker is killed again and again.

The seed decides what is published, who is killed after how many events and how long after the last of them.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from broker.packets import matches
from storage.errors import StorageUnavailable
from storage.interface import Storage
from storage.records import Device as StoredDevice
from storage.records import DeviceKey, InboxEntry
from tests.support import laws_check as law
from tests.support.laws_aio import AioDevice, AioPublisher
from tests.support.laws_clients import Device, Plan, Publisher, Pulse, Recorder, WillHolder
from tests.support.laws_process import PATIENCE, BrokerProcess
from tests.support.mongo_server import MongoServer
from tests.support.until import until

WINDOW = 20
"""In-flight messages of a device: ``mqtt.inflight_window``, and with MQTT 5 also what the client takes."""
GROUP = "$share/crew/jobs/#"
GROUP_INBOX = "s/crew/jobs/#"
CHAT = ("chat/1", "chat/2", "chat/3")
JOBS = ("jobs/1", "jobs/2")
LONG = 2.3
"""Seconds that some rounds last at least, so that an offset that is never stored would show."""


class World:
    """All clients of a run."""

    def __init__(self, port: int, seed: int) -> None:
        self.pulse = pulse = Pulse()
        self.wanderer = Device(pulse, port, "bob", "bob-tablet", {"chat/2": 1, "chat/3": 2})
        self.fragile = Device(pulse, port, "carol", "carol-watch", {"chat/#": 1}, 5)
        self.devices: list[Recorder] = [
            Device(pulse, port, "alice", "alice-phone", {"chat/#": 2}),
            Device(pulse, port, "alice", "alice-laptop", {"chat/#": 1}, 5),
            AioDevice(pulse, port, "alice", "alice-web", {"chat/#": 1}),
            Device(pulse, port, "bob", "bob-phone", {"chat/1": 2, "chat/+": 1}, 5),
            self.wanderer,
            self.fragile,
        ]
        self.members: list[Recorder] = [
            Device(pulse, port, "crew", f"crew-{number}", {GROUP: 2}, version) for number, version in enumerate((5, 5, 4))
        ]
        everywhere = CHAT + JOBS
        self.publishers: list[Publisher | AioPublisher] = [
            Publisher(pulse, port, "pat", "pat-1", Plan(everywhere, (1,)), seed),
            Publisher(pulse, port, "pat", "pat-2", Plan(everywhere, (2,)), seed + 1, 5),
            Publisher(pulse, port, "pat", "pat-named", Plan(everywhere, (1, 2), named=True), seed + 2, 5),
            Publisher(pulse, port, "alice", "alice-pen", Plan(CHAT, (0, 1, 2)), seed + 3),
            AioPublisher(pulse, port, "bob", "bob-pen", Plan(everywhere, (1,)), seed + 4),
        ]
        self.holder = WillHolder(pulse, port, "wilma", "wilma-sensor", "chat/1")

    @property
    def clients(self) -> list[Recorder]:
        return [*self.devices, *self.members, *self.publishers, self.holder]

    def start(self) -> None:
        """Devices first, so that everything that is published is due to them."""
        for part in ([*self.devices, *self.members], [*self.publishers, self.holder]):
            for client in part:
                client.start()
            for client in part:
                assert client.connected.wait(PATIENCE), f"{client.name} cannot connect"

    def stop(self) -> None:
        for client in self.clients:
            client.stop()


class CrashRun:
    """One run. ``check`` needs `run` to have come to its end."""

    rest = PATIENCE
    """Seconds in which something must arrive, until all has."""

    def __init__(self, folder: Path, url: str, seed: int, mongo: MongoServer | None = None) -> None:
        self.url = url
        self.dice = random.Random(seed)
        self.broker = BrokerProcess(folder, url, mqtt={"inflight_window": WINDOW}, limits={"recent_entries": 64})
        self.nodes = [self.broker]
        self.mongo = mongo
        self.world = World(self.broker.port, seed)
        self.kills: list[law.Kill] = []
        self._instant = threading.Event()
        self._wanderer_is_away = False

    def run(self, rounds: int) -> None:
        """Kill so many times, then let everything arrive, and end cleanly."""
        self.broker.start()
        try:
            self._live(rounds)
        finally:
            if self.broker.process is not None and self.kills:
                self.broker.stop()
            self.broker.kill()

    def _live(self, rounds: int) -> None:
        """What the clients see, from their first connection to their goodbyes."""
        try:
            self.world.start()
            for number in range(rounds):
                self._round(number)
            self._come_to_rest()
        finally:
            self.world.stop()
        holder = self.world.holder
        asyncio.run(goodbye_arrives(self.url, DeviceKey(f"u/{holder.user}", holder.name), self.rest))

    def _round(self, number: int) -> None:
        began = time.monotonic()
        events = self.dice.randrange(20, 400)
        assert self.world.pulse.wait(events, PATIENCE), f"nothing goes on in round {number}:\n{self.broker.log[-3000:]}"
        self._upset_a_device(number)
        if number % 3 == 2:
            self._instant.wait(max(0.0, began + LONG - time.monotonic()))
        self._instant.wait(self.dice.uniform(0, 0.05))
        victims: tuple[Callable[[], None], ...] = (self._kill_broker,)
        if self.mongo is not None:
            victims = (self._kill_broker, self._kill_mongo, self._kill_both)
        victims[number % len(victims)]()

    def _upset_a_device(self, number: int) -> None:
        """One device goes and comes back a round later; another loses its memory."""
        if self._wanderer_is_away:
            self.world.wanderer.start()
        elif number % 2:
            self.world.wanderer.drops.append(time.monotonic())
            self.world.wanderer.stop()
        self._wanderer_is_away = not self._wanderer_is_away and bool(number % 2)
        if number % 4 == 2:
            self.world.fragile.crash()
            self.world.fragile.start()

    def _kill_broker(self) -> None:
        self._end_broker()
        if self.dice.random() < 0.4:  # once more while it starts, which may be in the middle of its recovery
            self.broker.spawn()
            self._instant.wait(self.dice.uniform(0.3, 1.3))
            self._end_broker()
        self.broker.start()

    def _end_broker(self) -> None:
        late = law.lateness(self.world.pulse, time.monotonic())
        self.broker.kill()
        self.kills.append(law.Kill(time.monotonic(), late))

    def _kill_mongo(self) -> None:
        assert self.mongo is not None
        self.mongo.kill()
        self._instant.wait(self.dice.uniform(0, 0.5))
        self.mongo.start()

    def _kill_both(self) -> None:
        assert self.mongo is not None
        if self.dice.random() < 0.5:
            self.mongo.kill()
            self._instant.wait(self.dice.uniform(0, 0.2))
            self._end_broker()
        else:
            self._end_broker()
            self.mongo.kill()
        self.mongo.start()
        self.broker.start()

    # --- the end -------------------------------------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        world = self.world
        if self._wanderer_is_away:
            world.wanderer.start()
        for publisher in world.publishers:
            publisher.finish()
        asyncio.run(self._everything_is_done())

    async def _everything_is_done(self) -> None:
        """All publishers are acknowledged, and beyond no device's offset is an entry that is due to it. Nothing may stand still
        for ``rest`` seconds before that."""
        behind: list[str] = ["?"]
        pause = 0.1
        try:
            async with law.reading(self.url) as storage, asyncio.timeout(self.rest) as limit:
                while behind:
                    await asyncio.sleep(pause)  # not a wait: a look at the whole storage keeps it from those who drain
                    pause = min(5.0, 1.5 * pause)
                    try:
                        found = await self._behind(storage)
                    except StorageUnavailable:  # on a busy machine the driver may take the server for away
                        continue
                    if found != behind:  # it moves: half an hour may have left a device of QoS 2 far behind
                        limit.reschedule(asyncio.get_running_loop().time() + self.rest)
                    behind = found
        except TimeoutError:
            raise AssertionError(f"it does not come to rest: {behind}\n{self.broker.log[-3000:]}") from None

    async def _behind(self, storage: Storage) -> list[str]:
        found = [f"{p.name}: not acknowledged" for p in self.world.publishers if not _all_acked(p)]
        if not self.world.holder.connected.is_set():  # else its goodbye would be none
            found.append(f"{self.world.holder.name}: not connected")
        async for device in storage.devices():
            due = await _undone(storage, device)
            found += [f"{device.key}: beyond the offset {device.offset} {len(due)} are due"] if due else []
        return found

    def check(self) -> None:
        """Every law, on what is left."""
        world, window = self.world, WINDOW
        problems = [problem for client in world.clients for problem in client.problems]
        assert problems == [], problems[:5]
        for broker in self.nodes:
            assert broker.complaints == [], broker.log[-6000:]
        stored = law.read_all(self.url)
        law.timelines_are_whole(stored)
        law.acknowledged_are_stored(stored, world.publishers)
        law.surplus_is_bounded(stored, world.publishers)
        if self.url.startswith("mongodb"):  # each start is a node of its own, and finishes what the one before it left
            law.publishers_are_in_order_everywhere(stored, world.publishers)
            law.inboxes_hold_all_that_is_due(stored, self._inboxes())
        else:
            law.publishers_are_in_order(stored, world.publishers)
            law.inboxes_hold_what_is_due(stored, self._inboxes())
        law.wills_survived(stored, world.holder.held, world.holder.given_up, world.holder.number)
        law.offsets_are_at_the_head(stored, world.devices)
        for device in world.devices:
            law.everything_was_delivered(stored, device)
            law.delivery_was_in_order(stored, device)
            law.duplicates_are_bounded(stored, device, self.kills, window)
        law.group_got_everything(stored, GROUP_INBOX, world.members, self.kills, window)

    def _inboxes(self) -> dict[str, set[str]]:
        inboxes: dict[str, set[str]] = {GROUP_INBOX: {"jobs/#"}}
        for device in self.world.devices:
            inboxes.setdefault(f"u/{device.user}", set()).update(device.filters)
        return inboxes


async def goodbye_arrives(url: str, key: DeviceKey, patience: float = PATIENCE) -> None:
    """Wait until the DISCONNECT of a client with a will was read, and that is durable.

    A broker that is told to stop before that rightly publishes the will, which nobody who has left by then is given.
    """
    async with law.reading(url) as storage:

        async def arrived() -> bool:
            try:
                device = await storage.device(key)
            except StorageUnavailable:  # on a busy machine the driver may take the server for away
                return False
            return device is not None and device.will is None

        await until(arrived, f"{key.client_id} has no will any more", patience)


def _all_acked(publisher: Publisher | AioPublisher) -> bool:
    return all(sent.acked for sent in publisher.sent.values() if sent.qos)


async def _undone(storage: Storage, device: StoredDevice) -> list[InboxEntry]:
    """Entries beyond its offset that are due to it. One that is due none of the last moves on now and then, behind the head."""
    beyond = await storage.read_inbox(device.key.user, device.offset, law.PAGE)
    return [e for e in beyond if e.message is not None and any(matches(f, e.message.topic) for f in device.subscriptions)]
