"""TLS around one connection: OpenSSL between two buffers in memory, over the plain socket's transport.

Why not the event loop's own: it decrypts as it likes, so that what a client sent last, and what came in one piece with its
end, was dropped when reading was paused (uvloop), or when the connection was not yet made (asyncio).

- What one read of the socket brings is decrypted and handed on at once, and nothing is kept: pausing pauses the socket, and
  the bytes wait in the kernel, as without TLS (laws 5 and 6).
- The end of the client's stream, by a close_notify or without one, comes behind its last bytes, and waits while reading is
  paused. MQTT packets say how long they are, so a stream that was cut short leaves a part of a packet that nobody looks at.
- What is written is encrypted at once; the socket's own buffer is the only one, and its high-water mark the one that counts.
- The handshake has a time limit. Why it failed is logged with the client's address.

Over 300 lines: one protocol of a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from broker.net.client_certificates import NotAccepted
from broker.net.stream import Connection, Stream
from broker.packets import TLS, protocol_of

logger = logging.getLogger(__name__)

_RECORD = 1 << 14  # bytes in a TLS record, at most


class TlsTransport(asyncio.Transport):
    """What the connection inside writes to."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: TlsProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._protocol.write(b"".join(list_of_data))

    def close(self) -> None:
        """Send what was written, then a close_notify, and end the stream."""
        self._protocol.close()

    def abort(self) -> None:
        self._protocol.transport.abort()

    def is_closing(self) -> bool:
        return self._protocol.closing or self._protocol.transport.is_closing()

    def pause_reading(self) -> None:
        self._protocol.pause_reading()

    def resume_reading(self) -> None:
        self._protocol.resume_reading()

    def is_reading(self) -> bool:
        return not self._protocol.paused

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._protocol.tls if name == "ssl_object" else self._protocol.transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._protocol.transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._protocol.transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._protocol.transport.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return False


class TlsProtocol:
    """One socket. ``make`` makes what is inside once the handshake is done, within ``timeout`` seconds.

    ``accept`` looks at who the client is first, and raises `NotAccepted`.
    """

    __slots__ = (
        "_accept",
        "_ended",
        "_heard",
        "_incoming",
        "_make",
        "_outgoing",
        "_served",
        "_stream",
        "_timer",
        "closing",
        "paused",
        "tls",
        "transport",
    )

    def __init__(
        self,
        stream: Stream,
        context: ssl.SSLContext,
        timeout: float,
        make: Callable[[Stream], Connection],
        accept: Callable[[Stream, ssl.SSLObject], None] | None = None,
    ) -> None:
        self._stream = stream
        self._make = make
        self._accept = accept
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._served: Connection | None = None
        self._heard = False
        self._ended = False  # the client's stream has; what is inside may not know yet
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(timeout, self._expired)
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.transport: asyncio.Transport
        self.closing = False
        self.paused = False

    # --- from the socket -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.closing or self._ended:
            return
        if not self._heard:
            self._heard = True
            if not data.startswith(TLS[: len(data)]):
                self._fail(f"{protocol_of(data)}, where TLS is expected")
                return
        self._incoming.write(data)
        if self._served is None and not self._handshake():
            return
        self._decrypt()

    def eof_received(self) -> bool | None:
        """The client sends no more. True keeps the socket open, for what is inside to hear of it in its turn."""
        if self._served is None:
            if self._heard and not self.closing:  # a look whether the port is open is no failure
                self._stream.handshake_failed("it left in the middle of the TLS handshake")
            return False
        return self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.closing = True
        served, self._served = self._served, None
        if served is not None:
            served.connection_lost(exc)

    def write_failed(self, rest: asyncio.Transport) -> None:
        self.transport = rest
        if self.paused:
            rest.pause_reading()
        if self._served is not None:
            self._served.write_failed(TlsTransport(self))

    def pause_writing(self) -> None:
        if self._served is not None:
            self._served.pause_writing()

    def resume_writing(self) -> None:
        if self._served is not None:
            self._served.resume_writing()

    # --- the handshake ---------------------------------------------------------------------------------------------

    def _handshake(self) -> bool:
        """Whether it is done."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except (ssl.SSLError, ValueError) as error:
            self._flush()  # the alert that says why
            self._fail(reason(error))
            return False
        self._flush()
        self._stop_timer()
        if self._accept is not None:
            try:
                self._accept(self._stream, self.tls)
            except NotAccepted as error:
                self._fail(str(error))
                return False
        self._served = self._make(self._stream)
        self._served.connection_made(TlsTransport(self))
        return True

    def _fail(self, why: str) -> None:
        self._stream.handshake_failed(why)
        self.closing = True
        self.transport.close()

    def _expired(self) -> None:
        self._timer = None
        self._stream.handshake_failed("the TLS handshake was not completed in time")
        self.closing = True
        self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- the stream ------------------------------------------------------------------------------------------------

    def _decrypt(self) -> None:
        """Hand on what came, as one piece however many records it has; then the end, if it came too."""
        pieces: list[bytes] = []
        ended = False
        try:
            while self._incoming.pending or self.tls.pending():  # to ask for what is not there costs an exception
                piece = self.tls.read(_RECORD)
                if not piece:
                    ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            logger.info("%s: TLS broke off: %s", self._stream.peer, reason(error))
            ended = True
        self._flush()
        if pieces and self._served is not None:
            self._served.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if ended and not self._end():
            self.close()

    def _end(self) -> bool:
        """The client's stream is at its end: tell what is inside. True where that has to wait, for reading is paused."""
        self._ended = True
        if self.closing:
            return False
        if self.paused:
            return True
        if self._served is not None:
            self._served.eof_received()
        return False

    def _flush(self) -> None:
        if self._outgoing.pending and not self.transport.is_closing():
            self.transport.write(self._outgoing.read())

    # --- from what is inside ---------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; silently nothing once the stream is closing, as with any asyncio transport."""
        if not data or self.closing:
            return
        try:
            self.tls.write(data)
        except ssl.SSLError as error:  # only after TLS broke
            logger.info("%s: TLS broke off: %s", self._stream.peer, reason(error))
            self.transport.abort()
            return
        self._flush()

    def pause_reading(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.paused = False
        if not self._ended:
            self.transport.resume_reading()
        elif not self._end():
            self.close()

    def close(self) -> None:
        """Send a close_notify, and end the stream."""
        if self.closing:
            return
        self.closing = True
        with contextlib.suppress(ssl.SSLError):  # it wants to read the client's, for which nobody waits
            self.tls.unwrap()
        self._flush()
        self.transport.close()


# --- what went wrong, in words -----------------------------------------------------------------------------------------

_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client showed no certificate, and this listener requires one",
    "NO_SHARED_CIPHER": "the client and we have no cipher in common",
    "UNSUPPORTED_PROTOCOL": "the client's version of TLS is too old (1.2 and newer are taken)",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the client takes no version of TLS that we speak",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not trust our certificate: it does not know who signed it",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not accept our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client does not accept our certificate",
    "TLSV1_ALERT_DECRYPT_ERROR": "the client does not accept our certificate: a signature does not verify",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client finds that our certificate has expired",
}


def reason(error: Exception) -> str:
    """Why TLS failed, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted: {error.verify_message}"
    code = getattr(error, "reason", None) or str(error)
    return _REASONS.get(code) or "TLS failed: " + code.lower().replace("_", " ")
