"""What a record of an export becomes in MongoDB. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from storage.cluster import number_of
from storage.errors import StorageUnusable
from storage.mongo.codec import (
    Kept,
    device_document,
    message_document,
    retained_document,
    subscription_document,
    subscription_id,
)
from storage.mongo.documents import Raw, pair_key, row_fields, row_id, timeline_key
from storage.records import Device, DeviceKey, Inflight, InflightState, JobState, Message, RowKey, Subscription, Token
from storage.restored import marked, unmarked

Made = Iterable[tuple[str, Raw]]


class Documents:
    """Documents, each with its collection. ``now``: ms."""

    def __init__(self, now: int) -> None:
        self._now = now
        self._times: dict[str, int] = {}
        self._kinds: dict[str, Callable[..., Made]] = {
            "device": self._device,
            "setting": self._setting,
            "row": self._row,
            "token": self._token,
            "job": self._job,
            "once": self._once,
            "participant": self._participant,
            "retained": self._retained,
            "entry": self._entry,
            "message": self._message,
        }

    def of(self, kind: str, fields: tuple[Any, ...]) -> Made:
        """Raises `StorageUnusable` for a name that MongoDB can keep no key of."""
        for name in fields[:3]:
            if isinstance(name, str) and "\0" in name:
                raise StorageUnusable(f"{kind} {name[:60]!r}: mongodb stores names without U+0000")
        return self._kinds[kind](*fields)

    def _device(
        self,
        user: str,
        client: str,
        epoch: int,
        expiry: int,
        expires_at: int,
        created_at: int,
        offset: int,
        cursor: int,
        inflight: list[list[Any]],
        filters: list[list[Any]],
        received: list[int],
        will: bytes | None,
        will_at: int,
    ) -> Made:
        key = DeviceKey(user, client)
        group = not client  # a shared subscription: it gives out again what is not done
        device = Device(
            key,
            epoch if group else unmarked(marked(epoch, self._now)),
            expiry,
            expires_at,
            created_at,
            offset,
            offset if group else cursor,
            [] if group else [Inflight(p, seq, InflightState(state), timeline) for p, seq, state, timeline in inflight],
            received=set(received),
            will=will,
            will_at=will_at,
            restored=not group,
        )
        yield "devices", {"_id": pair_key(*key), **device_document(Kept(device, 0, 0)), "revision": 0, "v": 0}
        for fields in filters:
            document = subscription_document(key, Subscription(*fields), 0)
            yield "subscriptions", {"_id": subscription_id(key, fields[0]), **document, "revision": 0, "v": 0}

    def _entry(self, user: str, seq: int, mid: int, target: str, at: int, size: int) -> Made:
        # Times do not go back along an inbox, also where a message is gone and its time with it.
        at = self._times[user] = max(at, self._times.get(user, 0))
        document = {"_id": timeline_key(user, seq), "user": user, "seq": seq, "mid": mid, "size": size, "time": at}
        yield "sync", {**document, "target": target} if target else document

    def _message(self, *fields: Any) -> Made:
        message = _message(*fields)
        document = message_document(message, message.seq, message.time, 0)
        yield "store", {"_id": timeline_key(message.topic, message.seq), "writer": number_of(message.id), **document}

    def _retained(self, *fields: Any) -> Made:
        message = _message(*fields)
        yield "retained", {"_id": message.topic, **retained_document(message, message.seq, message.time, 0, 0)}

    def _once(self, user: str, key: str, digest: bytes, mid: int, seq: int, until: int) -> Made:
        fields = {"digest": digest, "mid": mid, "seq": seq, "until": until, "done": 1, "v": 0}
        yield "idempotency", {"_id": pair_key(user, key), **fields}

    def _participant(self, user: str, topic: str, joined: int, position: int) -> Made:
        fields = {"_id": pair_key(user, topic), "user": user, "topic": topic}
        if joined:
            yield "members", dict(fields)
        if position:
            yield "positions", {**fields, "seq": position, "v": 0}

    def _token(self, id: str, *fields: Any) -> Made:
        yield "tokens", {"_id": id, **dict(zip(Token._fields[1:], fields, strict=True)), "v": 0}

    def _job(self, name: str, *fields: Any) -> Made:
        yield "jobs", {"_id": name, **dict(zip(JobState._fields[1:], fields, strict=True)), "v": 0}

    def _setting(self, kind: str, key: str, value: bytes) -> Made:
        yield "settings", {"_id": pair_key(kind, key), "kind": kind, "name": key, "value": value, "v": 0}

    def _row(self, table: str, part: str, key: str, revision: int, value: bytes) -> Made:
        row = RowKey(table, part, key)
        fields = {"revision": revision, "value": value, "recent": [], "v": 0}
        yield "rows", {"_id": row_id(row), **row_fields(row), **fields}


def _message(
    topic: str,
    seq: int,
    id: int,
    user: str,
    device: str,
    at: int,
    qos: int,
    retain: int,
    expires: int,
    properties: bytes,
    payload: bytes,
) -> Message:
    return Message(id, topic, user, device, at, qos, payload, bool(retain), expires, properties, seq)
