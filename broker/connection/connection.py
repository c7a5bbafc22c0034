"""One connection: bytes in, packets to their handlers, frames out, and the flow control of both directions.

- A violation closes the connection at once, with a logged reason; nothing behind it is processed [MQTT-4.8.0-1].
- The first packet is CONNECT, within a time limit [MQTT-3.1.0-1]; a second one is a violation (the decoder says so).
- Between CONNECT and CONNACK only AUTH and DISCONNECT may come, and only where the client authenticates by AUTH.
- While an answer is awaited (authentication, an ACL plugin, the commit of a CONNECT) packets wait in order.
- Where several publish, what one read of the socket brings of a client is processed in parts, others in between (`PART`).
- The socket is not read either while the pipeline is full or the client has too much unacknowledged; such a client is
  not timed out for a PINGREQ that cannot be heard (law 6). Nor is it read while the client takes no answers (law 5).

Over 300 lines: the callbacks of a socket share one state, and the hot path pays for each hop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from broker.clock import NO_SLOT, Moment, Timer
from broker.connection import handle_acks, handle_auth, handle_connect, handle_disconnect, handle_publish, handle_subscribe
from broker.packets import (
    EMPTY,
    PINGRESP,
    Auth,
    ConnAck,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    PacketTooLarge,
    PingReq,
    Properties,
    Property,
    ProtocolViolation,
    PubAck,
    PubAcks,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
    Subscribe,
    Unsubscribe,
    UnsupportedVersion,
    encode,
    protocol_of,
)
from broker.sessions import Link

if TYPE_CHECKING:
    from broker.connection.node import Node
    from broker.limits import Budget, Place

log = logging.getLogger(__name__)

# Why the socket is not read.
STALLED: Final = 1
PIPELINE_FULL: Final = 2
TOO_MUCH_PENDING: Final = 4
ANSWERS_UNREAD: Final = 8
TOO_FAST: Final = 16
GOING_ON: Final = 32
PUT_ASIDE: Final = 64

PART: Final = 16384
"""Bytes of one client that are processed before others have their turn, where several publish: some hundred small messages. The
event loop reads up to 256 KB at once, which keep it busy for milliseconds; a TLS record has no more than this. (memcached, with
its ``-R``, and EMQX, with ``active_n``, take so many requests of a connection before it is another one's turn.) A packet
that is larger is one part: to begin it and go on later would copy it."""

LARGE: Final = 32768
"""Bytes of a payload whose copy into one frame costs more than to write head and payload as they are."""

PROGRESS: Final = 4096
"""Bytes of one packet that count as being heard, as the packet itself will."""

_LARGER = "; raise mqtt.max_packet_size to accept it"
CLOSE_GRACE = 2.0
"""Seconds that a closed connection has to take what was written to it."""

REASON_LENGTH = 512
"""Characters of a reason string. It may quote a topic, which alone may fill the field, and escaped pass it."""

_NEW: Final = 0
_CONNECTING: Final = 1
_LET_IN: Final = 2
_OPEN: Final = 3
_CLOSED: Final = 4
_NEVER: Final = Moment(0.0)


class Connection(Link):
    """The protocol object behind one socket. Made by a listener, driven by asyncio's protocol callbacks."""

    __slots__ = (
        "_backlog",
        "_partial",
        "_paused",
        "_put_aside",
        "_put_aside_at",
        "_reads_on",
        "_stage",
        "_task",
        "_transport",
        "aliases",
        "budget",
        "certified",
        "client_id",
        "decoder",
        "enhanced",
        "expiry",
        "keep_alive",
        "last_received",
        "listener",
        "peer",
        "place",
        "resumed",
        "server",
        "since",
        "unstored",
        "wheel_slot",
    )

    def __init__(self, server: Node, listener: str, peer: str = "", certified: str = "") -> None:
        super().__init__()
        self.server = server
        self.listener = listener
        self.decoder = Decoder(max_packet_size=server.settings.mqtt.max_packet_size)
        self.client_id = ""
        self.peer = peer
        """The client's address, ``host:port``. Not asked of the transport, which would keep 300 bytes for the answer."""
        self.certified = certified
        """The user that the client's certificate names; empty where none does."""
        self.resumed = False
        """The session was there before this connection."""
        self.keep_alive = 0
        self.last_received = _NEVER
        self.since = 0
        """When CONNACK was sent, in ms of the wall clock."""
        self.unstored = 0
        """Messages of the client that are in the pipeline: what ``connection_pending`` bounds."""
        self.aliases: dict[int, str] | None = None
        self.enhanced: handle_auth.Enhanced | None = None
        self.place: Place | None = None
        """What the connection counts as; None where nothing is counted."""
        self.budget: Budget | None = None
        """What the client may publish; None where that is not limited."""
        self.expiry: Timer | None = None
        self._transport: Any = None
        self._backlog: deque[Packet] | None = None
        self._partial = 0  # bytes since a packet was whole, or since as many as PROGRESS
        self._paused = 0
        self._put_aside = b""  # read, and looked at up to `_put_aside_at`; not empty only while the bit in `_paused` is set
        self._put_aside_at = 0
        self._reads_on = False
        self._stage = _NEW
        self._task: asyncio.Task[None] | None = None
        self.wheel_slot: int = NO_SLOT

    # --- asyncio's callbacks -------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """The socket is open. The client has ``connect_timeout`` seconds to send its CONNECT."""
        self._transport = transport
        self.writable = True
        transport.set_write_buffer_limits(high=self.server.settings.limits.write_high_water)
        self.server.connections.add(self)
        clock = self.server.clock
        self.last_received = clock.latest
        clock.put(self, clock.now() + self.server.settings.mqtt.connect_timeout)
        if self.server.gate.counts_addresses:
            self.place = self.server.gate.place(self.peer)
            if self.place is None:
                self.close("too many connections from this address", logging.DEBUG)
        if self.server.stopping.is_set():  # accepted before, as by TLS: the end of what it begins here would not be stored
            self.close("the server is shutting down", logging.DEBUG)

    def data_received(self, data: bytes) -> None:
        """Bytes came: process the packets that they complete."""
        if self._stage == _CLOSED:
            return
        self.server.counters.bytes_received += len(data)
        if self._paused & PUT_ASIDE:
            self._put_aside = self._put_aside[self._put_aside_at :] + data
            self._put_aside_at = 0
        elif len(data) >= PART and self.server.pipeline.crowd.several:
            self._put_aside = data
            self._pause(PUT_ASIDE)
            self._read_on()
        else:
            self._take(data, 0, len(data))

    def _take(self, data: bytes, start: int, enough: int) -> None:
        counters = self.server.counters
        packets = self.decoder.feed(data, start, enough)
        reached = self.decoder.reached
        if self._put_aside:
            self._put_aside_at = reached
        self._partial += reached - start
        if packets or self._partial >= PROGRESS:
            self.last_received = self.server.clock.latest
            self._partial = 0
        if packets:
            counters.messages_received += len(packets)
            if self.server.tracer is not None:
                self.server.tracer.received(self, packets)
            if self.budget is not None and not self._afford(self.budget, packets):
                return
            if self._backlog is not None:
                self._backlog.extend(packets)
                self._pause(STALLED)
                return
            self._process(packets)
        if self.decoder.error is not None and self._backlog is None:
            if self._stage == _NEW:
                self._stranger(self.decoder.error, data[start:])
            else:
                self._violated(self.decoder.error)

    def eof_received(self) -> bool:
        """The client closed its half; there is nothing more to say to it."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is gone."""
        self.server.connections.discard(self)
        self.writable = False
        self.server.clock.forget(self)
        self._end("connection lost" if exc is None else f"connection lost: {exc}")

    def broken(self, why: str, *, too_large: bool) -> None:
        """The client broke the rules of what carries MQTT, and was told there. Nothing more is exchanged."""
        self.server.counters.protocol_errors += 1
        if too_large:
            self.server.counters.limit_packet_size += 1
        self.close(why + _LARGER if too_large else why)

    def write_failed(self, rest: Any) -> None:
        """The client takes nothing more. What it had sent, perhaps a DISCONNECT, still counts: it is read from ``rest``."""
        self._transport = rest
        self.writable = False
        if self._paused & ~ANSWERS_UNREAD:
            rest.pause_reading()
        self._resume(ANSWERS_UNREAD)

    def pause_writing(self) -> None:
        """The socket's buffer is above its high-water mark: write nothing."""
        self.writable = False

    def resume_writing(self) -> None:
        """The socket has drained."""
        self.writable = True
        self._resume(ANSWERS_UNREAD)
        if self.outbound is not None:
            self.outbound.pump()

    # --- parts of what was read ----------------------------------------------------------------------------------------

    def _read_soon(self) -> None:
        if not self._reads_on:
            self._reads_on = True
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        """Process the next part of what was put aside, or else read on. Where there is another reason to wait: when that has
        passed."""
        self._reads_on = False
        if self._stage == _CLOSED or self._paused != PUT_ASIDE:
            return
        data, start = self._put_aside, self._put_aside_at
        if start == len(data):
            self._put_aside, self._put_aside_at = b"", 0
            self._resume(PUT_ASIDE)
            return
        self._take(data, start, PART)
        if self._paused == PUT_ASIDE:
            self._read_soon()

    # --- packets in ----------------------------------------------------------------------------------------------------

    def _process(self, packets: list[Packet]) -> None:
        try:
            self._handle(packets)
        except Exception:  # our bug: it costs this client its connection, and must not leave it half alive
            log.exception("internal error for %s", self.name, extra=self.about)
            self.disconnect(ReasonCode.UNSPECIFIED_ERROR, "internal error")

    def _handle(self, packets: list[Packet]) -> None:
        acknowledged = False
        server, share = self.server, self._share
        if self._stage == _CONNECTING and packets and type(packets[0]) not in (Auth, Disconnect):  # [MQTT-3.1.2-30]
            self.refuse(ReasonCode.PROTOCOL_ERROR, f"{packets[0].type.name} before the authentication is done")
            return
        for index, packet in enumerate(packets):
            kind = type(packet)
            if kind is Publish:
                handle_publish.received(self, packet)  # type: ignore[arg-type]
                if self.unstored >= share and self._backlog is None:
                    self._wait_for_share()
            elif kind is PubAcks:
                handle_acks.pubacks(self, packet)  # type: ignore[arg-type]
                acknowledged = True
            elif kind is PubAck:
                handle_acks.puback(self, packet)  # type: ignore[arg-type]
                acknowledged = True
            else:
                _HANDLERS[kind](self, packet)
            if self._stage == _CLOSED:
                return
            if self._backlog is not None:
                self._backlog.extend(packets[index + 1 :])
                if self._backlog:
                    self._pause(STALLED)
                break
        if acknowledged and self.outbound is not None:
            self.outbound.pump()
        if self.unstored:
            server.pipeline.crowd.came(self, self.unstored)
        if server.pipeline.full:
            self._pause(PIPELINE_FULL)
            server.pipeline.pause(self)
        if not self.writable:
            self._check_answers()

    def _check_answers(self) -> None:
        """Read no more from a client that takes no answers. Deliveries alone never fill its buffer this far."""
        settings = self.server.settings
        limit = settings.limits.write_high_water + settings.mqtt.max_packet_size
        if self._stage != _CLOSED and self._transport.get_write_buffer_size() > limit:
            self._pause(ANSWERS_UNREAD)

    def _check_connected(self) -> None:
        if self._stage == _NEW:
            self.close("no CONNECT in time")
        elif self._stage == _LET_IN:
            if self._task is not None:
                self.refuse(ReasonCode.SERVER_UNAVAILABLE, "storage does not answer, try again")
            else:
                self._check_stored()
        elif self.enhanced is not None and self.enhanced.exchange is not None:
            self.refuse(ReasonCode.NOT_AUTHORIZED, "authentication took too long")
        elif self._task is not None:
            self.refuse(ReasonCode.SERVER_BUSY, "authentication took too long, try again")

    def _check_stored(self) -> None:
        """Its session is being stored, which comes to its end in any case; after ``storage_timeout`` the client is told that it
        need not wait for that. A will belongs to a CONNECT that was accepted."""
        timeout = self.server.settings.mqtt.storage_timeout
        deadline = self.last_received.time + timeout
        if not timeout:
            return
        if self.server.clock.reached < deadline:
            self._set_deadline(deadline)
            return
        self.will_wanted = False
        self.refuse(ReasonCode.SERVER_UNAVAILABLE, f"its session was not stored within {timeout:g} s, try again")

    def fire(self) -> None:
        """The deadline of what the connection has to do next, or to have been sent, has passed. It has one at a time, and is
        in the wheel itself: a timer and its call would be 140 bytes of every connection."""
        if self._stage == _OPEN:
            self._watch_keep_alive()
        elif self._stage == _CLOSED:
            self._transport.abort()
        else:
            self._check_connected()

    def _set_deadline(self, deadline: float) -> None:
        clock = self.server.clock
        clock.forget(self)
        clock.put(self, deadline)

    def _watch_keep_alive(self) -> None:
        """Close the connection once nothing was heard for one and a half keep-alive times [MQTT-3.1.2-22].

        Heard is a whole packet, and each `PROGRESS` bytes of a larger one.
        """
        clock = self.server.clock
        if self._paused & ~(ANSWERS_UNREAD | PUT_ASIDE):
            self.last_received = clock.latest
        heard = self.last_received.time
        deadline = heard + self.keep_alive * 1.5
        if clock.reached >= deadline:
            self.server.counters.keep_alive_timeouts += 1
            self.disconnect(ReasonCode.KEEP_ALIVE_TIMEOUT, f"nothing heard for {clock.reached - heard:.1f} s")
        else:
            self._set_deadline(deadline)

    # --- waiting for answers -------------------------------------------------------------------------------------------

    def stall(self, *, listen: bool = False) -> None:
        """Process no further packet until `go_on`. With ``listen`` the socket is read until one comes."""
        if self._backlog is None:
            self._backlog = deque()
        if not listen:
            self._pause(STALLED)

    @property
    def stalled(self) -> bool:
        """Whether packets wait for an answer."""
        return self._backlog is not None

    def go_on(self) -> None:
        """The answer is there: process what waited."""
        if self._backlog is None or self._stage == _CLOSED:
            return
        waiting, self._backlog = self._backlog, None
        self._process(list(waiting))
        if not self.stalled and self._stage != _CLOSED:
            self._resume(STALLED)
            if self.decoder.error is not None:
                self._violated(self.decoder.error)

    def run(self, coroutine: Any, *, listen: bool = False) -> None:
        """Stall, and let the coroutine find the answer; it calls `go_on`. Only one runs at a time.

        With ``listen`` a client that goes away meanwhile, with nothing behind what it sent, is noticed: `_end` cancels the
        coroutine.
        """
        self.stall(listen=listen)
        task = asyncio.create_task(coroutine, name=f"answer for {self.client_id or self.peer}")
        self._task = task
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled() and task.exception() is not None:
            log.error("internal error for %s", self.name, exc_info=task.exception(), extra=self.about)
            self.close("internal error")

    # --- flow control of reading -----------------------------------------------------------------------------------------

    def _pause(self, reason: int) -> None:
        if not self._paused:
            self._transport.pause_reading()
        self._paused |= reason

    def _resume(self, reason: int) -> None:
        if self._paused & reason:
            if self._paused & ~ANSWERS_UNREAD:
                self.last_received = self.server.clock.latest  # until now it could not be heard
            self._paused &= ~reason
            if self._stage != _CLOSED:
                if not self._paused:
                    self._transport.resume_reading()
                elif self._paused == PUT_ASIDE:
                    self._read_soon()

    def _afford(self, budget: Budget, packets: list[Packet]) -> bool:
        """Read no more until what came is paid for. False where it ends the connection."""
        clock = self.server.clock
        wait = budget.spend(packets, clock.now())
        if wait and not self._paused & TOO_FAST:
            if self.server.gate.published_too_much(self.name, in_bytes=budget.over_bytes):
                self.disconnect(ReasonCode.MESSAGE_RATE_TOO_HIGH, "more messages than a client may publish")
                return False
            self._pause(TOO_FAST)
            clock.put(budget, clock.now() + wait)
        return True

    def _paid(self) -> None:
        self._resume(TOO_FAST)

    def resume_submitting(self) -> None:
        """The pipeline has room again."""
        self._resume(PIPELINE_FULL)

    def inbound_finished(self) -> None:
        """A QoS 1 or 2 message of the client was acknowledged to the end."""
        if self.inbound:
            self.inbound -= 1

    def stored(self) -> None:
        """A message of the client left the pipeline."""
        self.unstored -= 1
        if self._paused & TOO_MUCH_PENDING and self.unstored * 2 <= self._share:
            # Not from here: the acks of what was stored are written before anything that comes behind is answered.
            self._paused ^= TOO_MUCH_PENDING | GOING_ON
            asyncio.get_running_loop().call_soon(self._share_free)

    @property
    def _share(self) -> int:
        """How many of the client's messages may wait to be stored."""
        server = self.server
        crowd = server.pipeline.crowd
        if not crowd.several:
            return server.connection_pending
        return max(server.connection_least, min(server.connection_share, crowd.fair))

    def _wait_for_share(self) -> None:
        """As much of the client's waits to be stored as may; the rest of what was read waits here."""
        self.stall()
        self._pause(TOO_MUCH_PENDING)

    def _share_free(self) -> None:
        self._resume(GOING_ON)
        self.go_on()

    # --- packets out -----------------------------------------------------------------------------------------------------

    def write_packet(self, frame: bytes) -> None:
        """Write one encoded packet that is not PUBLISH."""
        self.server.counters.control_sent += 1
        self._write(frame)

    def write_frame(self, frame: bytes) -> None:
        """Write one encoded packet, as `write_frames` does: the caller counts it."""
        self._write(frame)

    def write_frames(self, frames: list[bytes]) -> None:
        """Write encoded packets; the caller has looked at `writable` where it can wait."""
        if len(frames[-1]) >= LARGE:
            self._write_apart(frames)
        else:
            self._write(b"".join(frames))

    def _write_apart(self, frames: list[bytes]) -> None:
        """The same for large payloads, which all receivers share: each is written from where it is."""
        if self._transport.is_closing():
            return  # as below
        if self.server.tracer is not None:
            self.server.tracer.sent(self, b"".join(frames))
        parts: list[bytes] = []
        small: list[bytes] = []
        for frame in frames:
            self.server.counters.bytes_sent += len(frame)
            if len(frame) < LARGE:
                small.append(frame)
            else:
                parts += (b"".join(small), frame)
                small.clear()
        self._transport.writelines(parts)

    def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return  # the socket broke and `connection_lost` is on its way; uvloop's transport raises where asyncio's is silent
        self.server.counters.bytes_sent += len(data)
        if self.server.tracer is not None:
            self.server.tracer.sent(self, data)
        self._transport.write(data)

    def send(self, packet: Packet) -> bool:
        """Encode and write one packet. False where the client takes none of this size [MQTT-3.1.2-24], or is gone."""
        if self._stage == _CLOSED:
            return False
        data = encode(packet, self.version)
        if self.max_packet_size and len(data) > self.max_packet_size:
            properties = getattr(packet, "properties", EMPTY)
            if Property.REASON_STRING not in properties and Property.USER_PROPERTY not in properties:
                return False
            packet.properties = {  # type: ignore[union-attr]
                k: v for k, v in properties.items() if k not in (Property.REASON_STRING, Property.USER_PROPERTY)
            }
            return self.send(packet)
        self.write_packet(data)
        return True

    def reason(self, text: str) -> Properties:
        """Properties with a reason string, where the client wants to hear one [MQTT-3.1.2-29]."""
        setting = self.server.settings.mqtt.reason_strings
        wanted = self.connect_options.problem_information if self.connect_options is not None else None
        if self.version < 5 or setting == "never" or wanted is False or (wanted is None and setting == "asked"):
            return EMPTY
        return {Property.REASON_STRING: text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 3] + "..."}

    # --- the end ---------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Who this is, for logs."""
        return f"{self.client_id!r} at {self.peer}" if self.client_id else self.peer

    @property
    def about(self) -> dict[str, str]:
        """The same for logs that programs read."""
        info = getattr(self, "info", None)
        user = "" if info is None else info.identity.user_key
        return {"client": self.client_id, "user": user, "address": self.peer, "listener": self.listener}

    @property
    def ssl_object(self) -> Any:
        """The TLS session below the connection, or None."""
        return self._transport.get_extra_info("ssl_object")

    @property
    def open(self) -> bool:
        """CONNACK was sent, and the connection has not ended."""
        return self._stage == _OPEN

    @property
    def closed(self) -> bool:
        """The connection has ended."""
        return self._stage == _CLOSED

    def opening(self) -> None:
        """CONNECT came; from here on its time limit is over."""
        self._stage = _CONNECTING

    def turn_came(self) -> None:
        """It has waited for its turn to connect: what follows has the time that it would have had at once."""
        clock = self.server.clock
        self.last_received = clock.latest
        self._set_deadline(clock.now() + self.server.settings.mqtt.connect_timeout)

    def let_in(self) -> None:
        """The client is who it says. From here on the socket is not read: a session that is being opened is opened to the
        end."""
        self._stage = _LET_IN
        self.stall()

    def ends_after(self, seconds: float) -> None:
        """What the client was let in by counts for so long."""
        self.expiry = self.server.clock.after(max(0.0, seconds), self._expired)

    def _expired(self) -> None:
        if self._stage == _OPEN:
            self.disconnect(ReasonCode.NOT_AUTHORIZED, "its token has expired")
        else:
            self.refuse(ReasonCode.NOT_AUTHORIZED, "its token has expired")

    def opened(self) -> None:
        """CONNACK was sent; from here on the keep alive counts."""
        self._stage = _OPEN
        self.since = self.server.time.wall()
        clock = self.server.clock
        clock.forget(self)
        if self.keep_alive:
            clock.put(self, clock.now() + self.keep_alive * 1.5)
        if self.server.gate.counts_publishes:
            self.budget = self.server.gate.budget(clock.now(), self._paid)

    def _stranger(self, violation: ProtocolViolation, data: bytes) -> None:
        """No CONNECT could be read: somebody mixed up two ports, or looks for what is here. Of many a bounded part is told."""
        what = protocol_of(data)
        if what == "plain MQTT":
            self._violated(violation)
            return
        self.server.counters.handshakes_failed += 1
        host = self.peer.rpartition(":")[0]
        self.server.other_protocols.warning(
            "listener %s: %s: %s, where MQTT is expected",
            *(self.listener, self.peer, what),
            key=(host, what),
            about=self.about,
        )
        self.close(f"{what}, not MQTT", logging.DEBUG)

    def _violated(self, violation: ProtocolViolation) -> None:
        self.server.counters.protocol_errors += 1
        if self._stage in (_NEW, _CONNECTING):
            # Only a client that was understood is owed a refusal.
            self.version = self.decoder.version
            if isinstance(violation, UnsupportedVersion) or self.version == 5:
                self.refuse(violation.code, violation.text)
                return
        if isinstance(violation, PacketTooLarge):
            self.server.counters.limit_packet_size += 1
        self.disconnect(violation.code, violation.text + (_LARGER if isinstance(violation, PacketTooLarge) else ""))

    def refuse(self, code: int, text: str) -> None:
        """Answer a CONNECT with a reason, and close [MQTT-3.1.4-2, 3.1.4-6, 3.2.2-5]."""
        self.server.counters.clients_refused += 1
        self.send(ConnAck(False, code, self._ending(code, text)))
        # A wrong login has a line of its own, with the plugin that refused it, and so has a limit; of both a flood is bounded.
        logged = code in (
            ReasonCode.BAD_USER_NAME_OR_PASSWORD,
            ReasonCode.NOT_AUTHORIZED,
            ReasonCode.QUOTA_EXCEEDED,
            ReasonCode.CONNECTION_RATE_EXCEEDED,
        )
        self.close(f"refused: {text}", logging.DEBUG if logged else logging.INFO)

    def disconnect(self, code: int, text: str) -> None:
        """Tell an MQTT 5 client why [MQTT-3.14.0-1], and close."""
        if self.version >= 5 and self._stage == _OPEN:
            self.send(Disconnect(code, self._ending(code, text)))
        self.close(text)

    def _ending(self, code: int, text: str) -> Properties:
        properties, reference = self.reason(text), self.server.settings.mqtt.server_reference
        if reference and code in (ReasonCode.USE_ANOTHER_SERVER, ReasonCode.SERVER_MOVED):
            properties = {**properties, Property.SERVER_REFERENCE: reference}
        return properties

    def close(self, why: str, level: int = logging.INFO) -> None:
        """End the connection now; nothing that comes after is processed."""
        if self._stage == _CLOSED:
            return
        log.log(level, "closing %s: %s", self.name, why, extra=self.about)
        self._end(why)
        self._transport.close()
        self._set_deadline(self.server.clock.now() + CLOSE_GRACE)

    def _end(self, why: str) -> None:
        if self._stage == _CLOSED:
            return
        if self.server.tracer is not None:
            self.server.tracer.closed(self, why)
        self.was_open = self._stage == _OPEN
        self._stage = _CLOSED
        self._backlog = None
        self._put_aside = b""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self.server.pipeline.forget(self)
        if self.expiry is not None:
            self.expiry.cancel()
        if self.place is not None:
            self.server.gate.leave(self.place)
        if self.budget is not None:
            self.server.clock.forget(self.budget)
        if self.session is not None:
            self.server.sessions.end(self, why)


def _pingreq(connection: Connection, packet: PingReq) -> None:
    connection.write_packet(PINGRESP)


_HANDLERS: dict[type, Any] = {
    Connect: handle_connect.received,
    PubRec: handle_acks.pubrec,
    PubRel: handle_acks.pubrel,
    PubComp: handle_acks.pubcomp,
    Subscribe: handle_subscribe.subscribe,
    Unsubscribe: handle_subscribe.unsubscribe,
    PingReq: _pingreq,
    Disconnect: handle_disconnect.received,
    Auth: handle_auth.received,
}
