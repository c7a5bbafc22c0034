"""Unix sockets: programs on this machine connect by a file, whose mode says who may.

- The file never has more than its mode allows, also not for a moment.
- A file that a broker left behind is removed only where nobody listens on it, and nothing that is no socket is removed.
- Who connects is known by its process id: ``unix:4711`` where others have an address and a port.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path

PREFIX = "unix:"
_BACKLOG = 1024


class Taken(OSError):
    """There is something at the path already."""


def listening(path: Path, mode: int) -> socket.socket:
    """A socket that listens at a path. Raises OSError, `Taken` where something else is there."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_room(path)
        os.fchmod(one.fileno(), mode)  # what the file is made with, less the umask
        one.bind(str(path))
        path.chmod(mode)
        one.listen(_BACKLOG)
    except BaseException:
        one.close()
        raise
    return one


def unix_path(one: socket.socket) -> Path | None:
    """Where the file of a Unix socket is; None for any other."""
    return Path(one.getsockname()) if one.family == socket.AF_UNIX else None


def remove(path: Path) -> None:
    """Take the file of a closed socket away; not that of another program, which listens at its path now."""
    with contextlib.suppress(OSError):
        if not _somebody_listens(path):
            path.unlink()


def peer_of(client: socket.socket) -> str:
    """``unix:<process id>`` of who connected; 0 where the system does not say."""
    pid = 0
    with contextlib.suppress(AttributeError, OSError):  # no Linux
        pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return f"{PREFIX}{pid}"


def _make_room(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Taken("there is a file, and it is no socket; remove it, or choose another path in bind")
    if _somebody_listens(path):
        raise Taken("another program listens there; stop it, or choose another path in bind")
    path.unlink()


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ask:
        ask.setblocking(False)
        try:
            ask.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True
