"""Attachments in a bucket, over a real S3 server: moto's."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import yaml

from broker.errors import StartError
from plugins.attachments import AttachmentsPlugin
from plugins.attachments.cleaning import CleaningJob
from plugins.jobs import Work
from tests.attachments.parts import CONTENT, TUS, begun, published, sent, stock, url_of, whole
from tests.http.conftest import site
from tests.support.laws_process import ROOT, free_port
from tests.support.until import until, wait_until

PAGE = ROOT / "docs" / "attachments.md"
MOTO = os.environ.get("TIDELINE_TEST_MOTO") or shutil.which("moto_server")


class Service:
    """The server, and a bucket in it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def settings(self) -> dict[str, Any]:
        keys = {"access_key": "test", "secret_key": "test"}
        return {"s3": {"bucket": "files", "prefix": "tideline", "endpoint": self.url, "timeout": 5, **keys}}


@contextmanager
def serving(**environment: str) -> Iterator[Service]:
    if MOTO is None:
        pytest.skip("moto_server is missing: uv tool install 'moto[s3,server]'")
    port = free_port()
    nowhere = subprocess.DEVNULL
    env = {**os.environ, **environment}
    with subprocess.Popen([MOTO, "-p", str(port)], env=env, stdout=nowhere, stderr=nowhere) as process:
        try:
            made = Service(process, port)
            wait_until(lambda: _answers(f"{made.url}/files"), "the S3 server answers")
            yield made
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as made:
        yield made


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


def keys(service: Service) -> tuple[str, str]:
    """A new user's, who may do everything. These are the last calls that the server takes without a signature."""

    def asked(action: str, **more: str) -> str:
        form = urlencode({"Action": action, "Version": "2010-05-08", "UserName": "tideline", **more})
        unsigned = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0"
        headers = {"Authorization": unsigned, "Content-Type": "application/x-www-form-urlencoded"}
        answer = httpx.post(service.url, content=form, headers=headers)
        assert answer.is_success, answer.text
        return answer.text

    asked("CreateUser")
    everything = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
    asked("PutUserPolicy", PolicyName="all", PolicyDocument=everything)
    made = asked("CreateAccessKey")
    id, secret = (re.search(f"<{name}>(.*?)</{name}>", made) for name in ("AccessKeyId", "SecretAccessKey"))
    assert id
    assert secret
    return id[1], secret[1]


async def test_the_configuration_of_the_page_works(tmp_path: Path) -> None:
    """With an endpoint and keys of our own, as the page says. The server looks at each signature: others' keys don't do."""
    (text,) = re.findall(r"```yaml\n(plugins:\n  attachments:\n    s3:\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with serving(INITIAL_NO_AUTH_ACTION_COUNT="4") as service:
        id, secret = keys(service)
        shown = yaml.safe_load(text)["plugins"]
        shown["attachments"]["s3"] |= {"endpoint": service.url, "access_key": id}
        with pytest.raises(StartError, match="SignatureDoesNotMatch"):
            async with site(url_of(tmp_path), plugins=shown):
                pass
        shown["attachments"]["s3"]["secret_key"] = secret
        async with site(url_of(tmp_path), plugins=shown) as made:
            caller = made.caller()
            path = await whole(caller, "chat/1", CONTENT)
            assert (await caller.get(path)).content == CONTENT
