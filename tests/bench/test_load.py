"""The benchmark's generator counts what is there: a wrong count would make every figure worthless."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import process, wire
from bench.carriers import Unframed, framed
from bench.cli import main
from bench.drive import Options, measure
from bench.peers.ceiling import Ceiling
from bench.peers.disk import Disk
from bench.peers.tideline import Tideline
from bench.shapes import CARRIED, FAN_OUT, LATENCY, MANY, ONE, PAYLOADS, STORMS, Shape

_lengths = st.integers(min_value=0, max_value=300)
_frames = st.lists(st.tuples(st.sampled_from([0x32, 0x3A, 0x40, 0xD0]), _lengths), max_size=40)


def _frame(first: int, length: int) -> bytes:
    return bytes([first]) + wire.varint(length) + bytes(length)


def _one_by_one(run: wire.Run) -> list[tuple[int, int, int]]:
    first, at, _, stride, count = run
    return [(first, at + row * stride, stride) for row in range(count)]


@given(_frames, st.integers(min_value=0, max_value=5000))
def test_runs_are_the_frames_of_any_prefix(frames: list[tuple[int, int]], cut: int) -> None:
    encoded = [_frame(first, length) for first, length in frames]
    data = b"".join(encoded)
    end = min(cut, len(data))
    expected, at = [], 0
    for frame in encoded:
        if at + len(frame) > end:
            break
        expected.append((frame[0], at, len(frame)))
        at += len(frame)
    found, stopped = wire.runs(bytearray(data), end)
    assert [row for run in found for row in _one_by_one(run)] == expected
    assert stopped == at


@pytest.mark.parametrize("version", [wire.V311, wire.V5])
@pytest.mark.parametrize("size", [2, 128, 400])
def test_a_sheet_is_numbered_and_acknowledged_in_order(version: int, size: int) -> None:
    sheet = wire.Sheet("bench/topic", size, version)
    buffer = bytearray(sheet.frames(wire.CYCLE - 3, 7))
    (run,), end = wire.runs(buffer, len(buffer))
    assert (run[4], end) == (7, len(buffer))
    acks = wire.pubacks(buffer, run)
    identifiers = [int.from_bytes(acks[at + 2 : at + 4], "big") for at in range(0, len(acks), 4)]
    assert identifiers == [1022, 1023, 1024, 1, 2, 3, 4]
    assert wire.misordered(buffer, run, size, wire.CYCLE - 3) == (0, 4)


@given(st.integers(min_value=0, max_value=5000), st.integers(min_value=1, max_value=64))
def test_frames_are_the_same_whether_encoded_in_advance_or_not(start: int, count: int) -> None:
    ahead, later = (wire.Sheet("bench/topic", 20, wire.V5, ahead=ahead) for ahead in (True, False))
    later.frames(start + 5, 64)
    assert bytes(later.frames(start, count)) == bytes(ahead.frames(start, count))


@given(st.sampled_from((0, 1, 127, 128, 16_383, 16_384, 200_000)), st.integers(min_value=0, max_value=6))
def test_the_length_of_a_frame_is_known_from_its_header(length: int, given: int) -> None:
    data = bytearray(_frame(0x32, length))
    header = len(data) - length
    known = len(data) if given >= header else 0
    assert wire.frame_length(data, 0, min(given, len(data))) == known


def test_a_gap_and_a_repeat_are_seen() -> None:
    sheet = wire.Sheet("t", 8)
    buffer = bytearray(bytes(sheet.frames(0, 2)) + bytes(sheet.frames(3, 2)) + bytes(sheet.frames(4, 1)))
    (run,), _ = wire.runs(buffer, len(buffer))
    assert wire.misordered(buffer, run, 8, 0) == (2, 5)


@given(_frames, st.lists(st.integers(min_value=1, max_value=40), max_size=20))
def test_what_came_in_frames_is_the_same_however_they_are_split(frames: list[tuple[int, int]], sizes: list[int]) -> None:
    data = b"".join(_frame(first, length) for first, length in frames)
    assert b"".join(_payloads(framed(data))) == data
    from_broker = bytes([0x82, 3]) + b"abc" + bytes([0x82, 126, 1, 0]) + bytes(256) + bytes([0x82, 0, 0x82, 1]) + b"d"
    unframed, got, at = Unframed(), b"", 0
    for size in (*sizes, len(from_broker)):
        into = bytearray(size)
        filled = unframed.take(from_broker[at : at + size], memoryview(into))
        got, at = got + into[:filled], at + size
    assert got == b"abc" + bytes(256) + b"d"


def _payloads(data: bytes) -> Iterator[bytes]:
    """Of masked frames."""
    while data:
        head = {126: 4, 127: 10}.get(data[1] & 127, 2)
        length = data[1] & 127 if head == 2 else int.from_bytes(data[2:head])
        begins = head + 4
        yield data[begins : begins + length]
        data = data[begins + length :]


@pytest.fixture(scope="module")
def echo() -> Iterator[Ceiling]:
    peer = Ceiling()
    peer.start()
    yield peer
    peer.stop()


@pytest.mark.parametrize(
    ("shape", "version"),
    [*((shape, wire.V311) for shape in (ONE, FAN_OUT, LATENCY, MANY, *PAYLOADS)), (ONE, wire.V5), (FAN_OUT, wire.V5)],
    ids=lambda given: getattr(given, "name", None),
)
def test_everything_acknowledged_is_counted_as_delivered(echo: Ceiling, shape: Shape, version: int) -> None:
    cell = measure(shape, echo, Options(seconds=0.2, quick=True), version=version)
    assert cell.trouble == ""
    assert cell.figures["delivered"] == cell.figures["expected"] > 0


@pytest.mark.parametrize("shape", CARRIED, ids=lambda shape: shape.name)
def test_so_is_what_is_carried_by_tls_or_websocket(shape: Shape) -> None:
    peer = Tideline()
    peer.transport = shape.transport
    peer.start()
    try:
        cell = measure(replace(shape, quick={"connections": 50}), peer, Options(seconds=0.2, quick=True))
    finally:
        peer.stop()
    assert cell.trouble == ""
    assert cell.figures["delivered"] == cell.figures["expected"] > 0


@pytest.mark.parametrize("storm", STORMS, ids=lambda shape: shape.transport)
def test_a_storm_counts_whoever_is_let_in(storm: Shape) -> None:
    peer = Tideline()
    peer.suit(storm)
    peer.start()
    try:
        cell = measure(replace(storm, sizes={"connections": 50}), peer, Options(seconds=0.2))
    finally:
        peer.stop()
    assert cell.trouble == ""
    assert cell.figures["rate"] > 0
    assert cell.figures["core_rate"] > 0


def test_whoever_does_not_listen_as_asked_is_trouble() -> None:
    peer = Tideline()
    peer.start()
    try:
        cell = measure(replace(STORMS[2], sizes={"connections": 50}), peer, Options(seconds=0.2))
    finally:
        peer.stop()
    assert "closed by the broker" in cell.trouble


def test_a_broker_that_ended_has_used_nothing_since() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert (process.cpu_by_thread(ended.pid), process.written_bytes(ended.pid)) == ({}, 0)
    assert process.busiest_thread({"1 a": 2.0}, {}) == 0.0
    assert process.busiest_thread({"1 a": 2.0}, {"1 a": 2.5, "2 b": 0.75}) == 0.75


def test_the_bare_disk_has_the_figures_that_brokers_are_compared_by() -> None:
    disk = Disk()
    disk.start()
    try:
        assert disk.alive
        one, many = disk.write(LATENCY.sizes, 0.05), disk.write(PAYLOADS[0].sizes, 0.05)
    finally:
        disk.stop()
    assert not disk.alive
    assert 0 < one["ack_p50"] <= one["ack_p99"]
    assert many["mb"] == pytest.approx(many["rate"] * 128 / 1e6)


def test_a_python_that_cannot_be_run_is_refused_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--python", "/nowhere/python", "--only", "one"])
    assert "'/nowhere/python' is no program that can be run" in capsys.readouterr().err
