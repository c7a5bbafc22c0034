"""Looking at a broker's processes from outside: memory and processor time of the whole tree, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all its living descendants."""
    found, at = [pid], 0
    while at < len(found):
        for task in Path(f"/proc/{found[at]}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
        at += 1
    return found


def resident(pid: int) -> int:
    """Resident bytes of the tree."""
    total = 0
    for one in tree(pid):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            continue
    return total


def _times(stat: Path) -> tuple[str, float]:
    """Name and processor seconds (user and system) in a stat file."""
    head, _, tail = stat.read_text().rpartition(")")
    fields = tail.split()
    return head.partition("(")[2], (int(fields[11]) + int(fields[12])) / _TICK


def cpu_seconds(pid: int) -> float:
    """Processor seconds that the tree used so far."""
    total = 0.0
    for one in tree(pid):
        try:
            total += _times(Path(f"/proc/{one}/stat"))[1]
        except OSError:
            continue
    return total


def cpu_by_thread(pid: int) -> dict[str, float]:
    """Processor seconds of every thread of one process, by ``number name``; of none where it has ended."""
    seconds = {}
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            name, used = _times(stat)
        except OSError:
            continue
        seconds[f"{stat.parent.name} {name}"] = used
    return seconds


def written_bytes(pid: int) -> int:
    """Bytes that the tree gave the kernel to write to a disk so far."""
    total = 0
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/io").read_text().splitlines()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))
    return total


def busiest_thread(before: dict[str, float], after: dict[str, float]) -> float:
    """Processor seconds of the thread that used most between two looks by `cpu_by_thread`."""
    return max((seconds - before.get(name, 0.0) for name, seconds in after.items()), default=0.0)


def machine_cpu_seconds() -> float:
    """Processor seconds that everything on the machine used so far."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _waiting, irq, softirq, steal = (int(field) for field in fields[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK


def own_cpu_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
