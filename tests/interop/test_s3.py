"""Attachments in a bucket, over a real S3 server: moto's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.attachments import AttachmentsPlugin
from plugins.attachments.cleaning import CleaningJob
from plugins.jobs import Work
from tests.attachments.parts import CONTENT, TUS, begun, published, sent, stock, url_of
from tests.http.conftest import site
from tests.support.laws_process import free_port
from tests.support.until import until, wait_until

MOTO = os.environ.get("TIDELINE_TEST_MOTO") or shutil.which("moto_server")


class Service:
    """The server, and a bucket in it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def settings(self) -> dict[str, Any]:
        keys = {"access_key": "test", "secret_key": "test"}
        return {"s3": {"bucket": "files", "prefix": "tideline", "endpoint": self.url, "timeout": 5, **keys}}


@pytest.fixture
def service() -> Iterator[Service]:
    if MOTO is None:
        pytest.skip("moto_server is missing: uv tool install 'moto[s3,server]'")
    port = free_port()
    with subprocess.Popen([MOTO, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            made = Service(process, port)
            wait_until(lambda: _answers(f"{made.url}/files"), "the S3 server answers")
            yield made
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def _answers(bucket: str) -> bool:
    try:
        return httpx.put(bucket).is_success
    except httpx.HTTPError:
        return False


async def objects(service: Service) -> int:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{service.url}/files?list-type=2")).text.count("<Key>")


async def test_uploads_go_on_are_given_and_removed(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(CONTENT * 3)
    async with site(url_of(tmp_path), plugins={"attachments": service.settings()}) as made:
        caller = made.caller()
        path = (await stock(made.url, file, "chat/1", chunk=200_000)).removeprefix(f"{made.url}/v1")
        assert (await caller.get(path)).content == CONTENT * 3
        answer = await caller.get(path, headers={"Range": "bytes=1999990-2000009"})
        assert (answer.status_code, answer.content) == (206, (CONTENT * 3)[1_999_990:2_000_010])
        assert (await published(caller, "chat/1", path)).status_code == 201
        half = (await begun(caller, "chat/1", 1000)).headers["location"].removeprefix("/v1")
        assert (await sent(caller, half, 0, b"x" * 500)).status_code == 204
        before = await objects(service)
        assert (await caller.delete(half, headers=TUS)).status_code == 204
        assert await objects(service) == before - 1
        plugin = made.server.api.plugin(AttachmentsPlugin)
        assert plugin is not None
        await plugin._pieces.put(f"{'0' * 32}/0000-00000000", b"left by a crash")
        work = Work()
        await CleaningJob(plugin._server, plugin._records, plugin._pieces, plugin._links, kept=-1).run(work)
        assert (work.detail["pieces"], await objects(service)) == (1, before - 1)


async def test_while_the_service_is_away_nothing_is_confirmed(service: Service, tmp_path: Path) -> None:
    async with site(url_of(tmp_path), plugins={"attachments": service.settings()}) as made:
        caller = made.caller()
        path = (await begun(caller, "chat/1", 1000)).headers["location"].removeprefix("/v1")
        assert (await sent(caller, path, 0, b"x" * 500)).status_code == 204
        service.process.kill()
        await until(lambda: service.process.poll() is not None)
        answer = await sent(caller, path, 500, b"x" * 500)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (await caller.head(path, headers=TUS)).headers["upload-offset"] == "500"
