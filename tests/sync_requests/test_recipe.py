"""The recipe of docs/sync.md as it stands there, with paho as its users install it; and that its table names every request."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from tests.attachments.parts import CONTENT, url_of, whole
from tests.http.conftest import Site, passwords, site, sites
from tests.support.until import until

__all__ = ["passwords", "sites"]

_DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (_DOCS / "sync.md").read_text(encoding="utf-8")
EVERY: dict[str, Any] = {
    "presence": {"grace": 0},
    "schedules": {},
    "attachments": {},
    "recall": {"own_erasure": True},
    "receipts": {},
    "conversations": {},
}


async def test_the_recipe_works(sites: Callable[..., AbstractAsyncContextManager[Site]], tmp_path: Path) -> None:
    (program, told) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)[0]
    async with sites(url_of(tmp_path), EVERY) as made:
        alice, bob = made.caller("alice"), made.caller("bob")
        await made.device("bob", "bob-phone")
        await whole(alice, "team/1", CONTENT, filename="photo.jpg")

        async def there() -> bool:
            return bool((await bob.get("/presence/u/bob")).json()["online"])

        await until(there)
        host, port = made.address
        names: dict[str, Any] = {}
        printed = io.StringIO()

        def run() -> None:
            with contextlib.redirect_stdout(printed):
                exec(program.replace('"localhost", 1883', f'"{host}", {port}'), names)

        try:
            await asyncio.to_thread(run)
        finally:
            await asyncio.to_thread(names["phone"].loop_stop)
        assert printed.getvalue() == told
        assert (await alice.get("/attachments")).json() == {"attachments": [], "next": None}
        assert (await alice.get("/schedules")).json()["schedules"] == []


async def test_the_table_names_every_request(tmp_path: Path) -> None:
    rows = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `")]
    listed = {op for row in rows for op in re.findall(r"`([a-z-]+)`", row)}
    elsewhere = set(re.findall(r"`((?:conversation-|value)[a-z-]+)`", (_DOCS / "conversations.md").read_text()))
    async with site(url_of(tmp_path), plugins=EVERY) as made:
        phone = await made.durable("phone")
        assert await phone.subscribe("$sync/reply/phone", options=1) == [1]
        await phone.publish("$sync/request", b'{"op": "nothing"}', qos=1)
        known = set(
            json.loads((await phone.message()).payload)["error"]["detail"]
            .rpartition("one of ")[2]
            .partition(";")[0]
            .split(", ")
        )
        assert listed == known - elsewhere - {"values"}
