"""Pieces as objects in a bucket of S3, or of a service that speaks it. Needs `tideline[s3]`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from plugins.attachments.config import Bucket
from plugins.attachments.pieces import Found, PiecesAway

if TYPE_CHECKING:
    from obstore.store import S3Config

T = TypeVar("T")

_PAGE = 1000
_RETRIES = 3
_PATIENCE = timedelta(seconds=20)
"""For how long one request is tried again."""


class S3:
    """See `plugins.attachments.pieces.Pieces`. An object is durable when the service has answered."""

    def __init__(self, bucket: Bucket) -> None:
        config: S3Config = {"region": bucket.region}
        if bucket.endpoint:
            config["endpoint"] = bucket.endpoint
        if bucket.access_key:
            config["access_key_id"], config["secret_access_key"] = bucket.access_key, bucket.secret_key
        self._store = S3Store(
            bucket.bucket,
            prefix=bucket.prefix or None,
            config=config,
            client_options={
                "allow_http": bucket.endpoint.startswith("http://"),
                "timeout": timedelta(seconds=bucket.timeout),
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": _PATIENCE},
        )

    async def open(self) -> None:
        async for _ in self.every():
            return

    async def put(self, name: str, data: bytes) -> None:
        await _asked(obstore.put_async(self._store, name, data))

    async def get(self, name: str, start: int, end: int) -> bytes:
        return bytes(await _asked(obstore.get_range_async(self._store, name, start=start, end=end)))

    async def drop(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                await _asked(obstore.delete_async(self._store, name))

    async def clear(self, id: str) -> None:
        async for page in self._below(id):
            await self.drop(one.name for one in page)

    def every(self) -> AsyncIterator[list[Found]]:
        return self._below(None)

    async def _below(self, folder: str | None) -> AsyncIterator[list[Found]]:
        pages = obstore.list(self._store, folder, chunk_size=_PAGE).__aiter__()
        while True:
            try:
                page = await _asked(pages.__anext__())
            except StopAsyncIteration:
                return
            now = datetime.now(UTC)
            yield [Found(one["path"], (now - one["last_modified"]).total_seconds()) for one in page]

    async def close(self) -> None:
        """Nothing is held."""


async def _asked(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except BaseError as error:
        raise PiecesAway(f"the bucket of attachments: {_reason(str(error))}") from error


def _reason(text: str) -> str:
    """What the service says is wrong, where it says so in its XML; else the first line."""
    said = [found[1] for name in ("Code", "Message") if (found := re.search(f"<{name}>([^<]*)</{name}>", text))]
    return (": ".join(said) or (text.splitlines() or [""])[0])[:200]
