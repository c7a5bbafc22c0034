"""The tables of the documentation are what the kept figures say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import pages
from bench.drive import Cell
from bench.kept import Kept


def kept(*cells: Cell) -> Kept:
    found = Kept()
    found.add(cells, "python -m bench --only some", "a machine")
    return found


def test_the_pages_show_the_kept_figures() -> None:
    for page in pages.PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!-- bench: " in text, page
        assert pages.renewed(text, Kept.read()) == text, "python -m bench.pages"


def test_what_was_not_measured_is_a_dash() -> None:
    for name, block in pages.BLOCKS.items():
        assert block(Kept()), name
    assert "| - |" in pages.machine(Kept())


def test_a_row_that_nobody_has_a_figure_for_is_left_out_of_those_side_by_side() -> None:
    said = pages.speed(kept(Cell("pairs", "nats", {"rate": 12_345.0})))
    assert "| 10 pairs, window 64, deliveries/s | - | - | - | 12,345 | - | - |" in said
    assert said.count("/s |") == 1


def test_medians_are_kept_and_a_later_run_takes_the_place_of_its_shapes(tmp_path: Path) -> None:
    rounds = [Cell("pairs", "tideline", {"rate": rate}) for rate in (1.0, 5.0, 3.0)]
    found = kept(*rounds, Cell("one", "nats", {"rate": 7.0}), Cell("one", "tideline", trouble="the broker died"))
    assert found.get("pairs", "tideline", "rate") == 3.0
    found.add([Cell("pairs", "tideline", {"rate": 9.0})], "another", "another machine")
    found.write(tmp_path / "measured.json")
    again = Kept.read(tmp_path / "measured.json")
    assert again == found
    assert again.get("pairs", "tideline", "rate") == 9.0
    assert again.get("one", "nats", "rate") == 7.0
    assert again.commands == {"pairs": "another", "one": "python -m bench --only some"}


def test_what_a_gib_or_a_disk_has_room_for_is_divided_by_what_one_takes() -> None:
    found = kept(
        Cell("storm-tls", "tideline", {"kb": 16.0, "core_rate": 3200.0}),
        Cell("bytes", "tideline", {"store": 150.0, "inbox": 20.0, "the rest": 30.0, "index": 300.0, "all": 500.0}),
        Cell("start", "tideline", {"session_bytes": 256.0}),
        Cell("search", "tideline", {"indexer_us": 40.0}),
        Cell("pairs", "tideline", {"rate": 90_000.0, "thread": 0.9, "busy": 0.5}),
    )
    said = pages.machine(found)
    for held in ("| 65,536 |", "| 3,200 |", "| 500,000,000 |", "| 200,000,000 |", "| 4,194,304 |", "| 25,000 |", "| 90,000 |"):
        assert held in said
    assert "broker's core, 90%" in said


@pytest.mark.parametrize("text", ["no table", "before\n<!-- bench: aims -->\nold\n<!-- end -->\nafter\n"])
def test_only_what_is_between_the_marks_is_renewed(text: str) -> None:
    new = pages.renewed(text, kept(Cell("many", "tideline", {"ack_p99": 4.0})))
    assert pages.renewed(new, kept(Cell("many", "tideline", {"ack_p99": 4.0}))) == new
    assert ("4.00 ms | reached" in new) is ("bench: aims" in text)
    assert new.splitlines()[0] == text.splitlines()[0]
    assert new.splitlines()[-1] == text.splitlines()[-1]
