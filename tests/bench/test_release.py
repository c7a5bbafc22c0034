"""A run is compared with the last release by ratios, and what fell by more than the noise is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import bounds, release
from bench.cli import main
from bench.drive import Cell
from bench.release import LEAST_NOISE, UNKNOWN_NOISE, BadRelease, Change, Ratio, Release
from bench.shapes import APART, SHAPES

KEPT = sorted(release.FOLDER.glob("*.json"))


def cells(shape: str, figure: str, **peers: list[float]) -> list[Cell]:
    return [Cell(shape, peer, {figure: value}) for peer, values in peers.items() for value in values]


def ratio(times: float, noise: float = LEAST_NOISE, to: str = "nats", figure: str = "rate") -> Ratio:
    return Ratio("one", figure, to, times, noise)


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_its_noise_their_range() -> None:
    (found,) = release.ratios(cells("one", "rate", tideline=[100, 300, 140], nats=[100, 200, 100]))
    assert found == Ratio("one", "rate", "nats", 1.4, round((1.5 - 1.0) / 1.4, 4))


def test_a_machine_that_slows_down_for_everybody_changes_no_ratio() -> None:
    (found,) = release.ratios(cells("one", "rate", tideline=[100, 50, 10], nats=[200, 100, 20]))
    assert (found.times, found.noise) == (0.5, LEAST_NOISE)


def test_less_is_better_of_milliseconds() -> None:
    (found,) = release.ratios(cells("latency", "ack_p50", tideline=[2.0, 2.0], disk=[1.0, 1.0]))
    assert (found.to, found.times) == ("disk", 0.5)


def test_one_round_has_a_noise_that_nobody_knows() -> None:
    (found,) = release.ratios(cells("one", "rate", tideline=[100], nats=[50]))
    assert (found.times, found.noise) == (2.0, UNKNOWN_NOISE)


def test_what_was_measured_once_is_beside_every_round() -> None:
    (found,) = release.ratios(cells("one", "rate", tideline=[100, 120, 110], generator=[200]))
    assert (found.to, found.times) == ("generator", 0.55)


def test_a_round_without_a_figure_has_no_ratio() -> None:
    lost = [Cell("one", "tideline", trouble="the broker died"), *cells("one", "rate", tideline=[120, 110])]
    (found,) = release.ratios([*lost, *cells("one", "rate", nats=[1, 60, 55])])
    assert found.times == 2.0


def test_other_builds_of_ours_are_no_reference() -> None:
    assert release.ratios(cells("one", "rate", tideline=[100.0], **{"tideline-pure": [50.0]})) == ()


@pytest.mark.parametrize(
    ("then", "now", "fell"),
    [
        (ratio(2.0, 0.10), ratio(1.79, 0.05), True),
        (ratio(2.0, 0.10), ratio(1.81, 0.05), False),
        (ratio(2.0, 0.05), ratio(1.79, 0.20), False),  # the run of now is as noisy as the fall
        (ratio(2.0, 0.05), ratio(3.0, 0.05), False),
    ],
)
def test_a_fall_is_more_than_what_the_noisier_run_moves(then: Ratio, now: Ratio, fell: bool) -> None:
    assert Change(then, now).fell is fell


def test_a_peer_that_got_faster_alone_is_no_fall_of_ours() -> None:
    then = [ratio(2.0, to=peer) for peer in ("nats", "mosquitto", "generator")]
    now = [ratio(1.0, to="nats"), ratio(2.0, to="mosquitto"), ratio(2.1, to="generator")]
    (against,) = release.changes(then, now).values()
    assert [change.fell for change in against] == [True, False, False]
    assert not release.fell(against)
    assert "Nothing fell" in release.table(last(then), now, "compiled core")


def test_a_second_run_adds_its_shapes_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "1.2.0.json"
    last([ratio(2.0), Ratio("many", "ack_p99", "nats", 3.0, 0.1)]).keep(path)
    again = replace(last([ratio(1.0)]), command="another command")
    again.keep(path)
    assert set(Release.read(path).ratios) == {ratio(1.0), Ratio("many", "ack_p99", "nats", 3.0, 0.1)}
    assert Release.read(path).command == "a command; another command"
    replace(again, build="pure Python").keep(path)
    assert Release.read(path).ratios == (ratio(1.0),)


def last(ratios: list[Ratio]) -> Release:
    return Release("1.2.0", "compiled core", "a machine", "a command", tuple(ratios))


def test_what_fell_is_named() -> None:
    then = [ratio(2.0), ratio(2.0, to="mosquitto"), ratio(1.0, figure="cpu_us"), ratio(9.0, to="gone")]
    now = [ratio(1.5), ratio(1.6, to="mosquitto"), ratio(1.0, figure="cpu_us")]
    said = release.table(last(then), now, "compiled core")
    assert "FELL 1 to 1, window 64: against 2 of 2" in said
    assert said.count("FELL") == 1
    assert "-25%" in said


def test_another_build_is_not_compared() -> None:
    assert "Not compared with 1.2.0" in release.table(last([ratio(2.0)]), [ratio(1.0)], "pure Python")


def test_what_has_nothing_in_common_says_so() -> None:
    assert "Not compared with 1.2.0" in release.table(last([ratio(2.0)]), [ratio(1.0, to="amqtt")], "compiled core")


_ratios = st.builds(
    Ratio,
    st.sampled_from([shape.name for shape in SHAPES]),
    st.sampled_from(["rate", "ack_p50"]),
    st.sampled_from(["nats", "disk"]),
    st.floats(min_value=0.001, max_value=1e6),
    st.floats(min_value=LEAST_NOISE, max_value=3),
)


@given(st.lists(_ratios, min_size=1, max_size=5))
def test_a_file_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, ratios: list[Ratio]) -> None:
    path = tmp_path_factory.mktemp("releases") / "1.2.0.json"
    last(ratios).write(path)
    assert Release.read(path) == last(ratios)


def test_the_newest_is_the_highest_version(tmp_path: Path) -> None:
    for version in ("0.9.0", "0.10.0", "0.2.0"):
        Release(version, "", "", "", (ratio(1.0),)).write(tmp_path / f"{version}.json")
    found = release.newest(tmp_path)
    assert found is not None
    assert found.version == "0.10.0"
    assert release.newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("text", ["{", "{}", '{"ratios": [{"shape": "one"}]}'])
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "1.0.0.json"
    path.write_text(text)
    with pytest.raises(BadRelease, match=r"1\.0\.0\.json"):
        release.newest(tmp_path)


def test_a_file_that_no_version_names_is_refused(tmp_path: Path) -> None:
    last([ratio(1.0)]).write(tmp_path / "last.json")
    with pytest.raises(BadRelease, match=r"last\.json"):
        release.newest(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--release", "next"], "'next' must be a version such as 1.2.0"),
        (["--release", "1.0.0", "--rounds", "2"], "3 rounds or more"),
        (["--release", "1.0.0", "--quick"], "not --quick"),
        (["--pages", "--quick"], "--quick"),
    ],
)
def test_figures_that_would_mislead_are_not_kept(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
def test_the_files_in_the_repository_can_be_compared(path: Path) -> None:
    kept = Release.read(path)
    assert kept.version == path.stem
    known = {(shape.name, row.figure) for shape in (*SHAPES, *APART) for row in shape.rows}
    assert kept.ratios
    assert {(one.shape, one.figure) for one in kept.ratios} <= known


def test_the_nearest_bound_is_the_one_of_which_least_is_left() -> None:
    stream = {"mb": 300.0, "disk_mb": 700.0, "thread": 0.6, "busy": 0.3}
    run = [Cell("payload-1m", "tideline", stream), Cell("payload-1m", "disk", {"mb": 1000.0})]
    run.append(Cell("payload-1m", "generator", {"mb": 900.0}))
    found = bounds.shares(run, "payload-1m", "tideline")
    assert found == pytest.approx({"disk": 0.7, "loopback": 1 / 3, "broker's core": 0.6, "generator's core": 0.3})
    assert bounds.nearest(found) == "disk, 70%"
    assert "disk, 70%" in bounds.table(run)
    assert bounds.table([]) == ""
