"""What docs/receipts.md shows does what it says there, with a stock client."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from typing import Any

from tests.http.conftest import Site
from tests.support.laws_process import ROOT
from tests.support.until import until


def recipes(site: Site) -> tuple[list[str], str, list[str], dict[str, int]]:
    """The programs of the page with our ports, its call by curl, what it says that the first program prints, and what the
    second one gives."""
    text = (ROOT / "docs" / "receipts.md").read_text(encoding="utf-8")
    ports = {"1883": str(site.address[1]), "localhost:8080": site.url.partition("//")[2]}
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (call,) = re.findall(r"`(curl [^`]*/position[^`]*)`", text)
    for old, new in ports.items():
        programs = [program.replace(old, new) for program in programs]
        call = call.replace(old, new)
    (printed,) = re.findall(r"```\n(stored.*?)```", text, re.DOTALL)
    (given,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    return programs, call, printed.splitlines(), json.loads(given)


async def test_a_sender_is_told_and_asks(broker: Site) -> None:
    (sends, asks), reads, printed, given = recipes(broker)
    readers = [await broker.durable(name, 5) for name in ("tablet", "laptop")]
    for reader in readers:
        await reader.subscribe("chat/#", options=1)
    lines: list[str] = []
    shown: dict[str, Any] = {"print": lambda *words: lines.append(" ".join(map(str, words)))}
    sending = asyncio.create_task(asyncio.to_thread(exec, sends, shown))
    try:
        for reader in readers:
            await reader.message()
        await until(lambda: any(line.startswith("delivered 2 of 2") for line in lines))
        _, _, method, path, _, kind, _, body = shlex.split(reads)
        headers = {"Content-Type": kind.partition(": ")[2]}
        answer = await broker.caller().request(method, f"http://{path}", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        await until(lambda: any(line.startswith("read") for line in lines))
    finally:
        shown["phone"].disconnect()
        await sending
    # Whether the two are told of in one receipt or in two is a matter of time.
    assert (lines[0], lines[-1]) == (printed[0], printed[-1])
    assert {line.split()[0] for line in lines} == {line.split()[0] for line in printed}
    (message,) = await broker.server.storage.read_conversation("chat/a")
    program: dict[str, Any] = {}
    exec(asks, program)

    async def counted() -> bool:
        found: dict[str, int] = await asyncio.to_thread(program["whole"], f"{message.id:016x}")
        return found == given

    await until(counted)
