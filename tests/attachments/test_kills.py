"""The broker is killed when it is about to remove a file: an erasure that is asked for, or goes on, leaves none."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.attachments import AttachmentsPlugin
from plugins.attachments import config as attachments
from tests.attachments.parts import BYTES, NOBODY, TUS, files, metadata, published
from tests.support.broker import ANONYMOUS
from tests.support.laws_process import BrokerProcess, free_port
from tests.support.until import until

ANN = {"user": "c/ann"}


class Dying(AttachmentsPlugin):
    """Kills the process before it removes the first piece."""

    @dataclass
    class Config(attachments.Config):
        """What else there is to say."""

        dies: bool = True

    config: Config

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        if self.config.dies:
            sys.addaudithook(_die)


def _die(event: str, about: tuple[Any, ...]) -> None:
    if event == "os.remove" and "/attachments/" in str(about[0]) and ".probe" not in str(about[0]):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        (True, {"user": "c/ann"}),
        pytest.param(False, {"user": "c/ann"}, marks=pytest.mark.slow),
        pytest.param(True, {"conversation": "chat/1"}, marks=pytest.mark.slow),
        (False, {"conversation": "chat/1"}),
        (False, None),
    ],
    ids=["its-user", "its-user-loose", "its-conversation", "its-conversation-loose", "its-user-deletes"],
)
async def test_no_file_is_left_of_a_removal_that_was_killed(tmp_path: Path, said: bool, asked: dict[str, str] | None) -> None:
    """What is ``asked`` to erase, or else that the attachment is removed, and its user is erased then."""
    port = free_port()

    def started(*, dies: bool) -> BrokerProcess:
        http = {"bind": f"127.0.0.1:{port}", "operator_file": ""}
        plugins = {**NOBODY, **ANONYMOUS, "http": http, "recall": {}, f"{__name__}.Dying": {"dies": dies}}
        process = BrokerProcess(tmp_path, f"sqlite:///{tmp_path / 'tideline.db'}", plugins=plugins)
        process.start()
        return process

    broker = await asyncio.to_thread(started, dies=True)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        async with httpx.AsyncClient(base_url=url, params=ANN) as ann, httpx.AsyncClient(base_url=url) as operator:
            headers = {**BYTES, "Upload-Length": "5", "Upload-Metadata": metadata(topic="chat/1")}
            created = await ann.post("/attachments", headers=headers, content=b"bytes")
            path = created.headers["location"].removeprefix("/v1")
            if said:
                assert (await published(ann, "chat/1", path)).status_code == 201
            assert len(files(tmp_path)) == 1
            with suppress(httpx.HTTPError):  # it may be killed before it answers
                await (ann.delete(path, headers=TUS) if asked is None else operator.post("/erasures", json=asked))
            assert broker.process is not None
            assert await until(broker.process.poll) == -signal.SIGKILL
            broker = await asyncio.to_thread(started, dies=False)
            assert (await ann.get(path)).status_code == 404
            what = asked or ANN
            assert (await operator.post("/erasures", json=what)).status_code == 202
            ((kind, name),) = what.items()

            async def ended() -> bool:
                return bool((await operator.get(f"/erasures/{kind}/{name}")).json()["state"] == "done")

            await until(ended)
            assert files(tmp_path) == []
    finally:
        broker.kill()
