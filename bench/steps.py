"""The steps of a message's way, as the frames of a stack show them, and what each costs of the processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from bench.stacks import Stack, Stacks
from bench.table import columns

_STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("wait for the interpreter's lock", ("take_gil", "drop_gil", "PyEval_RestoreThread", "PyEval_SaveThread")),
    ("fsync", ("fdatasync", "fsync", "do_fsync", "full_fsync")),
    ("log pages written", ("walWriteOneFrame", "sqlite3WalFrames", "unixWrite", "pwrite64", "__libc_pwrite", "__pwrite")),
    ("free space asked", ("FreeSpace.check", "os_statvfs", "os_stat")),
    ("SQLite: begin, commit", ("sqlite3BtreeCommitPhaseOne", "sqlite3PagerCommitPhaseOne", "vdbeCommit", "sqlite3VdbeHalt")),
    ("SQLite: rows into trees", ("sqlite3VdbeExec", "sqlite3Step", "sqlite3_step")),
    ("SQLite: values bound", ("bind_parameters", "bind_param", "stmt_step", "_pysqlite_query_execute")),
    ("SQLite: from its driver", ("batch.insert", "insert")),
    (
        "hand over between threads",
        ("threads.", "Worker.run", "Worker._run", "_tell", "call_soon_threadsafe", "lock_PyThread"),
    ),
    ("rows", ("writer.GroupWriter", "batch.Batch", "heads.Heads")),
    ("write to sockets", ("Connection._write", "Connection.write_frames", "uvloop.UVStream", "uv__write", "uv_try_write")),
    ("decode", ("decoder.Decoder",)),
    ("PUBACK of subscribers", ("handle_acks.", "window.Window.acknowledge", "Outbound.finished")),
    (
        "take in: limits, access, queue",
        ("handle_publish.received", "connection.Connection._handle", "connection.Connection.data_received"),
    ),
    ("route: number and match", ("PublishPath._match", "publish_path.PublishPath.number")),
    ("acknowledge", ("PublishPath._acknowledge",)),
    ("deliver", ("delivery.Delivery.deliver", "PublishPath._deliver", "Outbound.pump", "outbound.Outbound")),
    ("positions saved", ("Delivery._save", "Delivery.save")),
    ("read from sockets", ("uv__read", "uv__stream_io", "recv", "__libc_recv", "uvloop._uv_stream")),
    ("read from storage", ("queries.", "reading.")),
    (
        "the pipeline's task",
        ("Pipeline._run", "pipeline.Pipeline", "begun.Begun", "commits.Commits", "PublishPath.store", "task_step"),
    ),
)
"""The innermost frame that one of these begins, or is the end of, says what a sample was spent on."""

OTHER = "event loop, and the rest"


def step_of(stack: Stack) -> str:
    """What the broker was doing."""
    for frame in reversed(stack):
        for step, frames in _STEPS:
            if any(frame.startswith(known) or frame.endswith(known) for known in frames):
                return step
    return OTHER


def by_step(stacks: Stacks) -> dict[str, Counter[str]]:
    """Samples of each thread, by step."""
    found: dict[str, Counter[str]] = {}
    for thread, counted in stacks.items():
        steps = found.setdefault(thread, Counter())
        for stack, count in counted.items():
            steps[step_of(stack)] += count
    return found


def table(stacks: Stacks, used: Mapping[str, float]) -> str:
    """Microseconds for each delivery, where ``used`` is what each thread used in all."""
    found = by_step(stacks)
    threads = [thread for thread in ("event loop", "writer", "others") if thread in found]
    rows = [["step", *threads]]
    for step in (*(name for name, _ in _STEPS), OTHER):
        values = [found[thread][step] / max(1, found[thread].total()) * used.get(thread, 0.0) for thread in threads]
        if any(value >= 0.005 for value in values):
            rows.append([step, *(f"{value:.2f}" if value >= 0.005 else "" for value in values)])
    rows.append(["in all", *(f"{used.get(thread, 0.0):.2f}" for thread in threads)])
    return columns(rows)
