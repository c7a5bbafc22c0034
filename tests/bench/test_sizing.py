"""The sizing model keeps its formulas, and the page shows what its commands print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cluster.costs import Cost, Costs, Trips
from bench.sizing import text
from bench.sizing.__main__ import output
from bench.sizing.figures import MEASURED, BadFigures, Figures
from bench.sizing.model import MOST_NODES, Assumptions, Load, NoPlan, node, plan, waits_ms
from bench.sizing.simulate import simulate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sizing.md"
COSTS = Costs(
    group=Cost(1500.0, 4.0, 0.0, 900.0, 400.0),
    message=Cost(20.0, 0.0, 1.0, 360.0, 40.0),
    recipient=Cost(5.0, 0.0, 1.0, 160.0, 45.0),
    tell=Cost(400.0, 1.0, 0.0, 0.0, 0.0),
    look=Cost(900.0, 2.0, 0.0, 0.0, 0.0),
    parcel=Cost(100.0, 0.0, 2.0, 900.0, 500.0),
    carried=Cost(3.0, 0.0, 0.0, 330.0, 330.0),
    idle=Cost(20_000.0, 40.0, 2.0, 11_000.0, 7_000.0),
)
FIGURES = Figures("a machine", "a server", "a build", "a command", COSTS, Trips(2.0, 0.0, 2.0), "a table")
USUAL = Assumptions()
_loads = st.builds(Load, st.floats(min_value=1, max_value=300_000), st.floats(min_value=0, max_value=20))


@given(_loads, st.integers(min_value=2, max_value=400))
def test_a_group_has_what_came_in_the_time_of_the_one_before(load: Load, nodes: int) -> None:
    found = node(load, nodes, FIGURES, USUAL)
    each = (COSTS.message.cpu_us + load.recipients * COSTS.recipient.cpu_us) / 1e6
    if found.messages * each >= 1:  # more than the processor has: no group ever ends
        return
    seconds = waits_ms(FIGURES, USUAL, nodes) / 1e3 + (COSTS.group + COSTS.tell).cpu_us / 1e6 + found.group * each
    if found.group > 1 + 1e-9:
        assert found.group == pytest.approx(found.messages * seconds, rel=1e-6)
    assert found.group * found.groups == pytest.approx(found.messages)
    assert found.looks <= found.parcels <= found.groups * (nodes - 1) * (1 + 1e-9)
    assert found.parcels <= found.carried * (1 + 1e-9) or found.group * load.recipients < 1 + 1e-9


@settings(max_examples=30, deadline=None)
@given(_loads)
def test_the_plan_is_the_least_that_carries_it(load: Load) -> None:
    try:
        found = plan(load, FIGURES, USUAL)
    except NoPlan:
        assert node(load, MOST_NODES, FIGURES, USUAL).busy > USUAL.load
        return
    assert found.busy <= USUAL.load
    assert found.nodes == 1 or node(load, found.nodes - 1, FIGURES, USUAL).busy > USUAL.load


def test_one_node_tells_nobody() -> None:
    found = plan(Load(500), FIGURES, USUAL)
    assert (found.nodes, found.parcels, found.carried, found.looks) == (1, 0, 0, 0)
    assert found.database.documents == pytest.approx(500 * 2 + 2)
    assert found.database.operations == pytest.approx(found.groups * 4 + 40)


def test_faster_cores_and_larger_shards_need_fewer() -> None:
    slow = plan(Load(100_000), FIGURES, USUAL)
    fast = plan(Load(100_000), FIGURES, replace(USUAL, speed=2.0, shard_documents=40_000.0))
    assert fast.nodes < slow.nodes
    assert fast.shards < slow.shards


def test_fewer_looks_need_fewer_nodes() -> None:
    at_once, waiting = (plan(Load(200_000), FIGURES, replace(USUAL, between_looks_ms=wait)) for wait in (1.0, 20.0))
    assert waiting.looks < 50 <= at_once.looks
    assert waiting.nodes < at_once.nodes


def test_a_larger_payload_is_more_bytes() -> None:
    small, large = (node(Load(1000), 4, FIGURES, replace(USUAL, payload=size)) for size in (128, 1128))
    assert large.database.sent - small.database.sent == pytest.approx(1000 * (1000 + 750))


def test_what_no_cluster_carries_says_so() -> None:
    with pytest.raises(NoPlan, match="1000 nodes are the most"):
        plan(Load(50_000_000), FIGURES, USUAL)


@pytest.mark.parametrize("messages", [2_000, 50_000])
def test_the_simulated_node_agrees_with_the_formulas(messages: float) -> None:
    made = plan(Load(messages), FIGURES, USUAL)
    late = simulate(made, FIGURES, USUAL)
    assert late.group == pytest.approx(made.group, rel=0.25)  # its answers are log-normal: their mean is 13% above the median
    assert waits_ms(FIGURES, USUAL, made.nodes) < late.ack_p50 < late.ack_p99
    assert late == simulate(made, FIGURES, USUAL)


def test_a_change_stream_is_sooner_than_polling() -> None:
    made = plan(Load(50_000), FIGURES, USUAL)
    assert simulate(made, FIGURES, USUAL, stream=True).behind_p50 < simulate(made, FIGURES, USUAL).behind_p50


def test_a_load_that_no_cluster_carries_is_a_line_beside_those_that_have_a_plan(tmp_path: Path) -> None:
    FIGURES.write(tmp_path / "figures.json")
    arguments = ["--figures", str(tmp_path / "figures.json"), "--messages"]
    said = output([*arguments, "1000", "50e6"])
    assert "! 50,000,000 messages a second" in said
    assert "50,000,000" not in said.splitlines()[0]
    with pytest.raises(NoPlan):
        output([*arguments, "50e6"])


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    FIGURES.write(tmp_path / "figures.json")
    assert Figures.read(tmp_path / "figures.json") == FIGURES


@pytest.mark.parametrize("missing", ["costs", "trips", "machine"])
def test_figures_that_lack_something_are_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "figures.json"
    FIGURES.write(path)
    given = json.loads(path.read_text())
    del given[missing]
    path.write_text(json.dumps(given))
    with pytest.raises(BadFigures, match=missing):
        Figures.read(path)


@pytest.mark.parametrize("wrong", [["--messages", "0"], ["--messages", "many"], ["--load", "1.5"], ["--cores", "2.5"]])
def test_a_wrong_number_is_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        output(wrong)
    assert repr(wrong[1]) in capsys.readouterr().err


def test_the_page_shows_what_its_commands_print() -> None:
    page = PAGE.read_text()
    assert page.count("$ python -m bench.sizing") >= 3
    assert text.page(page, output) == page, "python -m bench.sizing --write-page docs/sizing.md"


def test_the_measured_figures_are_of_a_cluster() -> None:
    figures = Figures.read(MEASURED)
    assert "--only cluster" in figures.command
    assert figures.costs.group.cpu_us > 0
    assert figures.costs.parcel.documents > 0
