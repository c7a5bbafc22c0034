"""One index on a server for all brokers of a cluster: one of them feeds it, and when that is killed another goes on.

The server is the strict stand-in; brokers, database and kill are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.cli.processes import Api, Process, serving
from tests.search.meili_stub import MeiliStub
from tests.support import mongo_server
from tests.support.until import wait_until

PATIENCE = 90.0
"""Seconds; a lease and a back-off are to pass, also on a machine that is busy."""


class Cluster:
    """Two brokers over one database and one search server."""

    def __init__(self, folder: Path, stub: MeiliStub, stack: ExitStack) -> None:
        self.database = mongo_server.new_database()
        self.processes: list[Process] = []
        self.apis: list[Api] = []
        url = mongo_server.url(self.database, "tideline_lease_ms=3000")
        for name in ("one", "other"):
            place = folder / name
            place.mkdir()
            config = {"plugins": {"search": {"engine": "meilisearch", "url": stub.url}, "http": {}, "jobs": {}}}
            (place / "config.yaml").write_text(json.dumps(config))
            key = {"TIDELINE__PERSISTENCE__URL": url, "TIDELINE_MEILISEARCH_KEY": stub.key}
            process = stack.enter_context(serving(place, **key))
            self.processes.append(process)
            self.apis.append(Api(process, place))

    def numbers(self) -> list[int]:
        """Of the brokers, as nodes."""
        found = []
        for api in self.apis:
            nodes = api.client.get("/cluster").json()["nodes"]
            found.append(next(node["number"] for node in nodes if node["me"]))
        return found

    def feeding(self) -> int:
        """The number of the node that feeds the index; -1 while none does."""
        with MongoClient[dict[str, Any]](mongo_server.url(self.database)) as client:
            lease = client[self.database].leases.find_one({"_id": "work"})
            holder = client[self.database].nodes.find_one({"token": lease["holder"]}) if lease is not None else None
        return -1 if holder is None else int(holder["number"])


@pytest.fixture
def brokers(tmp_path: Path, stub: MeiliStub) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path, stub, stack)


def total(api: Api) -> int:
    answer = api.client.get("/search", params={"q": "harbour"})
    return int(answer.json()["total"]) if answer.status_code == 200 else -1


def test_the_next_broker_feeds_the_index_when_one_was_killed(brokers: Cluster, stub: MeiliStub) -> None:
    """Also what the killed one had stored, and had not sent, or had sent and not heard of."""
    ids = [api.post(f"chat/{n}", f"harbour {n}")["id"] for n in range(5) for api in brokers.apis]
    for api in brokers.apis:
        wait_until(lambda api=api: total(api) == 10, "all is found on both", PATIENCE)  # type: ignore[misc]
    numbers = brokers.numbers()
    wait_until(lambda: brokers.feeding() in numbers, "one feeds the index", PATIENCE)
    first = numbers.index(brokers.feeding())
    rest = brokers.apis[1 - first]
    stub.flowing.clear()
    known = len(stub.tasks)
    ids += [api.post(f"chat/{n}", f"harbour {n}")["id"] for n in range(5, 8) for api in brokers.apis]
    wait_until(lambda: len(stub.tasks) > known, "the feeding one has sent something", PATIENCE)
    ids += [api.post(f"chat/{n}", f"harbour {n}")["id"] for n in range(8, 10) for api in brokers.apis]
    brokers.processes[first].process.kill()
    brokers.processes[first].process.wait()
    ids += [rest.post(f"chat/{n}", f"harbour {n}")["id"] for n in range(10, 12)]
    stub.flowing.set()
    wait_until(lambda: brokers.feeding() == numbers[1 - first], "the other one feeds the index", PATIENCE)
    ids += [rest.post("chat/last", "harbour last")["id"]]
    wait_until(lambda: total(rest) == len(ids), lambda: f"{total(rest)} of {len(ids)} are found", PATIENCE)
    found = [document["id"] for document in stub.indexes["tideline"].documents.values() if not document.get("own")]
    assert len(found) == len(ids)
    hits = rest.search(q="harbour", limit=100)["hits"]
    assert sorted(hit["id"] for hit in hits) == sorted(ids)
