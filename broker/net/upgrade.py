"""The request that opens a WebSocket, and its answer (RFC 6455, section 4.2), by the library's hand: bytes in, bytes out.

Subprotocol ``mqtt`` (``mqttv3.1`` for old clients), one of which the client must offer [MQTT-6.0.0-3, -4]. No extension is
agreed on: compression, the only one in use, would cost each connection more memory than everything else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

SUBPROTOCOLS: Final = [Subprotocol("mqtt"), Subprotocol("mqttv3.1")]

_quiet = logging.getLogger(f"{__name__}.library")
_quiet.setLevel(logging.CRITICAL)  # what it would log, with a traceback, is in `handshake_exc`, which we log in a line


def answered(request: bytes, refusal: Callable[[Request], tuple[int, str] | None]) -> tuple[bytes, str]:
    """The answer to a whole request, and why that opens no WebSocket: empty where it does.

    ``refusal`` says for which HTTP status, and why, a request is refused that could be read; None lets it in.
    """
    protocol = ServerProtocol(subprotocols=SUBPROTOCOLS, logger=_quiet)
    protocol.receive_data(request)
    refused: tuple[int, str] | None = None
    for event in protocol.events_received():
        if isinstance(event, Request):
            refused = refusal(event)
            if refused is None:
                try:
                    response = protocol.accept(event)
                    if isinstance(protocol.handshake_exc, UnicodeEncodeError):  # it would answer 500
                        raise protocol.handshake_exc
                    protocol.send_response(response)
                except UnicodeEncodeError:  # of a key, or of an answer of websockets' that quotes the header
                    refused = 400, "a header is not UTF-8"
            if refused is not None:
                protocol.send_response(protocol.reject(refused[0], f"{refused[1]}\n"))
    answer = b"".join(protocol.data_to_send())
    if protocol.state is State.OPEN:
        return answer, ""
    why = refused[1] if refused is not None else _why(protocol.handshake_exc)
    return answer or protocol.reject(400, f"{why}\n").serialize(), why


def _why(error: BaseException | None) -> str:
    """In one line, with what is behind it."""
    return f"{error}: {error.__cause__}" if error is not None and error.__cause__ is not None else str(error)
