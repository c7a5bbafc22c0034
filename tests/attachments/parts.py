"""A stock tus client, and raw requests, to a real broker."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import httpx
from tusclient.client import TusClient

from tests.http.conftest import Site

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}
NOBODY = {"tests.support.laws_auth.NameIsPassword": False, "tests.support.laws_auth.ForbiddenTopics": False}
"""Plugins that broker processes have by default, and here not."""
JSON = {"Content-Type": "application/json"}
CONTENT = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(60_000))
"""1.9 MB."""


def metadata(**found: str) -> str:
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in found.items())


async def stock(url: str, file: Path, topic: str, *, at: str = "", chunk: int = 700_000, **auth: Any) -> str:
    """Upload a file as tuspy does, or go on with one; the attachment's URL."""

    def upload() -> str:
        client = TusClient(f"{url}/v1/attachments", headers=_basic(**auth))
        about = {"topic": topic, "filename": file.name, "filetype": "image/png"}
        uploader = client.uploader(
            str(file), chunk_size=chunk, metadata=about, url=at or None, upload_checksum=True, retries=2, retry_delay=1
        )
        uploader.upload()
        return str(uploader.url)

    return await asyncio.to_thread(upload)


def _basic(user: str = "") -> dict[str, str]:
    word = base64.b64encode(f"{user}:{user}-password".encode()).decode()
    return {"Authorization": f"Basic {word}"} if user else {}


async def begun(caller: httpx.AsyncClient, topic: str, length: int, **about: str) -> httpx.Response:
    headers = {**TUS, "Upload-Length": str(length), "Upload-Metadata": metadata(topic=topic, **about)}
    return await caller.post("/attachments", headers=headers)


async def sent(caller: httpx.AsyncClient, path: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
    return await caller.patch(path, content=data, headers={**BYTES, "Upload-Offset": str(offset), **headers})


async def whole(caller: httpx.AsyncClient, topic: str, data: bytes, **about: str) -> str:
    """Upload by one request; the attachment's path below /v1."""
    headers = {**BYTES, "Upload-Length": str(len(data)), "Upload-Metadata": metadata(topic=topic, **about)}
    answer = await caller.post("/attachments", headers=headers, content=data)
    assert answer.status_code == 201, answer.text
    assert answer.headers["upload-offset"] == str(len(data))
    return answer.headers["location"].removeprefix("/v1")


async def published(caller: httpx.AsyncClient, topic: str, *paths: str, text: str = "look") -> httpx.Response:
    """Publish a message that has these attachments."""
    pairs = [["attachment", path.rpartition("/")[2]] for path in paths]
    return await caller.post("/messages", json={"topic": topic, "payload": text, "properties": pairs})


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "attachments").rglob("*") if path.is_file()]


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/t.db"


async def cleaned(made: Site) -> dict[str, Any]:
    """What the job tells of a run."""
    caller = made.caller()
    answer = await caller.post("/jobs/attachments/run", headers=JSON)
    assert answer.status_code == 202, answer.text
    plugin = made.server.plugin_host.job_plugin
    assert plugin is not None
    job = await plugin.ended("attachments")
    assert job["last"]["outcome"] == "done", job
    return dict(job["last"]["detail"])
