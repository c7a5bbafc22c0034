"""Stacks that a profiler took of a running broker, from the outermost frame to the innermost, by thread.

`perf` sees the compiled core, SQLite and the kernel, and takes its samples without stopping the broker; of pure Python it sees
the interpreter alone, so that is py-spy's.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

Stack = tuple[str, ...]
Stacks = dict[str, Counter[Stack]]
"""By thread: "event loop", "writer", or another one's name."""

HERTZ = 499
_NOTED = 8192
"""Bytes: perf's header alone is shorter."""
_PERF = "perf is not installed (Debian: apt-get install linux-perf): it takes the samples of the compiled core"
_PY_SPY = "py-spy is not installed (pip install py-spy): it takes the samples of pure Python"

_OF_MYPYC = re.compile(r"^CPy(?:Def|Py|Gen)_(.+)$")
_OF_CYTHON = re.compile(r"^__pyx_\w+?_6uvloop_4loop_(.+)$")
_PLUMBING = re.compile(
    r"^(_?Py(Eval|Object|Vectorcall|Function|CFunction|Method|Gen|Iter|Arg|Err|Number|Sequence|Member|Frame)\w*|cfunction_\w+"
    r"|method_\w+|do_call_core|gen_send_ex2?|type_call|slot_\w+|wrap_\w+|func_\w+|__Pyx_\w+|call_\w+|object_\w+|vectorcall_\w+"
    r"|do_syscall_64|entry_SYSCALL\w*|x64_sys_call|__x64_sys_\w+|__do_sys_\w+|__se_sys_\w+|ksys_\w+|\[unknown\]|0x[0-9a-f]+)$"
)


class NoProfiler(Exception):
    """What would take the samples is not installed; the text says how it is got."""


def taken(pid: int, compiled: bool, work: Callable[[], None]) -> Stacks:
    """Samples of the process while ``work`` is done."""
    return _by_perf(pid, work) if compiled else _by_py_spy(pid, work)


def _by_perf(pid: int, work: Callable[[], None]) -> Stacks:
    perf = shutil.which("perf")
    if perf is None:
        raise NoProfiler(_PERF)
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        asked = ["record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "--call-graph", "dwarf,16384", "-p", str(pid)]
        _beside([perf, *asked, "-o", str(data)], data, work)
        told = subprocess.run(
            [perf, "script", "-i", str(data), "-F", "tid,ip,sym"], capture_output=True, text=True, check=True
        ).stdout
    stacks: Stacks = {}
    for block in told.split("\n\n"):
        first, *lines = block.strip().splitlines() or [""]
        frames = [line.strip().partition(" ")[2] for line in lines]
        if frames:
            stack = tuple(short for frame in reversed(frames) if (short := native_name(frame)))
            stacks.setdefault(first.strip(), Counter())[stack] += 1
    return _named(stacks, pid)


def _by_py_spy(pid: int, work: Callable[[], None]) -> Stacks:
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if spy is None:
        raise NoProfiler(_PY_SPY)
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "stacks"
        asked = ["record", "-p", str(pid), "-d", "3600", "-r", str(HERTZ), "-t", "-F", "-f", "raw", "--nonblocking"]
        _beside([spy, *asked, "-o", str(output)], output, work)
        told = output.read_text()
    stacks: Stacks = {}
    for line in told.splitlines():
        path, _, count = line.rpartition(" ")
        thread, *frames = path.split(";")
        number = re.search(r"\d+", thread)
        stack = tuple(python_name(frame) for frame in frames)
        stacks.setdefault(number.group() if number else thread, Counter())[stack] += int(count)
    return _named(stacks, pid)


def _beside(command: list[str], output: Path, work: Callable[[], None]) -> None:
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _until_attached(output)
        work()
    finally:
        recorder.send_signal(signal.SIGINT)
        _, said = recorder.communicate(timeout=120)
    if not output.exists():
        raise NoProfiler(f"{command[0]} recorded nothing: {said.strip()}")


def _until_attached(output: Path) -> None:
    """perf notes what the process has mapped as it begins; py-spy says nothing."""
    latest = time.monotonic() + 3.0
    while time.monotonic() < latest:
        time.sleep(0.2)
        if output.exists() and output.stat().st_size > _NOTED:
            time.sleep(0.2)
            return


def native_name(frame: str) -> str:
    """A symbol as the sources call it; nothing for one that says nothing."""
    name = frame.removesuffix(" (inlined)").partition("+0x")[0].partition(" (")[0]
    if "(inlined)" in frame or _PLUMBING.match(name):
        return ""
    if found := _OF_MYPYC.match(name):
        return found.group(1).replace("___", ".")
    if found := _OF_CYTHON.match(name):
        return "uvloop." + re.sub(r"^\d+", "", found.group(1))
    return name


def python_name(frame: str) -> str:
    """``Machine.step (broker/delivery/machine.py:244)`` as ``machine.Machine.step``."""
    name, _, place = frame.partition(" (")
    return f"{Path(place.partition(':')[0]).stem}.{name}" if place else name


def _named(stacks: Stacks, pid: int) -> Stacks:
    """By what a thread does: the first is the loop's, and the writer's is the one that commits."""
    named: Stacks = {}
    for thread, counted in stacks.items():
        commits = any("GroupWriter.commit" in frame for stack in counted for frame in stack)
        name = "event loop" if thread == str(pid) else "writer" if commits else "others"
        named.setdefault(name, Counter()).update(counted)
    return named
