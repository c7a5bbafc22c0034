"""CONNECT: who it is, which session it continues, and the answer.

- CONNACK follows the durable opening of the session, at its place in the order of groups.
- The user name counts only where a plugin verified it; takeover stays within a user.
- A client without an id gets one, where the protocol allows that [MQTT-3.1.3-6, 3.1.3-8 in 3.1.1].
- Where nobody has to be waited for, CONNECT is done with on the spot, up to what is to be stored. A task is made only where a
  plugin, another node or storage is to be asked: it would be a fifth of what a client costs that connects.

Over 300 lines: what a CONNECT goes through is told in one place, on the spot and with waiting.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from amqtt.contexts import Action

from broker.access import AuthRequest, Ban, Busy, CannotTell, Identity, MustWait, SessionInfo
from broker.connection import handle_auth
from broker.connection.handle_publish import unacceptable
from broker.packets import EMPTY, ConnAck, Connect, Properties, Property, ReasonCode, shown
from broker.sessions import ConnectOptions, wills
from storage.errors import FencedOut
from storage.records import DeviceKey

if TYPE_CHECKING:
    from broker.connection.connection import Connection
    from broker.sessions import Session


def received(connection: Connection, packet: Connect) -> None:
    """Authenticate, then open the session."""
    connection.version = packet.version
    connection.opening()
    if not packet.client_id:
        if packet.version < 4 or (packet.version < 5 and not packet.clean_start):
            connection.refuse(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "an empty client id needs 3.1.1 and a clean session")
            return
        packet.client_id = f"auto-{uuid.uuid4()}"
        connection.connect_options = ConnectOptions(assigned=True)
    connection.client_id = packet.client_id
    if packet.version >= 5:
        _options(connection, packet)
    if connection.server.settings.mqtt.redirect != "never":
        connection.refuse(connection.server.settings.mqtt.elsewhere, "another server is to be used")
        return
    if ban_of(connection, connection.server.time.now()) is not None:
        connection.refuse(ReasonCode.BANNED, "banned")
        return
    gate = connection.server.gate
    if connection.server.sessions.full:
        gate.log.warning("clients are refused: sessions of many that gave up wait, limits.pending_bytes", key="full")
        connection.refuse(ReasonCode.SERVER_UNAVAILABLE, "storage does not keep up, try again")
        return
    wait, refusal = gate.knock(connection.peer, connection.place, packet.username, packet.password)
    if wait:
        connection.run(_held_back(connection, packet, wait, refusal), listen=True)
    elif refusal is not None:
        connection.refuse(*refusal)
    elif not gate.turn(connection.peer, partial(_in_turn, connection, packet)):
        connection.stall(listen=True)


def _in_turn(connection: Connection, packet: Connect) -> bool:
    if connection.closed:
        return False
    if connection.stalled:
        connection.turn_came()
    _authenticate(connection, packet)
    return True


async def _held_back(connection: Connection, packet: Connect, wait: float, refusal: tuple[int, str] | None) -> None:
    """Others from the same address have come too often: wait, and then go on or hear so."""
    await asyncio.sleep(wait)
    if connection.closed:
        return
    if refusal is not None:
        connection.refuse(*refusal)
    else:
        _authenticate(connection, packet)


def _authenticate(connection: Connection, packet: Connect) -> None:
    request = _request(connection, packet)
    if Property.AUTHENTICATION_METHOD in packet.properties:
        handle_auth.begin(connection, packet, request, _let_in)
        return
    try:
        identity = connection.server.access.authentication.authenticate_now(request)
    except MustWait:
        connection.run(_connect(connection, packet, request), listen=True)
    except (Busy, CannotTell) as error:
        connection.refuse(*_NOT_NOW[type(error)])
    else:
        if identity is None:
            connection.run(_turn_away(connection, packet, request), listen=True)
            return
        connection.server.gate.succeeded(request.address, packet.username, packet.password)
        _let_in_now(connection, packet, identity, request)


def ban_of(connection: Connection, now: int, user: str = "") -> Ban | None:
    """What keeps the client out at ``now`` (ms): by its id, its address and, once that is known, its user."""
    bans = connection.server.bans
    if bans.none:
        return None
    address = connection.peer.rpartition(":")[0]
    return bans.of(now, user=user, client=connection.client_id, address=address)


def _options(connection: Connection, packet: Connect) -> None:
    properties = packet.properties
    options = connection.connect_options or ConnectOptions()
    if Property.REQUEST_PROBLEM_INFORMATION in properties:
        options.problem_information = bool(properties[Property.REQUEST_PROBLEM_INFORMATION])
    options.response_information = bool(properties.get(Property.REQUEST_RESPONSE_INFORMATION, 0))
    asked = properties.get(Property.USER_PROPERTY, ())
    options.ack_properties = ("tideline-acks", "on") in asked
    offered = connection.server.settings.mqtt.message_properties
    options.message_properties = offered == "always" or (offered == "asked" and ("tideline-messages", "on") in asked)
    if options != ConnectOptions():
        connection.connect_options = options
    connection.max_packet_size = properties.get(Property.MAXIMUM_PACKET_SIZE, 0)
    connection.receive_maximum = properties.get(Property.RECEIVE_MAXIMUM, 65535)
    connection.alias_limit = min(
        properties.get(Property.TOPIC_ALIAS_MAXIMUM, 0), connection.server.settings.mqtt.topic_alias_maximum
    )
    if connection.alias_limit:
        connection.aliases_out = {}


_NOT_NOW = {
    Busy: (ReasonCode.SERVER_BUSY, "too many logins at once, try again"),
    CannotTell: (ReasonCode.SERVER_UNAVAILABLE, "who you are cannot be found out at the moment, try again"),
}


async def _connect(connection: Connection, packet: Connect, request: AuthRequest) -> None:
    server = connection.server
    try:
        identity = await server.access.authentication.authenticate(request)
    except (Busy, CannotTell) as error:
        connection.refuse(*_NOT_NOW[type(error)])
        return
    if identity is None:
        await _turn_away(connection, packet, request)
        return
    server.gate.succeeded(request.address, packet.username, packet.password)
    await _let_in(connection, packet, identity, request, EMPTY)


async def _turn_away(connection: Connection, packet: Connect, request: AuthRequest) -> None:
    """It is not who it says."""
    delay = connection.server.gate.failed(request.address)
    if delay:
        await asyncio.sleep(delay)
    bad_password = packet.username is not None
    code = ReasonCode.BAD_USER_NAME_OR_PASSWORD if bad_password else ReasonCode.NOT_AUTHORIZED
    connection.refuse(code, "bad user name or password" if bad_password else "not authorized")


async def _let_in(connection: Connection, packet: Connect, identity: Identity, request: AuthRequest, proof: Properties) -> None:
    """The client is who it says: open its session. ``proof`` is what CONNACK says of an enhanced authentication."""
    if _barred(connection, identity, request):
        return
    refusal = _unfit_will(connection, packet)
    if refusal is None and packet.will is not None:
        access = connection.server.access
        if not await access.allowed(connection.info, Action.PUBLISH, packet.will.topic):
            refusal = _refused_will(connection, packet.will.topic)
    if refusal:
        connection.refuse(*refusal)
        return
    if connection.closed:
        return
    key = _admitted(connection, packet, identity)
    if key is not None:
        await _open_when_read(connection, packet, key, proof)


def _let_in_now(connection: Connection, packet: Connect, identity: Identity, request: AuthRequest) -> None:
    """The same on the spot, as far as that goes."""
    server = connection.server
    if _barred(connection, identity, request):
        return
    refusal = _unfit_will(connection, packet)
    if refusal is None and packet.will is not None:
        allowed = server.access.cached(connection.info, Action.PUBLISH, packet.will.topic)
        if allowed is None:
            connection.run(_let_in(connection, packet, identity, request, EMPTY), listen=True)
            return
        if not allowed:
            refusal = _refused_will(connection, packet.will.topic)
    if refusal:
        connection.refuse(*refusal)
        return
    key = _admitted(connection, packet, identity)
    if key is None:
        return
    if server.cluster is None and not _begins(connection, packet) and server.sessions.known(key):
        _open(connection, packet, key, EMPTY)
    else:
        connection.run(_open_when_read(connection, packet, key, EMPTY))


def _barred(connection: Connection, identity: Identity, request: AuthRequest) -> bool:
    connection.info = SessionInfo(identity, request)
    if ban_of(connection, connection.server.time.now(), identity.user_key) is None:
        return False
    connection.refuse(ReasonCode.BANNED, "banned")
    return True


def _admitted(connection: Connection, packet: Connect, identity: Identity) -> DeviceKey | None:
    """From here on it is let in, and nothing it sends is read until its session is open. None where its user has too many."""
    server = connection.server
    key = DeviceKey(identity.user_key, packet.client_id)
    there = server.sessions.get(key)
    replaces = there is not None and there.connection is not None
    connection.place, refusal = server.gate.take_user(connection.place, identity.user_key, replaces=replaces)
    if refusal:
        connection.refuse(*refusal)
        return None
    connection.let_in()
    if identity.valid_until:
        connection.ends_after(identity.valid_until - time.time())
    keep_alive = packet.keep_alive
    cap = server.settings.mqtt.max_keep_alive
    if cap and (keep_alive == 0 or keep_alive > cap) and packet.version >= 5:
        keep_alive = cap
    connection.keep_alive = keep_alive
    return key


def _begins(connection: Connection, packet: Connect) -> bool:
    """Whether it reads its inbox from a place that must not be removed meanwhile."""
    return _expiry(connection, packet) > 0 and connection.server.start_position() != "latest"


async def _open_when_read(connection: Connection, packet: Connect, key: DeviceKey, proof: Properties) -> None:
    server = connection.server
    async with nullcontext() if server.cluster is None else server.cluster.in_turn(key):
        if await _ready(connection, key, begins=_begins(connection, packet)):
            _open(connection, packet, key, proof)


def _begin_again(connection: Connection, packet: Connect, key: DeviceKey, proof: Properties) -> None:
    connection.run(_open_again(connection, packet, key, proof))


async def _open_again(connection: Connection, packet: Connect, key: DeviceKey, proof: Properties) -> None:
    """Once its first try has ended in storage too: the will that came with that is not to be found there."""
    await connection.server.pipeline.passed()
    await _open_when_read(connection, packet, key, proof)


def _open(connection: Connection, packet: Connect, key: DeviceKey, proof: Properties) -> None:
    connection.server.sessions.open(
        connection,
        key,
        clean=packet.clean_start,
        expiry=_expiry(connection, packet),
        begins=_begins(connection, packet),
        will=wills.pack(packet.will) if packet.will is not None else None,
        opened=partial(_answer, connection, packet, proof),
        again=partial(_begin_again, connection, packet, key, proof),
    )


async def _ready(connection: Connection, key: DeviceKey, *, begins: bool) -> bool:
    """Have the session in memory, if there is one; and nothing removed where it ``begins``. False where the client has gone."""
    server = connection.server
    if begins:
        await server.retention_lock.begin(key.user)
    ready = False
    try:
        elsewhere = True
        while elsewhere:  # what was taken may be with another node again by the time that it is read
            read = None if server.cluster is None else await server.cluster.take(key)
            session = await server.delivery.persist(key.client_id, partial(server.sessions.fetch, key, read))
            elsewhere = session is not None and session.elsewhere
        ready = not connection.closed
    except FencedOut:
        connection.refuse(ReasonCode.SERVER_UNAVAILABLE, "this node may not serve any more, use another one")
    finally:
        if begins and not ready:
            server.retention_lock.begun()
    return ready


def _request(connection: Connection, packet: Connect) -> AuthRequest:
    return AuthRequest(
        client_id=packet.client_id,
        username=packet.username,
        password=packet.password,
        peer=connection.peer,
        ssl_object=connection.ssl_object,
        certified=connection.certified,
        clean=packet.clean_start,
        keep_alive=packet.keep_alive,
        version=packet.version,
        anonymous_allowed=connection.listener not in connection.server.strangers_refused,
    )


def _unfit_will(connection: Connection, packet: Connect) -> tuple[int, str] | None:
    """Why its will is not taken, whoever it is."""
    will = packet.will
    if will is None:
        return None
    problem = unacceptable(connection.server.settings.mqtt, will.topic, will.retain)
    if problem:
        return problem
    if why := connection.server.access.closed(will.topic):
        return ReasonCode.NOT_AUTHORIZED, f"will topic {shown(will.topic)} {why}"
    return None


def _refused_will(connection: Connection, topic: str) -> tuple[int, str]:
    connection.server.access.log_refusal(connection.info, Action.PUBLISH, topic)
    return ReasonCode.NOT_AUTHORIZED, f"publishing a will to {shown(topic)} is not allowed"


def _expiry(connection: Connection, packet: Connect) -> int:
    """Seconds that the session outlives its connection."""
    longest = connection.server.settings.mqtt.max_session_expiry
    if packet.version < 5:
        return 0 if packet.clean_start else longest
    asked: int = packet.properties.get(Property.SESSION_EXPIRY, 0)
    if asked:
        if connection.connect_options is None:
            connection.connect_options = ConnectOptions()
        connection.connect_options.asked_expiry = asked
    return min(asked, longest)


def _answer(connection: Connection, packet: Connect, proof: Properties, session: Session, present: bool) -> None:
    properties: Properties = {}
    connection.resumed = present
    if connection.version >= 5:
        properties = {**_offer(connection, packet, session), **proof}
    known = present and connection.version > 3  # the flag is reserved in 3.1
    if not connection.send(ConnAck(known, ReasonCode.SUCCESS, properties)):
        connection.close(f"CONNACK is larger than the {connection.max_packet_size} bytes that it takes")
        return
    connection.opened()
    server = connection.server
    server.counters.clients_connected += 1
    server.connected(connection)


def _offer(connection: Connection, packet: Connect, session: Session) -> Properties:
    """What an MQTT 5 client needs to know; what is not said has the specification's default."""
    settings = connection.server.settings.mqtt
    properties: Properties = {}
    options = connection.connect_options or ConnectOptions()
    if connection.keep_alive != packet.keep_alive:
        properties[Property.SERVER_KEEP_ALIVE] = connection.keep_alive
    if settings.topic_alias_maximum:
        properties[Property.TOPIC_ALIAS_MAXIMUM] = settings.topic_alias_maximum
    if options.asked_expiry != session.expiry:
        properties[Property.SESSION_EXPIRY] = session.expiry
    if not settings.retain_available:
        properties[Property.RETAIN_AVAILABLE] = 0
    if settings.max_packet_size < 268_435_460:
        properties[Property.MAXIMUM_PACKET_SIZE] = settings.max_packet_size
    if options.assigned:
        properties[Property.ASSIGNED_CLIENT_ID] = connection.client_id
    if options.response_information and settings.response_information:
        properties[Property.RESPONSE_INFORMATION] = settings.response_information
    if settings.receive_maximum != 65535:
        properties[Property.RECEIVE_MAXIMUM] = settings.receive_maximum
    return properties
