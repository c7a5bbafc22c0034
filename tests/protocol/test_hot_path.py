"""What each message passes, and each client that connects, is on the list of what `make compile` compiles (setup.py).

One function beside it that is called for each message costs more than all that a message costs in a compiled module: two reads
of a clock were a sixth of the event loop's work.
"""

from __future__ import annotations

import importlib
import runpy
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from broker.build import compiled
from broker.packets.model import Publish
from broker.pipeline import Pipeline
from tests.support.broker import running
from tests.support.until import until

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = 300
CLIENTS = 50


def on_the_list(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that `make compile` compiles; none in a compiled tree, where only what was not is seen to be called."""
    if compiled():
        return set()
    monkeypatch.setattr("setuptools.setup", lambda **given: None)
    return {path.removesuffix(".py").replace("/", ".") for path in runpy.run_path(str(ROOT / "setup.py"))["CORE"]}


def test_nothing_that_a_room_offers_is_called_like_a_compiled_module_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once that is compiled, the name is the module, for whoever imports it from the room."""
    for module in on_the_list(monkeypatch):
        room, _, name = module.rpartition(".")
        assert isinstance(getattr(importlib.import_module(room), name, None), ModuleType | None), module


class Calls:
    """Counts calls of Python functions by module and name."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            self.counted[f"{frame.f_globals.get('__name__', '')} {frame.f_code.co_name}"] += 1

    def often(self, times: int) -> list[str]:
        """Those of ours that were called for each message."""
        ours = ("broker.", "storage.", "plugins.")
        return [name for name, count in self.counted.items() if count >= times and name.startswith(ours)]


USUAL: dict[str, Any] = {
    "acl": {"rules": [{"allow": "all", "topics": ["t", "devices/{client}/#", "users/{user}/#"]}]},
    **{name: {} for name in ("presence", "receipts", "recall", "conversations", "schedules", "attachments", "search")},
    "webhooks": {
        "hooks": [{"name": "h", "url": "http://127.0.0.1:9/", "filters": ["none/#"], "secrets": [f"whsec_{'A' * 43}="]}]
    },
}
"""Rules, and plugins that look at each group of messages."""


@pytest.mark.parametrize("plugins", [{}, USUAL], ids=["alone", "with the usual plugins"])
async def test_what_each_message_passes_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: dict[str, Any]
) -> None:
    calls = Calls()
    threading.setprofile(calls.note)  # of storage's threads
    try:
        async with running(f"sqlite:///{tmp_path}/t.db", plugins=plugins) as broker:
            reader, sender = await broker.durable("reader"), await broker.client("sender")
            await reader.subscribe("t", options=1)
            calls.counted.clear()
            sys.setprofile(calls.note)
            sender.send(*(Publish("t", b"x", 1, packet_id=number) for number in range(1, MESSAGES + 1)))
            await reader.messages(MESSAGES)
            sys.setprofile(None)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    often, listed = calls.often(MESSAGES), on_the_list(monkeypatch)
    assert [name for name in often if name.split()[0] not in listed] == []
    assert often or not listed, "what is called is seen"


def _waiting(pipeline: Pipeline, messages: int) -> bool:
    return pipeline.pending == messages


async def test_what_each_read_of_a_socket_passes_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fleet with a message each now and then, each is a read of its own."""
    calls = Calls()
    async with running() as broker:
        sender, pipeline = await broker.client("sender"), broker.server.pipeline
        async with broker.held() as commits:
            sender.send(Publish("t", b"x", 1, packet_id=MESSAGES + 1))
            await commits.arrived()
            try:
                sys.setprofile(calls.note)
                for number in range(1, MESSAGES + 1):
                    sender.send(Publish("t", b"x", 1, packet_id=number))
                    await until(partial(_waiting, pipeline, number))
            finally:
                sys.setprofile(None)
    often, listed = calls.often(MESSAGES), on_the_list(monkeypatch)
    assert [name for name in often if name.split()[0] not in listed] == []
    assert often or not listed, "what is called is seen"


async def test_what_each_client_that_connects_passes_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet that comes back at once is let in as fast as that is done. What carries the socket, and tells plugins, is not
    looked at here."""
    calls = Calls()
    async with running() as broker:
        await broker.client("before")
        try:
            sys.setprofile(calls.note)
            for number in range(CLIENTS):
                await broker.client(f"sensor-{number}")
        finally:
            sys.setprofile(None)
    often, listed = calls.often(CLIENTS), on_the_list(monkeypatch)
    rooms = ("broker.access", "broker.connection", "broker.limits", "broker.sessions", "broker.server")
    assert [name for name in often if name.startswith(rooms) and name.split()[0] not in listed] == []
    assert often or not listed, "what is called is seen"
