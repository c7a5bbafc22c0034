"""Taking a device from a node that is silent or dead."""

from __future__ import annotations

from collections.abc import Callable

from storage import rules
from storage.errors import StorageUnavailable
from storage.mongo.codec import device_id
from storage.mongo.connection import storage_errors
from storage.mongo.reads import device
from storage.mongo.state import State
from storage.records import CloseSession, Device, DeviceKey

_ATTEMPTS = 20


async def take(state: State, key: DeviceKey, holder: int, end: Callable[[Device], CloseSession]) -> Device | None:
    """See `storage.cluster.Cluster.take`. The revision rises, so that every write that saw an earlier one misses."""
    for _ in range(_ATTEMPTS):
        found = await device(state, key)
        if found is None or found.node != holder:
            return None
        seen = {"_id": device_id(key), "node": holder, "epoch": found.epoch}
        rules.end(found, end(found))
        found.epoch, found.node = found.epoch + 1, 0
        names = ("epoch", "node", "expiry", "expires_at", "will", "will_at")
        changed = {"$set": {name: getattr(found, name) for name in names}, "$inc": {"revision": 1}}
        with storage_errors():
            result = await state.collections.devices.update_one(seen, changed)
        if result.matched_count:
            state.devices.forget([key])
            return found
    raise StorageUnavailable(f"mongodb: taking device {key.client_id!r} of {key.user!r} found it written again and again")
