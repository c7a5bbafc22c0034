"""TLS around one connection: OpenSSL between two buffers in memory, over the plain socket's transport.

Why not the event loop's own: it decrypts as it likes, so that what a client sent last, and what came in one piece with its
end, was dropped when reading was paused (uvloop), or when the connection was not yet made (asyncio).

- What one read of the socket brings is decrypted and handed on at once, and nothing is kept: pausing pauses the socket, and
  the bytes wait in the kernel, as without TLS (laws 5 and 6).
- So the two buffers are empty between any two calls, and all connections of a listener share them (`Tls`). One of its own would
  keep the room of the largest read or write that a connection ever had.
- The end of the client's stream, by a close_notify or without one, comes behind its last bytes, and waits while reading is
  paused. MQTT packets say how long they are, so a stream that was cut short leaves a part of a packet that nobody looks at.
- What is written is encrypted at once; the socket's own buffer is the only one, and its high-water mark the one that counts.
- The handshake has a time limit. Why it failed is logged with the client's address. Until the first bytes there is no TLS.

Over 300 lines: one protocol of a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from broker.clock import NO_SLOT, Wheel
from broker.config import Certificate
from broker.net.client_certificates import NotAccepted
from broker.net.stream import Connection, Stream
from broker.packets import TLS, protocol_of

logger = logging.getLogger(__name__)

_RECORD: Final = 1 << 14  # bytes in a TLS record, at most


class Tls:
    """What the connections of one listener have in common. ``make`` makes what is inside of one once its handshake is done,
    within ``timeout`` seconds by ``clock``.

    ``accept`` looks at who the client is first, and raises `NotAccepted`.
    """

    __slots__ = ("accept", "certificate", "clock", "incoming", "make", "outgoing", "timeout")

    def __init__(
        self,
        certificate: Certificate,
        clock: Wheel,
        timeout: float,
        make: Callable[[Stream], Connection],
        accept: Callable[[Stream, ssl.SSLObject], None] | None = None,
    ) -> None:
        self.certificate = certificate
        self.clock = clock
        self.timeout = timeout
        self.make = make
        self.accept = accept
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    def begin(self) -> ssl.SSLObject:
        """TLS of one connection more, with the certificate that is the latest."""
        return self.certificate.latest.wrap_bio(self.incoming, self.outgoing, server_side=True)


class TlsProtocol:
    """One socket's protocol, and the transport of the connection inside."""

    __slots__ = (
        "_ended",
        "_served",
        "_shared",
        "_stream",
        "closing",
        "paused",
        "tls",
        "transport",
        "wheel_slot",
    )

    def __init__(self, stream: Stream, shared: Tls) -> None:
        self._stream = stream
        self._shared = shared
        self._served: Connection | None = None
        self._ended = False  # the client's stream has; what is inside may not know yet
        self.tls: ssl.SSLObject | None = None
        self.transport: asyncio.Transport
        self.closing = False
        self.paused = False
        self.wheel_slot: int = NO_SLOT

    # --- from the socket -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        clock = self._shared.clock
        clock.put(self, clock.now() + self._shared.timeout)

    def data_received(self, data: bytes) -> None:
        if self.closing or self._ended:
            return
        tls = self.tls
        if tls is None:
            if not data.startswith(TLS[: len(data)]):
                self._fail(f"{protocol_of(data)}, where TLS is expected")
                return
            tls = self.tls = self._shared.begin()
        self._shared.incoming.write(data)
        if self._served is None and not self._handshake(tls):
            return
        received, ended = self._decrypt(tls)
        if self._served is None and not self._begin(tls):
            return
        if received and self._served is not None:
            self._served.data_received(received)
        if ended and not self._end():
            self.close()

    def eof_received(self) -> bool | None:
        """The client sends no more. True keeps the socket open, for what is inside to hear of it in its turn."""
        if self._served is None:
            if self.tls is not None and not self.closing:  # a look whether the port is open is no failure
                self._stream.handshake_failed("it left in the middle of the TLS handshake")
            return False
        return self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.clock.forget(self)
        self.closing = True
        served, self._served = self._served, None
        if served is not None:
            served.connection_lost(exc)

    def write_failed(self, rest: asyncio.Transport) -> None:
        self.transport = rest
        if self.paused:
            rest.pause_reading()
        if self._served is not None:
            self._served.write_failed(cast(asyncio.Transport, self))

    def pause_writing(self) -> None:
        if self._served is not None:
            self._served.pause_writing()

    def resume_writing(self) -> None:
        if self._served is not None:
            self._served.resume_writing()

    # --- the handshake ---------------------------------------------------------------------------------------------

    def _handshake(self, tls: ssl.SSLObject) -> bool:
        """Whether it is done."""
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except (ssl.SSLError, ValueError) as error:
            self._flush()  # the alert that says why
            self._fail(reason(error))
            return False
        return True

    def _begin(self, tls: ssl.SSLObject) -> bool:
        """The handshake is done: make what is inside. What came behind it was read before, as the buffers are shared."""
        self._shared.clock.forget(self)
        if self._shared.accept is not None:
            try:
                self._shared.accept(self._stream, tls)
            except NotAccepted as error:
                self._fail(str(error))
                return False
        self._served = self._shared.make(self._stream)
        self._served.connection_made(cast(asyncio.Transport, self))
        return True

    def _fail(self, why: str) -> None:
        self._stream.handshake_failed(why)
        self._shared.incoming.read()
        self.closing = True
        self.transport.close()

    def fire(self) -> None:
        """The handshake has taken too long."""
        self._stream.handshake_failed("the TLS handshake was not completed in time")
        self.closing = True
        self.transport.abort()

    # --- the stream ------------------------------------------------------------------------------------------------

    def _decrypt(self, tls: ssl.SSLObject) -> tuple[bytes, bool]:
        """What came, as one piece however many records it has; and whether the stream's end came too."""
        incoming = self._shared.incoming
        pieces: list[bytes] = []
        ended = False
        try:
            size = incoming.pending
            while size:  # to ask for what is not there costs an exception
                asked = min(size, _RECORD)
                piece = tls.read(asked)
                if not piece:
                    ended = True
                    break
                pieces.append(piece)
                # A record whose beginning came earlier may be longer than what came of it now: then it was not read to its end.
                size = incoming.pending or (tls.pending() if len(piece) == asked else 0)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            logger.info("%s: TLS broke off: %s", self._stream.peer, reason(error))
            ended = True
        if ended:
            incoming.read()  # nothing behind the end counts, least of all in the next connection
        self._flush()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), ended

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
        if (outgoing := self._shared.outgoing).pending:
            data = outgoing.read()
            if not self.transport.is_closing():
                self.transport.write(data)

    # --- from what is inside ---------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; silently nothing once the stream is closing, as with any asyncio transport."""
        if not data or self.closing or self.tls is None:
            return
        try:
            self.tls.write(data)
        except ssl.SSLError as error:  # only after TLS broke
            logger.info("%s: TLS broke off: %s", self._stream.peer, reason(error))
            self._shared.outgoing.read()  # none is known to be there; it would be the next connection's
            self.transport.abort()
            return
        self._flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Send what was written, then a close_notify, and end the stream."""
        if self.closing:
            return
        self.closing = True
        if self.tls is not None:
            with contextlib.suppress(ssl.SSLError):  # it wants to read the client's, for which nobody waits
                self.tls.unwrap()
            self._flush()
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def is_closing(self) -> bool:
        return self.closing or self.transport.is_closing()

    def pause_reading(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.paused = False
        if not self._ended:
            self.transport.resume_reading()
        elif not self._end():
            self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.tls if name == "ssl_object" else self.transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self.transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.transport.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return False


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
