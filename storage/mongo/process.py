"""What names a process, so that a later one on the same machine can tell that it has ended.

A process id alone names nothing: it is given again, and each container counts its own. With the machine's boot, the namespaces
of process ids and of time, and the moment it was started it names one process. Only where all of them are known, and the first
three are ours, can anything be said: by Linux, that is, and not from another container.
"""

from __future__ import annotations

import os
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_START = 19
"""The place of the start time, in clock ticks since the boot, among the fields of /proc/<pid>/stat behind the name."""


def this_process() -> str:
    """This process's name; empty where the system does not tell."""
    place, started = _place(), _started(os.getpid())
    return f"{place} {os.getpid()} {started}" if place and started else ""


def has_ended(process: str) -> bool:
    """Whether the process that `this_process` named is provably dead. False where that cannot be told."""
    fields = process.split(" ")
    if len(fields) != 5 or not fields[3].isdecimal() or " ".join(fields[:3]) != _place():
        return False
    pid = int(fields[3])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is somebody else's
        pass
    started = _started(pid)
    return started != "" and started != fields[4]


def _place() -> str:
    try:
        return " ".join([_BOOT.read_text().strip(), *(os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "time"))])
    except OSError:
        return ""


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START]
    except (OSError, IndexError):
        return ""
