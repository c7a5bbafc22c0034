"""HTTP/1.1 as uvicorn speaks it, and a request target with UTF-8 in it, as people type one: ``curl '…/search?q=会议'``.

RFC 3986 wants such bytes percent-encoded, and h11 refuses the request where they are not, with an answer that says nothing.
Browsers encode them; curl and most scripts send what they were given. They are encoded here, before h11 sees them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from broker.packets import protocol_of

_UVICORNS = "Invalid HTTP request received."
_FIRST = 16


class Protocol(H11Protocol):
    """One connection. Only the request line is looked at; headers and bodies pass as they are.

    ``refused`` is told of whoever speaks no HTTP: its address, and what it speaks.
    """

    def __init__(self, refused: Callable[[str, str], None], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._refused = refused
        self._line_ended = False
        self._first = b""

    def data_received(self, data: bytes) -> None:
        if len(self._first) < _FIRST:
            self._first = (self._first + data)[:_FIRST]
        if not self._line_ended and self.conn.their_state is h11.IDLE:
            line, newline, rest = data.partition(b"\n")
            self._line_ended = bool(newline)
            if not line.isascii():
                data = encoded(line) + newline + rest
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._line_ended = False

    def send_400_response(self, msg: str) -> None:
        what = protocol_of(self._first)
        http = what == "plain HTTP" or self._first[:1].isalpha()  # any word may be a method
        expected = "HTTPS" if self.scheme == "https" else "plain HTTP"
        host, port = self.client or ("", 0)
        self._refused(f"{host}:{port}", "a request that is not valid HTTP" if http else f"{what}, where {expected} is expected")
        super().send_400_response(msg)


def ours_instead(record: logging.LogRecord) -> bool:
    """A filter for uvicorn's log: its line about a request that is none names nobody, and `Protocol` tells of it."""
    return record.msg != _UVICORNS


def encoded(line: bytes) -> bytes:
    """The line with every byte above ASCII percent-encoded."""
    return b"".join(b"%%%02X" % byte if byte > 0x7F else bytes((byte,)) for byte in line)
