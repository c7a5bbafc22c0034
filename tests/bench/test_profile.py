"""What a profile makes of a profiler's stacks: names as the sources have them, a step for each, and a flame graph."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

import pytest

from bench.flame import svg
from bench.stacks import Stacks, native_name, python_name
from bench.steps import OTHER, step_of, table

LOOP = ("uv_run", "uv__io_poll", "uv__read", "connection.Connection.data_received")


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("CPyDef_machine___Machine___give", "machine.Machine.give"),
        ("CPyDef_decoder___Decoder____decode", "decoder.Decoder._decode"),
        ("CPyPy_window___Window_____init__", "window.Window.__init__"),
        ("__pyx_f_6uvloop_4loop_4Loop__on_idle", "uvloop.Loop__on_idle"),
        ("sqlite3VdbeExec+0x1f", "sqlite3VdbeExec"),
        ("_PyEval_EvalFrameDefault", ""),
        ("bind_param (inlined)", ""),
    ],
)
def test_a_symbol_is_named_as_in_the_sources(symbol: str, name: str) -> None:
    assert native_name(symbol) == name


def test_a_frame_of_python_has_its_module_and_no_line() -> None:
    assert python_name("Machine.step (broker/delivery/machine.py:244)") == "machine.Machine.step"


@pytest.mark.parametrize(
    ("stack", "step"),
    [
        ((*LOOP, "decoder.Decoder.feed", "decoder.Decoder._decode"), "decode"),
        ((*LOOP, "handle_acks.puback", "window.Window.acknowledge"), "PUBACK of subscribers"),
        (
            ("thread_run", "writer.GroupWriter.commit", "sqlite3_step", "sqlite3WalFrames", "__libc_pwrite64"),
            "log pages written",
        ),
        (("thread_run", "writer.GroupWriter.commit", "sqlite3_step", "fdatasync"), "fsync"),
        (("thread_run", "writer.GroupWriter.commit", "writer.GroupWriter._store"), "rows"),
        (("uv_run", "epoll_pwait"), OTHER),
    ],
)
def test_a_stack_is_of_the_innermost_step(stack: tuple[str, ...], step: str) -> None:
    assert step_of(stack) == step


def test_the_table_divides_what_a_thread_used() -> None:
    stacks: Stacks = {"event loop": Counter({(*LOOP, "decoder.Decoder.feed"): 1, LOOP: 3})}
    lines = [line.split() for line in table(stacks, {"event loop": 8.0}).splitlines()]
    assert ["decode", "2.00"] in lines
    assert ["in", "all", "8.00"] in lines


def test_a_flame_graph_is_an_image_that_names_what_is_wide() -> None:
    stacks: Stacks = {
        "event loop": Counter({LOOP: 999, ("uv_run", "rare"): 1}),
        "writer": Counter({("thread_run", "<lambda>"): 1000}),
    }
    names = [
        title.text or "" for title in ElementTree.fromstring(svg(stacks, "a & b")).iter("{http://www.w3.org/2000/svg}title")
    ]
    assert "connection.Connection.data_received 50.0%" in names
    assert "<lambda> 50.0%" in names
    assert not any(name.startswith("rare") for name in names)
