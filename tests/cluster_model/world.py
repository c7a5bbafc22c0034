"""The nodes, the clients, and what may happen to them: each `Step` is one thing that somebody does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from broker.packets import SHARE
from broker.packets.model import PubAck, PubRec, SubAck
from storage.cluster import UP
from storage.memory import MemoryDatabase
from tests.cluster_model.device import EXPIRY, Device
from tests.cluster_model.history import History
from tests.cluster_model.nodes import LEASE, Faultfinder, Latency, Node
from tests.cluster_model.virtual import VirtualLoop, run

TOPICS = ("a/1", "a/2", "b")
FILTERS = ("a/1", "a/+", "b", "#")
SHARED_TOPIC = "s"
_LONGEST = 1000.0
"""Seconds of virtual time that a play may take."""
_QUIET = 2.5
"""Seconds without news after which nothing more is to come."""
MOST_NODES = 6
"""Starts of nodes, one after the other."""


class Who(NamedTuple):
    """A device. ``lasts``: its session does; ``version``: of MQTT."""

    client_id: str
    user: str
    lasts: bool = True
    version: int = 5


DEVICES = (
    Who("phone", "u/ann"),
    Who("tablet", "u/ann"),
    Who("meter", "u/bob"),
    Who("shop", "u/eve", lasts=False),
    Who("pager", "u/max", version=4),
    Who("worker-1", "u/joe"),
    Who("worker-2", "u/kim"),
    Who("worker-3", "u/lou", version=4),
)
"""The workers have nothing but a shared subscription."""
CLIENTS, WORKERS = range(5), range(5, 8)


@dataclass(frozen=True)
class Step:
    """``what`` is done by or to ``who`` (a device, or a node by its place among those that are there); then time passes.

    ``then``: what others do as soon as a trap springs, or a SUBACK or PUBACK comes, each after its own ``wait``.
    """

    what: str
    who: int = 0
    arg: Any = None
    wait: float = 0.0
    then: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Play:
    """All of an example. ``skews``: how wrong each node's clock is, in seconds; ``latencies``: of each node."""

    nodes: int
    seed: int
    steps: Sequence[Step]
    skews: tuple[float, ...] = (0.0, 0.0, 0.0)
    latencies: tuple[tuple[Latency, ...], ...] = ((),)


