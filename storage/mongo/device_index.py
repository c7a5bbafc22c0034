"""Queries about devices that no broker holds in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from storage.interface import Due, Subscribed
from storage.mongo.codec import device_id
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw
from storage.mongo.reads import KEPT, pages, with_subscriptions
from storage.mongo.state import State
from storage.records import Device, DeviceKey


async def device_count(state: State) -> int:
    """See `storage.interface.DeviceIndex`."""
    count = 0
    async for page in pages(state.collections.devices, KEPT, {"_id": 1}):
        count += len(page)
    return count


async def subscribed(state: State) -> AsyncIterator[list[Subscribed]]:
    """See `storage.interface.DeviceIndex`."""
    async for page in pages(state.collections.devices, KEPT, {"user": 1, "client": 1, "generation": 1}):
        generations = {(d["user"], d["client"]): d["generation"] for d in page}
        between = {"$gt": page[0]["_id"] + "\0", "$lt": page[-1]["_id"] + "\1"}
        wanted = {"user": 1, "client": 1, "generation": 1, "filter": 1, "gone": 1}
        with storage_errors():
            documents = await state.collections.subscriptions.find({"_id": between}, wanted).to_list(None)
        yield [
            Subscribed(d["user"], d["client"], d["filter"])
            for d in documents
            if generations.get((d["user"], d["client"])) == d["generation"] and not d.get("gone")
        ]


async def undated(state: State, now: int) -> AsyncIterator[list[Device]]:
    """See `storage.interface.DeviceIndex`."""
    async for page in pages(state.collections.devices, KEPT):
        if found := [device for device in await with_subscriptions(state, page) if device.undated(now)]:
            yield found


async def due(state: State, now: int, limit: int) -> Due:
    """See `storage.interface.DeviceIndex`."""
    times: list[tuple[int, DeviceKey]] = []
    following: list[int] = []
    with storage_errors():
        for name in ("expires_at", "will_at"):
            wanted = {"user": 1, "client": 1, name: 1}
            cursor = state.collections.devices.find({name: {"$gt": 0, "$lte": now}}, wanted).sort(name, 1).limit(limit)
            times += [(d[name], DeviceKey(d["user"], d["client"])) for d in await cursor.to_list(None)]
            after = state.collections.devices.find({name: {"$gt": now}}, {name: 1}).sort(name, 1).limit(1)
            following += [d[name] for d in await after.to_list(None)]
    keys = dict.fromkeys(key for _, key in sorted(times))
    return Due(list(keys)[:limit], min(following, default=0))


async def devices_of(state: State, user: str, after: str, limit: int) -> list[Device]:
    """See `storage.interface.DeviceIndex`."""
    found: list[Device] = []
    async for page in pages(state.collections.devices, _keys_of(user, after)):
        found += await with_subscriptions(state, page)
        if limit and len(found) >= limit:
            break
    devices = sorted((device for device in found if device.key.user == user), key=lambda device: device.key.client_id.encode())
    return devices[:limit] if limit else devices


async def devices_from(state: State, key: DeviceKey, limit: int) -> list[Device]:
    """See `storage.interface.DeviceIndex`."""
    with storage_errors():
        found = state.collections.devices.find({"_id": {"$gte": device_id(key)}, **KEPT}).sort("_id", 1).limit(limit)
        page = await found.to_list(None)
    return await with_subscriptions(state, page) if page else []


async def devices_named(state: State, client_id: str, user: str, limit: int) -> list[Device]:
    """See `storage.interface.DeviceIndex`."""
    query: Raw = {"client": {"$eq": client_id}, "user": {"$gte": user}, **KEPT}
    with storage_errors():
        page = await state.collections.devices.find(query).sort("user", 1).limit(limit).to_list(None)
    return await with_subscriptions(state, page) if page else []


async def lowest_offset(state: State, user: str) -> int | None:
    """See `storage.interface.DeviceIndex`."""
    lowest: int | None = None
    async for page in pages(state.collections.devices, _keys_of(user), {"user": 1, "offset": 1}):
        for document in page:
            if document["user"] == user:
                lowest = document["offset"] if lowest is None else min(lowest, document["offset"])
    return lowest


async def lowest_offsets(state: State) -> AsyncIterator[list[tuple[str, int]]]:
    """See `storage.interface.DeviceIndex`. Keys begin with their user, so that those of one are neighbours."""
    user, lowest = "", 0
    async for page in pages(state.collections.devices, KEPT, {"user": 1, "offset": 1}):
        found: list[tuple[str, int]] = []
        for document in page:
            if document["user"] == user:
                lowest = min(lowest, document["offset"])
                continue
            if user:
                found.append((user, lowest))
            user, lowest = document["user"], document["offset"]
        if found:
            yield found
    if user:
        yield [(user, lowest)]


def _keys_of(user: str, after: str = "") -> Raw:
    first = f"{after}\0" if after else ""  # a shared subscription's group has no client id
    return {"_id": {"$gte": f"{user}\0{first}", "$lt": user + "\1"}, **KEPT}
