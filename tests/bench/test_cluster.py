"""What the cluster's figures are counted from and worked out with."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from bson import encode
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from bench.cluster.cells import Cell
from bench.cluster.costs import Cost, Costs, Lanes, NotMeasured, expected, sizes, solve, trips, used
from bench.cluster.proxy import Counter, Tally
from tests.support import mongo_server


def _op_msg(request: int, body: dict[str, Any], documents: int = 0, answers: int = 0) -> bytes:
    sections = b"\0" + encode(body)
    if documents:
        rest = b"documents\0" + encode({"a": 1}) * documents
        sections += b"\1" + struct.pack("<i", len(rest) + 4) + rest
    return struct.pack("<iiiii", 20 + len(sections), request, answers, 2013, 0) + sections


@given(st.lists(st.integers(min_value=0, max_value=600), max_size=12))
def test_messages_are_counted_however_their_bytes_are_cut(cuts: list[int]) -> None:
    asked = [
        _op_msg(1, {"insert": "store", "ordered": True}, documents=3),
        _op_msg(2, {"find": "routes", "readConcern": {"level": "linearizable"}}),
        _op_msg(3, {"find": "routes", "readConcern": {"level": "majority"}}),
        _op_msg(4, {"getMore": 17}),
        _op_msg(5, {"insert": "store", "ordered": True}, documents=1),
    ]
    answers = [_op_msg(100 + number, {"ok": 1.0}, answers=number) for number in (2, 1, 3, 5, 4)]
    tally: Tally = {}
    counter = Counter(tally)
    for data, take in ((b"".join(asked), counter.there), (b"".join(answers), counter.back)):
        edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
        for start, end in pairwise(edges):
            take(data[start:end])
    back = len(answers[0])
    assert tally == {
        "insert store": [2, 4, len(asked[0]) + len(asked[4]), 2 * back],
        "find routes, linearizable": [1, 0, len(asked[1]), back],
        "find routes": [1, 0, len(asked[2]), back],
        "getMore": [1, 0, len(asked[3]), back],
    }


@pytest.fixture
def proxy() -> Iterator[subprocess.Popen[str]]:
    host, port = mongo_server.address()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.cluster.proxy", host, str(port), "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def _line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_the_proxy_counts_each_node_by_itself(proxy: subprocess.Popen[str]) -> None:
    first, second = _line(proxy)
    name = mongo_server.new_database()
    with MongoClient[dict[str, Any]](mongo_server.url(name, through=first)) as client:
        client[name].store.insert_many([{"n": n} for n in range(5)])
        client[name].store.with_options(read_concern=ReadConcern("linearizable")).find_one({"n": 3})
        client[name].store.delete_many({"n": {"$gt": 2}})
    with MongoClient[dict[str, Any]](mongo_server.url(name, through=second)) as client:
        assert client[name].store.find_one({"n": 1}) is not None
    assert proxy.stdin is not None
    proxy.stdin.write("\n")
    proxy.stdin.flush()
    tallies = _line(proxy)
    one = {key: counts[:2] for key, counts in tallies[str(first)].items() if key.endswith(("store", "linearizable"))}
    assert one == {"insert store": [1, 5], "find store, linearizable": [1, 0], "delete store": [1, 1]}
    assert [key for key in tallies[str(second)] if "store" in key] == ["find store"]


COSTS = Costs(
    group=Cost(1500.0, 4.0, 0.0, 800.0, 300.0),
    message=Cost(20.0, 0.0, 1.0, 400.0, 40.0),
    recipient=Cost(5.0, 0.0, 1.0, 150.0, 50.0),
    tell=Cost(300.0, 1.0, 0.0, 0.0, 0.0),
    look=Cost(900.0, 2.0, 0.0, 0.0, 0.0),
    parcel=Cost(100.0, 0.0, 2.0, 900.0, 500.0),
    carried=Cost(3.0, 0.0, 0.0, 300.0, 300.0),
    idle=Cost(20_000.0, 40.0, 2.0, 10_000.0, 7_000.0),
)
LANES = Lanes(tell=250.0, look=750.0, sent=40.0, read=60.0)


def _cell(name: str, nodes: int, groups: int, messages: int, fan: int = 1, *, away: bool = False, seconds: float = 2.0) -> Cell:
    """What a cell shows where `COSTS` hold. Everything that a group asks of the database once is in its inserts and probes."""
    cell = Cell(name, nodes, True, {"acked": messages, "delivered": messages * fan}, seconds)
    entries, sent = messages * fan, groups if away else 0
    if groups:
        cell.tally["insert store"] = [groups, messages, groups * 600 + messages * 400, groups * 100 + messages * 40]
        cell.tally["insert sync"] = [groups, entries, groups * 100 + entries * 150, groups * 100 + entries * 50]
    looks = round(40 * seconds * nodes)
    probes = 2 * groups + looks
    cell.tally["find routes, linearizable"] = [probes, 0, 50 * probes, 50 * probes]
    cell.tally["find lanes"] = [looks + sent, 0, 200 * (looks + sent), 125 * (looks + sent)]
    cell.tally["update nodes"] = [looks // 20, looks // 20, 0, 0]
    if away:
        cell.tally["insert lanes"] = [sent, sent, sent * 700 + entries * 300, sent * 375]
        cell.tally["delete lanes"] = [sent, sent, 0, entries * 300]
    work = expected(COSTS, sizes(cell)).cpu_us + COSTS.idle.cpu_us * seconds * nodes
    cell.cpu = work / 1e6
    return cell


def _idle(nodes: int) -> Cell:
    return _cell("idle", nodes, 0, 0)


CELLS = [
    _idle(1),
    _idle(2),
    _cell("single", 1, 100, 100),
    _cell("here", 1, 50, 3200),
    _cell("fan", 1, 20, 1280, 10),
    _cell("single", 2, 80, 80, away=True),
    _cell("away", 2, 60, 4000, away=True),
]


def test_the_costs_come_out_that_went_in() -> None:
    found = solve(CELLS, LANES)
    for name in ("group", "message", "recipient", "tell", "look", "parcel", "carried"):
        assert getattr(found, name).cpu_us == pytest.approx(getattr(COSTS, name).cpu_us, rel=1e-6), name
    assert found.group.values == pytest.approx(COSTS.group.values)
    assert found.recipient.values == pytest.approx(COSTS.recipient.values)
    assert found.tell.operations + found.look.operations == pytest.approx(3)
    assert (found.parcel.documents, found.parcel.sent) == pytest.approx((2, 900))
    assert found.idle.cpu_us == pytest.approx(COSTS.idle.cpu_us)


def test_what_a_busy_node_does_not_ask_is_not_taken_off() -> None:
    """Nodes that had no time to look around: their work costs what it costs, and never less than nothing."""
    busy = _cell("here", 1, 50, 3200)
    busy.tally["find lanes"] = [3, 0, 600, 375]
    busy.tally["find routes, linearizable"] = [100, 0, 5000, 5000]
    del busy.tally["update nodes"]
    cost = used(busy, [_idle(1)])
    assert cost.operations == pytest.approx(200)
    assert cost.documents == pytest.approx(6400)
    assert cost.cpu_us > COSTS.message.cpu_us * 3200


def test_a_group_waits_for_what_it_asks_itself() -> None:
    found = trips(CELLS)
    assert (found.probes, found.reads, found.writes) == (2, 0, 2)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(NotMeasured, match="away with 2 or 3"):
        solve([cell for cell in CELLS if cell.name != "away"], LANES)
    with pytest.raises(NotMeasured, match="groups of different sizes"):
        solve([*(cell for cell in CELLS if cell.name != "here"), _cell("here", 1, 77, 77)], LANES)