class World:
    """Where a `Play` is played."""

    def __init__(self, loop: VirtualLoop, play: Play) -> None:
        self.loop = loop
        self.history = History()
        self.database = MemoryDatabase(lease=LEASE)
        self.nodes: list[Node] = []
        self._random = Random(play.seed)
        self._play = play
        self._count, self._since = -1, 0.0
        """What was counted when something was heard last, and when that was."""
        self.devices = [Device(*who, self.history, loop.time) for who in DEVICES]

    # --- nodes -------------------------------------------------------------------------------------------------------------

    @property
    def up(self) -> list[Node]:
        """Nodes that take clients, as far as a load balancer knows."""
        return [node for node in self.nodes if node.up]

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if not node.dead]

    def start_node(self) -> Node:
        """One more node."""
        number = len(self.nodes)
        skew = self._play.skews[number % len(self._play.skews)]
        latencies = self._play.latencies[number % len(self._play.latencies)]
        random = Random(self._random.random())
        node = Node(f"node{number}", self.loop, self.database, random, self.history, skew, latencies)
        self.nodes.append(node)
        return node

    # --- steps -------------------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """From the start to the rest at the end."""
        for _ in range(self._play.nodes):
            self.start_node()
        while not self.history.failures and len(self.up) < self._play.nodes:
            await asyncio.sleep(0.01)  # not a wait: the time is virtual
        for step in self._play.steps:
            self._do(step)
            await asyncio.sleep(step.wait)  # not a wait: the time is virtual
        await self.rest()
        await self.look()

    def _do(self, step: Step) -> None:
        if step.what in ("trap", "ambush"):
            node = self._node(step.who) if step.what == "trap" else self._node_of(self._device(step.who))
            if node is not None:
                node.arm(step.arg, lambda: self._follow(step.then))
            return
        if step.what in ("publish", "subscribe", "unsubscribe", "share"):
            device = self._device(step.who)
            if not device.connected:
                device.once_connected.append(lambda: self._do(step))
                if device.wire is None:
                    self._dial(device, step.who + device.connections)
                return
        if step.then:
            device = self._device(step.who)
            device.then = {kind: lambda: self._follow(step.then) for kind in (SubAck, PubAck, PubRec)}
        getattr(self, f"_{step.what}")(step.who, step.arg)

    def _follow(self, steps: Sequence[Step]) -> None:
        """What others do now."""
        for step in steps:
            self.loop.call_later(step.wait, self._do, step, context=Context())

    def _node_of(self, device: Device) -> Node | None:
        return next((node for node in self.alive if node.name == device.node), None)

    def _device(self, who: int) -> Device:
        return self.devices[who % len(self.devices)]

    def _node(self, who: int) -> Node | None:
        alive = self.alive
        return alive[who % len(alive)] if alive else None

    def _connect(self, who: int, arg: tuple[Any, ...]) -> None:
        """arg: (node, how the old connection ends, clean, will, its delay, and seconds after which the session ends)."""
        device = self._device(who)
        at, how, clean, will, delay = arg[:5]
        if device.wire is not None:
            getattr(device, how)()
        self._dial(device, at, clean=clean, will=will, delay=delay, expiry=arg[5] if len(arg) > 5 else EXPIRY)

    def _dial(self, device: Device, at: int, **wishes: Any) -> None:
        if up := self.up:
            node = up[at % len(up)]
            device.connect(node.name, node.dial, **wishes)

    def _drop(self, who: int, arg: None) -> None:
        self._device(who).drop()

    def _disconnect(self, who: int, arg: None) -> None:
        self._device(who).disconnect()

    def _subscribe(self, who: int, arg: tuple[str, int]) -> None:
        self._device(who).subscribe(*arg)

    def _unsubscribe(self, who: int, arg: int) -> None:
        device = self._device(who)
        if device.filters:
            device.unsubscribe(sorted(device.filters)[arg % len(device.filters)])

    def _share(self, who: int, arg: int) -> None:
        """arg: the QoS."""
        self._device(who).subscribe(f"{SHARE}g/{SHARED_TOPIC}", arg)

    def _publish(self, who: int, arg: tuple[str, int, bool]) -> None:
        self._device(who).publish(*arg)

    def _hold(self, who: int, arg: None) -> None:
        self._device(who).holding = True

    def _acknowledge(self, who: int, arg: None) -> None:
        self._device(who).acknowledge()

    def _recover(self, who: int, arg: None) -> None:
        node = self._node(who)
        if node is not None:
            node.recover()

    def _stop(self, who: int, arg: None) -> None:
        node = self._node(who)
        if node is not None:
            node.stop()

    def _kill(self, who: int, arg: None) -> None:
        node = self._node(who)
        if node is not None:
            node.kill()

    def _leave(self, who: int, arg: None) -> None:
        node = self._node(who)
        if node is not None and node.up:
            node.leave()

    def _terminate(self, who: int, arg: None) -> None:
        node = self._node(who)
        if node is not None and node.up:
            node.terminate()

    def _away(self, who: int, arg: bool) -> None:
        """arg: for all nodes, or for one."""
        for node in self.alive if arg else [self._node(who)]:
            if node is not None:
                node.away()

    def _back(self, who: int, arg: None) -> None:
        for node in self.alive:
            node.recover()

    def _start(self, who: int, arg: None) -> None:
        if len(self.nodes) < MOST_NODES:
            self.start_node()

    def _nothing(self, who: int, arg: None) -> None:
        """Time passes."""

    # --- the end -----------------------------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Everything works again, everybody connects and acknowledges, and all of it has time enough."""
        for node in self.nodes:
            if not node.dead:
                node.recover()
        await asyncio.sleep(LEASE)  # not a wait: the time is virtual
        if not self.alive:
            self.start_node()
        for device in self.devices:
            device.acknowledge()
        for turn in range(60):
            for number, device in enumerate(self.devices):
                if device.wire is None and device.comes_back:
                    self._dial(device, number + turn)
            await asyncio.sleep(LEASE / 8)  # not a wait: the time is virtual
            if self._is_quiet():
                break

    def _is_quiet(self) -> bool:
        """Nothing was heard for a while, and nothing is left to be done."""
        history, now = self.history, self.loop.time()
        if history.count != self._count:
            self._count, self._since = history.count, now
        there = all(device.connected and not device.pending for device in self.devices if device.comes_back)
        buried = all(node.state == UP for node in self.database.there())
        wills = [one.ended_time + one.delay for one in history.connected if one.will and one.ended and one.delay < EXPIRY / 60]
        due = max(wills, default=0.0) > now - _QUIET
        return there and buried and not due and now - self._since >= _QUIET

    async def look(self) -> None:
        """What the clients have at the end, and what the database has."""
        history = self.history
        for device in self.devices:
            if device.comes_back and not device.connected:
                history.failures.append(f"{device.name} could not connect")
            if device.pending:
                history.failures.append(f"{device.pending} messages of {device.name} were never acknowledged")
            history.open_at_end += [(device.name, number) for number, wire in enumerate(device.wires, 1) if wire.open]
        storage = self.database.storage
        async for topic, _, _ in storage.conversations():
            messages = await storage.read_conversation(topic, limit=10_000)
            history.stored[topic] = [(message.seq, message.payload.decode()) for message in messages]
        async for user, _, _ in storage.inboxes():
            entries = await storage.read_inbox(user, 0, 10_000)
            history.inboxes[user] = [
                (entry.seq, entry.message.payload.decode() if entry.message is not None else "") for entry in entries
            ]
        tokens = {node.storage.cluster.me.token: node.name for node in self.alive if node.storage.cluster is not None}
        for device in self.devices:
            if device.comes_back and device.connected:
                async for stored in storage.devices():
                    if stored.key == (device.user, device.name) and tokens.get(stored.node) != device.node:
                        history.failures.append(
                            f"{device.name} is connected to {device.node}, and stored as with {tokens.get(stored.node)}"
                        )
        for node in self.alive:
            if node.why:
                history.failures.append(f"{node.name} ended at rest: {node.why}")
        for left in self.database.there():
            if left.token not in tokens:
                history.failures.append(f"{left.name} is {left.state}, and nobody has settled it")


def played(play: Play) -> History:
    """Play it in virtual time; what happened."""
    return run(lambda loop: _played(loop, play))


async def _played(loop: VirtualLoop, play: Play) -> History:
    world = World(loop, play)
    with _heard(world.history):
        try:
            async with asyncio.timeout(_LONGEST):
                await world.play()
        except TimeoutError:
            world.history.failures.append(f"it did not come to an end in {_LONGEST:g} s")
        finally:
            for node in world.nodes:
                node.end_of_all()
    return world.history


@contextmanager
def _heard(history: History) -> Iterator[None]:
    """What nodes log as their own faults is a failure; all else that they log here nobody reads."""
    finder = Faultfinder(history)
    loggers = [logging.getLogger(name) for name in ("broker", "storage", "plugins", "asyncio")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(finder)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(finder)
            logger.setLevel(level)
            logger.propagate = propagate
