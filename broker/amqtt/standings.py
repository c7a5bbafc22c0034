"""Where devices stand at this moment, on whichever node they are connected: what `broker.ledger` asks.

Of who is connected its node's memory tells, of everybody else storage. A node that does not answer in time is named in
``silent``: of its devices storage tells then, a second late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amqtt.contexts import Action

from broker.access import info_of
from broker.ledger import Standing, from_plain, plain, session_standing, stored_standing
from broker.packets import matches
from broker.routing import Match
from broker.sessions import channel_filter, is_channel, is_group, member_device
from storage.records import Device, DeviceKey

if TYPE_CHECKING:
    from broker.amqtt.node import Node
    from broker.sessions import Session

_ASK, _LIVE = "standings", "standings of users"


class LiveStandings:
    """A `broker.ledger.Standings`. One object for each question: ``silent`` grows with what it is asked."""

    def __init__(self, server: Node) -> None:
        self._server = server
        self.silent: set[str] = set()

    def now(self) -> int:
        """See `broker.ledger.Standings`."""
        return self._server.time.now()

    def recipients(self, topic: str) -> Iterable[str]:
        """See `broker.ledger.Standings`. Channels that no policy names any more are among them."""
        found: Match[Any] = self._server.trie.match(topic)
        channels = [one for one in self._server.channels.known if matches(channel_filter(one), topic)]
        return {*found.recipients, *channels}

    async def of_inboxes(self, inboxes: Sequence[str]) -> Mapping[str, Sequence[Standing]]:
        """See `broker.ledger.Standings`."""
        stored = [device for inbox in inboxes for device in await self._server.storage.devices_of(inbox)]
        found: dict[str, list[Standing]] = {}
        for device, standing in zip(stored, await self._standings(stored), strict=True):
            if standing is not None:
                found.setdefault(device.key.user, []).append(standing)
        return found

    async def of_channel(self, channel: str, after: str, limit: int) -> Sequence[Standing]:
        """See `broker.ledger.Standings`. One that has just left counts as not there yet, so that pages are full."""
        stored = await self._server.storage.devices_of(channel, after, limit)
        live = await self._standings(stored)
        return [standing or stored_standing(device) for device, standing in zip(stored, live, strict=True)]

    async def _standings(self, devices: Sequence[Device]) -> list[Standing | None]:
        """Of stored devices as they are now; None for one that has ended."""
        server, shared = self._server, self._server.storage.cluster
        asked = {d.key: d.node for d in devices if shared is not None and d.node not in (0, shared.me.token)}
        elsewhere = await self._ask(asked) if asked else {}
        found: list[Standing | None] = []
        for device in devices:
            key = device.key
            whose = member_device(key) if is_channel(key.user) else key
            here = _here(server, key)
            if server.sessions.ending(whose):
                found.append(None)
            else:
                found.append(here or elsewhere.get(key) or stored_standing(device))
        return found

    async def _ask(self, holders: Mapping[DeviceKey, int]) -> Mapping[DeviceKey, Standing]:
        """Of devices that other nodes have; ``holders`` are the nodes' tokens."""
        cluster = self._server.cluster
        assert cluster is not None
        answers, silent = await cluster.gather_all(_ASK, {"devices": [list(key) for key in holders]})
        self.silent.update(silent)
        found = {DeviceKey(*key): from_plain(one) for answer in answers for key, one in answer["standings"]}
        for key in holders.keys() - found.keys() if not silent else ():
            device = await self._server.storage.device(key)
            if device is not None and device.node == holders[key]:  # else it has left that node meanwhile
                self.silent.add(f"node {device.node}, which has just started")
        return found

    async def live(self, users: Sequence[str]) -> Mapping[str, Sequence[Standing]]:
        """The devices of users that are in memory, of any node: who is connected, and who was a moment ago. Costs no read."""
        found = {user: [session_standing(one) for one in _of(self._server, user)] for user in users}
        cluster = self._server.cluster
        if cluster is not None and users:
            answers, silent = await cluster.gather_all(_LIVE, {"users": list(users)})
            self.silent.update(silent)
            for answer in answers:
                for user, standings in answer["standings"]:
                    found.setdefault(user, []).extend(map(from_plain, standings))
        return found

    async def may_receive(self, standing: Standing, topic: str) -> bool:
        """See `broker.ledger.Standings`."""
        access = self._server.access
        if access.openness.open:
            return True
        key = DeviceKey(standing.user, standing.client)
        session = self._server.sessions.get(key)
        connection = None if session is None else session.connection
        info = connection.info if connection is not None and connection.open else info_of(*key)
        return await access.allowed(info, Action.RECEIVE, topic)


def _here(server: Node, key: DeviceKey) -> Standing | None:
    """A device as memory has it; None where it is not in memory, or another node may have changed it since."""
    if is_group(key.user):
        return None
    channel = is_channel(key.user)
    session = server.sessions.get(member_device(key) if channel else key)
    if session is None or not session.durable or (server.cluster is not None and session.connection is None):
        return None
    if not channel:
        return session_standing(session)
    member = next((one for one in session.members if one.key == key), None)
    return None if member is None else session_standing(session, member)


def _of(server: Node, user: str) -> list[Session]:
    return [one for one in server.sessions.of(user) if one.durable and (server.cluster is None or one.connection is not None)]


def joined(server: Node) -> None:
    """The node has joined a cluster: answer the others."""
    cluster = server.cluster
    assert cluster is not None

    def of_devices(body: Mapping[str, Any]) -> Mapping[str, Any]:
        keys = [DeviceKey(*key) for key in body["devices"]]
        here = [(key, one) for key in keys if (one := _here(server, key)) is not None and one.connected]
        return {"standings": [[list(key), plain(one)] for key, one in here]}

    def of_users(body: Mapping[str, Any]) -> Mapping[str, Any]:
        found = [(user, [plain(session_standing(one)) for one in _of(server, user)]) for user in body["users"]]
        return {"standings": [[user, standings] for user, standings in found if standings]}

    cluster.answer_all(_ASK, of_devices)
    cluster.answer_all(_LIVE, of_users)
