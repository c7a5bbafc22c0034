"""What the HTTP API, the requests and plugins do with devices, where another node may have the device's connection.

- What another node has is done there, and answered here: that node's memory is what counts for the device.
- A device that nobody has is done with here, as storage has it now. Where it connects elsewhere meanwhile, this node loses it,
  and what was asked begins again.
- A node that does not answer is not suspected for that, and its device is not taken: nobody is waiting to connect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from broker.cluster.mailbox import AskFailed
from broker.connection import (
    ChannelPlace,
    Claim,
    DeviceProblem,
    InboxPage,
    NoChannel,
    NoDevice,
    SessionReaders,
    Superseded,
)
from storage.errors import StorageUnavailable
from storage.records import DeviceKey

if TYPE_CHECKING:
    from broker.access import SessionInfo
    from broker.cluster.cluster import Cluster
    from broker.cluster.ports import Node

T = TypeVar("T")

_NOTE = "device"
_PATIENCE = 5.0
"""Seconds that the other node has, for what takes a commit of its own."""
_PROBLEMS: dict[str, type[DeviceProblem]] = {kind.__name__: kind for kind in (DeviceProblem, NoDevice, NoChannel, Superseded)}
_ELSEWHERE = "elsewhere"


class ClusterSessionReaders(SessionReaders):
    """`broker.connection.SessionReaders` over a cluster."""

    def __init__(self, server: Node, cluster: Cluster) -> None:
        super().__init__(server)  # type: ignore[arg-type]
        self._cluster = cluster
        self._here: dict[str, Callable[..., Awaitable[Any]]] = {
            "claim": super().claim,
            "current": super().current,
            "acknowledge": super().acknowledge,
            "set_offset": super().set_offset,
            "forget": super().forget,
            "subscribe": self._subscribe,
            "unsubscribe": super().unsubscribe,
        }
        cluster.mailbox.on(_NOTE, self._asked)

    # --- what is asked -----------------------------------------------------------------------------------------------

    async def claim(self, key: DeviceKey, *, takeover: bool = False) -> Claim:
        epoch, offset = await self._done("claim", key, takeover=int(takeover))
        return Claim(epoch, offset)

    async def channels(self, key: DeviceKey) -> list[ChannelPlace]:
        await self._server.sessions.latest(key)
        return await super().channels(key)

    async def page(
        self, key: DeviceKey, after: int, limit: int, max_bytes: int, info: SessionInfo | None, channel: str = ""
    ) -> InboxPage:
        await self._server.sessions.latest(key)
        return await super().page(key, after, limit, max_bytes, info, channel)

    async def current(self, key: DeviceKey, epoch: int) -> bool:
        return bool(await self._done("current", key, epoch=epoch))

    async def acknowledge(self, key: DeviceKey, epoch: int, through: int, channel: str = "") -> int:
        named = {"channel": channel} if channel else {}  # a node of an earlier version knows of none
        return int(await self._done("acknowledge", key, epoch=epoch, through=through, **named))

    async def set_offset(self, key: DeviceKey, offset: int) -> int:
        return int(await self._done("set_offset", key, offset=offset))

    async def forget(self, key: DeviceKey) -> None:
        await self._done("forget", key)

    async def subscribe(self, key: DeviceKey, filter_: str, qos: int, info: SessionInfo | None) -> int:
        if info is not None and (code := await self._server.subscriptions.refusal(key.client_id, filter_, info)):
            return code  # asked where the caller is known
        return int(await self._done("subscribe", key, filter_=filter_, qos=qos))

    async def unsubscribe(self, key: DeviceKey, filter_: str) -> bool:
        return bool(await self._done("unsubscribe", key, filter_=filter_))

    # --- where -------------------------------------------------------------------------------------------------------

    async def _done(self, what: str, key: DeviceKey, **values: Any) -> Any:
        while True:
            holder = await self._cluster.holder(key)
            if not holder:
                done, result = await self._do(what, key, values)
            else:
                done, result = await self._ask(holder, what, key, values)
            if done:
                return result

    async def _do(self, what: str, key: DeviceKey, values: Mapping[str, Any]) -> tuple[bool, Any]:
        """Do it here; False where another node has taken the device meanwhile."""
        await self._server.sessions.latest(key)
        with self._cluster.takeover.watching(key) as lost:
            try:
                result = await self._here[what](key, **values)
            except DeviceProblem:
                if not lost.is_set():
                    raise
                result = None
        return not lost.is_set(), result

    async def _ask(self, holder: int, what: str, key: DeviceKey, values: Mapping[str, Any]) -> tuple[bool, Any]:
        """Have it done by the node that has the device; False where that has it no more."""
        body = {"do": what, "user": key.user, "client": key.client_id, "with": dict(values)}
        try:
            result = await self._cluster.mailbox.ask(holder, _NOTE, body, _PATIENCE)
        except (TimeoutError, AskFailed) as error:
            raise StorageUnavailable(
                f"device {key.client_id!r} is connected to another node, which does not answer: {error or 'no answer in time'}"
            ) from error
        if "problem" in result:
            if result["problem"] == _ELSEWHERE:
                return False, None
            raise _PROBLEMS[result["problem"]](result["text"])
        return True, result["told"]

    async def _asked(self, sender: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Another node asks about a device that it takes to be here."""
        key = DeviceKey(body["user"], body["client"])
        session = self._server.sessions.get(key)
        if session is None or session.connection is None:
            await self._cluster.takeover.store([])  # storage says so too then, or the other node would ask at once again
            return {"problem": _ELSEWHERE}
        try:
            done, result = await self._do(body["do"], key, body["with"])
        except DeviceProblem as error:
            return {"problem": type(error).__name__, "text": str(error)}
        if not done:
            return {"problem": _ELSEWHERE}
        plain = [int(value) for value in result] if isinstance(result, tuple) else int(result or 0)
        return {"told": plain}

    async def _subscribe(self, key: DeviceKey, filter_: str, qos: int) -> int:
        return await super().subscribe(key, filter_, qos, None)
