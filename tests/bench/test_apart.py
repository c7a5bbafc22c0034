"""What is measured in a way of its own gives figures that the targets and the release can be read from."""

from __future__ import annotations

import pytest

from bench import release, search_publish, start, storage_bytes, table
from bench.search_publish import Figures, Run
from bench.shapes import APART, BYTES, SEARCH, START

KNOWN = {(shape.name, row.figure) for shape in APART for row in shape.rows}


def test_bytes_on_disk_are_counted_whole() -> None:
    parts: list[storage_bytes.Part] = []
    found = storage_bytes.measure(500, parts=parts)
    assert sum(part.all for part in parts if part.file == "search.db") == pytest.approx(found["index"], abs=1)  # its lock
    assert sum(part.all for part in parts) == pytest.approx(found["all"], abs=1)
    assert next(part for part in parts if part.name == "store").rows > storage_bytes.PAYLOAD
    assert found["all"] == pytest.approx(sum(found.values()) - found["all"])
    assert found["store"] > storage_bytes.PAYLOAD
    assert found["inbox"] > 0
    assert found["index"] > 0
    made = storage_bytes.cells(found)
    assert {(BYTES.name, figure) for figure in made[0].figures} >= {(BYTES.name, row.figure) for row in BYTES.rows}
    assert next(one for one in release.ratios(made) if one.figure == "store").times == pytest.approx(
        storage_bytes.PAYLOAD / found["store"], abs=1e-4
    )


def test_a_start_is_measured_with_what_it_is_given() -> None:
    found = start.measure(2_000, 50)
    assert set(found) == set(start.ENDS)
    assert all(figures["seconds"] > 0 for figures in found.values())
    made = start.cells(found, 2_000, 50)
    compared = {(one.shape, one.figure) for one in release.ratios(made)}
    assert compared == {(START.name, end) for end in start.ENDS}
    assert "seconds" not in made[0].figures, "the aim is for more than that"
    assert start.cells(found, start.MESSAGES, start.SESSIONS)[0].figures["seconds"] > 0


def test_search_is_judged_by_the_rate_beside_it_and_by_the_bursts_length() -> None:
    def run(rate: float, ages: list[int], catch_up: float = 0.0) -> Run:
        return Run(rate, {"ages": ages, "catch_up": catch_up, "stored": 1, "indexer_cpu": 4e-5})

    paced = {rate: run(rate, [10, 20]) for rate in search_publish.RATES}
    found = Figures([run(100, [])], [run(95, [5000], 9.0)], paced, run(20_000, [30, 1500]), 5.0)
    ours, *others = search_publish.cells(found)
    assert ours.figures == {"rate": 95, "soon": 20, "beside": 1500, "behind": 1.5, "indexer_us": 40}
    assert {(one.shape, one.figure) for one in release.ratios([ours, *others])} == {
        (SEARCH.name, row.figure) for row in SEARCH.rows
    }
    said = table.targets([ours, *others])
    assert "0.95 times  reached" in said
    assert said.count("MISSED") == 2
