"""What each message passes is on the list of what `make compile` compiles (setup.py).

One function beside it that is called for each message costs more than all that a message costs in a compiled module: two reads
of a clock were a sixth of the event loop's work.
"""

from __future__ import annotations

import runpy
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest

from broker.packets.model import Publish
from tests.support.broker import running

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = 300


def on_the_list(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that `make compile` compiles; none in a compiled tree, where only what was not is seen to be called."""
    if not (ROOT / "setup.py").exists():
        return set()
    monkeypatch.setattr("setuptools.setup", lambda **given: None)
    return {path.removesuffix(".py").replace("/", ".") for path in runpy.run_path(str(ROOT / "setup.py"))["CORE"]}


async def test_what_each_message_passes_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called[f"{frame.f_globals.get('__name__', '')} {frame.f_code.co_name}"] += 1

    threading.setprofile(note)  # of storage's threads
    try:
        async with running(f"sqlite:///{tmp_path}/t.db") as broker:
            reader, sender = await broker.durable("reader"), await broker.client("sender")
            await reader.subscribe("t", options=1)
            called.clear()
            sys.setprofile(note)
            sender.send(*(Publish("t", b"x", 1, packet_id=number) for number in range(1, MESSAGES + 1)))
            await reader.messages(MESSAGES)
            sys.setprofile(None)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    often = [
        name for name, count in called.items() if count >= MESSAGES and name.startswith(("broker.", "storage.", "plugins."))
    ]
    compiled = on_the_list(monkeypatch)
    assert [name for name in often if name.split()[0] not in compiled] == []
    assert often or not compiled, "what is called is seen"
