"""A set of keys at a URL (JWKS): fetched when the broker starts, again now and then, and where a token names a key that is new.

- While it cannot be had the last one goes on, for a day; it is tried again, less and less often.
- Until there is one, nobody can be told whether a token is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

import httpx

from plugins.jwt.keys import Keys, jwks

log = logging.getLogger(__name__)

_LARGEST = 256 << 10
_TIMEOUT = 5.0
_SOONEST, _LATEST = 1.0, 60.0  # seconds between two tries while it is away
_ASK_EVERY = 10.0  # seconds between two looks because of a key that is unknown: anybody can name one
_STALE = 86_400.0


class KeyUrl:
    """``keys`` as they were last had. ``refresh`` is seconds. ``before`` is what fetched keys until now. ``changed`` is called
    with each set that is another."""

    def __init__(self, url: str, refresh: float, before: KeyUrl | None, changed: Callable[[Keys], None]) -> None:
        self._url = url
        self._refresh = refresh
        self._changed = changed
        self._keys = Keys()
        self._had = float("-inf")
        if before is not None and before._url == url:
            self._keys, self._had = before._keys, before._had
        self._asked = float("-inf")
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="token keys")

    async def close(self) -> None:
        """Fetch no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def keys(self) -> Keys | None:
        """The keys; None where there are none, or what there is is too old."""
        return self._keys if time.monotonic() - self._had < _STALE else None

    async def look_again(self) -> None:
        """A token names a key that is not among these: fetch them, unless that was done just now. Returns once it was tried."""
        now = time.monotonic()
        if now - self._asked < _ASK_EVERY:
            return
        self._asked = now
        self._tried.clear()
        self._wanted.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                await self._tried.wait()

    async def _run(self) -> None:
        wait, logged = _SOONEST, ""
        async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False) as client:
            while True:
                self._wanted.clear()
                try:
                    keys = await self._fetch(client)
                except (httpx.HTTPError, ValueError) as error:
                    why = " ".join(str(error).split()) or type(error).__name__
                    if why != logged:
                        log.warning("jwt: no keys from %s, trying again: %s", self._url, why)
                    logged, pause, wait = why, wait * random.uniform(0.8, 1.2), min(wait * 2, _LATEST)
                else:
                    if logged or not len(self._keys):
                        log.info("jwt: %d keys from %s", len(keys), self._url)
                    logged, pause, wait = "", self._refresh, _SOONEST
                    before, self._keys, self._had = self._keys, keys, time.monotonic()
                    if before.ids != keys.ids:
                        self._changed(keys)
                self._tried.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()

    async def _fetch(self, client: httpx.AsyncClient) -> Keys:
        async with client.stream("GET", self._url, headers={"Accept": "application/json"}) as answer:
            if answer.status_code != 200:
                raise ValueError(f"status {answer.status_code}, where 200 is expected")
            body = b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _LARGEST:
                    raise ValueError(f"more than {_LARGEST} bytes")
        return jwks(body, secrets=False)
