"""Where the API listens: a port, or the file of a Unix socket."""

from __future__ import annotations

import socket
from pathlib import Path

from broker.config import socket_path, split_bind
from broker.errors import StartError
from broker.net import Taken, advice, listening, remove


def opened(bind: str, mode: str, *, reuse_port: bool = False) -> socket.socket:
    """A socket that listens there; ``mode`` is of a Unix socket's file, in octal. Raises `StartError`."""
    path = socket_path(bind)
    try:
        if path is not None:
            sock = listening(path, int(mode, 8))
        else:
            host, port = split_bind(bind)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.create_server((host, port), family=family, backlog=1024, reuse_port=reuse_port)
    except OSError as error:
        raise StartError(f"plugins.http: cannot listen on {bind}: {_why(error)}") from error
    sock.setblocking(False)
    return sock


def _why(error: OSError) -> str:
    return str(error) if isinstance(error, Taken) else advice(error)


def path_of(sock: socket.socket) -> str:
    """The file of an open Unix socket; empty for any other."""
    return str(sock.getsockname()) if sock.family == socket.AF_UNIX else ""


def closed(sock: socket.socket, path: str) -> None:
    """Listen no more, and leave no file at ``path``."""
    sock.close()
    if path:
        remove(Path(path))


def reached_by(sock: socket.socket) -> str:
    """``host:port`` by which a program on this machine finds it; over a Unix socket any name does."""
    if sock.family == socket.AF_UNIX:
        return "localhost"
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
