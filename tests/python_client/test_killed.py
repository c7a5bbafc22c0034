"""The Python client with a broker that is killed in the midst of its outbox and of what comes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, NamedTuple

from tideline_client import Message

from tests.python_client.test_client import app
from tests.support.laws_process import broker_process
from tests.support.until import until

ROUNDS, COUNT = 3, 40


class At(NamedTuple):
    address: tuple[str, int]


async def test_over_kills_of_the_broker_all_comes_once_and_in_order(tmp_path: Path) -> None:
    login: dict[str, Any] = {"user": "ann", "password": "ann"}
    with broker_process(tmp_path, f"sqlite:///{tmp_path}/t.db", plugins={"requests": {}}) as process:
        at = At(("127.0.0.1", process.port))
        async with app(at, tmp_path, "phone", **login) as phone, app(at, tmp_path, "tablet", **login) as tablet:
            sent: list[str] = []
            killed = threading.Event()

            def came(message: Message) -> None:
                tablet.came.append(message.text)
                if len(tablet.came) == len(sent) - COUNT + 3:  # the outbox goes out, and what comes is on its way
                    process.kill()
                    killed.set()

            tablet.client.on_message = came
            for kill in range(ROUNDS):
                killed.clear()
                sent += [f"{kill}.{number}" for number in range(COUNT)]
                for text in sent[-COUNT:]:
                    phone.client.send("chat/a", text)
                await until(killed.is_set)
                await asyncio.to_thread(process.start)
            await until(lambda: not phone.client.outbox())
            await until(lambda: len(tablet.came) >= len(sent) and len(phone.came) >= len(sent))
            assert tablet.came == phone.came == sent
        async with app(at, tmp_path, "new", **login) as new:
            found = await asyncio.to_thread(new.client.history, "chat/a", 2 * len(sent))
            assert [message.text for message in found] == sent
            assert [message.seq for message in found] == list(range(1, len(sent) + 1))
