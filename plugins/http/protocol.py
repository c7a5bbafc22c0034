"""HTTP/1.1 as uvicorn speaks it, and a request target with UTF-8 in it, as people type one: ``curl '…/search?q=会议'``.

RFC 3986 wants such bytes percent-encoded, and h11 refuses the request where they are not, with an answer that says nothing.
Browsers encode them; curl and most scripts send what they were given. They are encoded here, before h11 sees them.
"""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Protocol(H11Protocol):
    """One connection. Only the request line is looked at; headers and bodies pass as they are."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._line_ended = False

    def data_received(self, data: bytes) -> None:
        if not self._line_ended and self.conn.their_state is h11.IDLE:
            line, newline, rest = data.partition(b"\n")
            self._line_ended = bool(newline)
            if not line.isascii():
                data = encoded(line) + newline + rest
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._line_ended = False


def encoded(line: bytes) -> bytes:
    """The line with every byte above ASCII percent-encoded."""
    return b"".join(b"%%%02X" % byte if byte > 0x7F else bytes((byte,)) for byte in line)
