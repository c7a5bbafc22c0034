"""The broker killed at random instants, with its indexer or without: what was acknowledged is found, once."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import httpx

from tests.cli.processes import Api, Process, serving
from tests.support.until import wait_until


def _publish_until_killed(broker: Process, api: Api, rng: random.Random, number: int) -> dict[str, str]:
    """Publish, kill the broker or its indexer somewhere on the way; what was acknowledged, by message id."""
    acknowledged: dict[str, str] = {}
    left = rng.randint(5, 60)
    while left:
        number, left = number + 1, left - 1
        acknowledged[api.post(f"chat/{number % 3}", f"common n{number}")["id"]] = f"common n{number}"
        if left == 20 and rng.random() < 0.5:
            for child in Path(f"/proc/{broker.process.pid}/task/{broker.process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
    broker.signal(signal.SIGKILL)
    broker.wait()
    return acknowledged


def _found(api: Api) -> list[str]:
    """The ids of everything that is found, page by page."""
    page = api.search(q="common ", sort="oldest", limit=100)
    found = [hit["id"] for hit in page["hits"]]
    while page["next"]:
        page = api.search(q="common ", sort="oldest", limit=100, cursor=page["next"])
        found += [hit["id"] for hit in page["hits"]]
    return found


def test_what_was_acknowledged_is_found_once_whatever_is_killed(tmp_path: Path) -> None:
    rng = random.Random(5)
    acknowledged: dict[str, str] = {}
    for _ in range(3):
        with serving(tmp_path) as broker:
            api = Api(broker, tmp_path)
            try:
                acknowledged |= _publish_until_killed(broker, api, rng, len(acknowledged))
            finally:
                api.client.close()
    with serving(tmp_path) as broker:
        api = Api(broker, tmp_path)
        try:
            stored = sum(api.client.get(f"/conversations/chat/{n}/messages").json()["last"] for n in range(3))
            assert stored >= len(acknowledged)
            assert wait_until(lambda: api.search(q="common ")["total"] == stored)
            found = _found(api)
            assert len(found) == len(set(found)) == stored
            assert set(acknowledged) <= set(found)
            for id, text in random.Random(1).sample(sorted(acknowledged.items()), 10):
                hits = api.search(q=text.split()[1] + " ")["hits"]
                assert [hit["id"] for hit in hits] == [id]
        except httpx.HTTPError as error:
            raise AssertionError(broker.log) from error
        finally:
            api.client.close()
