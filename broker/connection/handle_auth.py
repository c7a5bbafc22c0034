"""Enhanced authentication (4.12): the AUTH exchange that a CONNECT with a method begins, and another one later.

- A method that no plugin offers is refused with 0x8C [MQTT-4.12.0-1].
- Until CONNACK the client may send only AUTH and DISCONNECT [MQTT-3.1.2-30]; each packet waits until the one before is
  answered. The whole exchange has ``mqtt.connect_timeout``. A session is opened, or taken over, only after its success.
- Every AUTH and the CONNACK name the method [MQTT-4.12.0-5]; one that names another is a protocol error.
- On a connection that is open the client may begin again [MQTT-4.12.1-1], as the same user; what else it sends goes on in
  its old right meanwhile. Failure, or ``mqtt.connect_timeout`` without an end, closes the connection [MQTT-4.12.1-2].
- A plugin that raises, or takes longer than ``hooks.timeout`` for one answer, lets nobody in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from broker.access import AuthRequest, Identity, blame
from broker.hooks import Accepted, AuthExchange, AuthStart, Challenge, Denied, EnhancedAuthPlugin
from broker.packets import Auth, Connect, Properties, Property, ReasonCode, shown
from broker.plugin_call import answer_of

if TYPE_CHECKING:
    from broker.clock import Timer
    from broker.connection.connection import Connection

log = logging.getLogger(__name__)

_WRONG = (ReasonCode.BAD_USER_NAME_OR_PASSWORD, ReasonCode.NOT_AUTHORIZED)
"""What a wrong proof is answered with."""

LetIn = Callable[["Connection", Connect, Identity, AuthRequest, Properties], Coroutine[Any, Any, None]]


class Enhanced:
    """What a connection keeps of its enhanced authentication. ``exchange`` is the one under way."""

    __slots__ = ("connect", "exchange", "generation", "let_in", "method", "plugin", "request", "timer")

    def __init__(self, plugin: EnhancedAuthPlugin, connect: Connect, request: AuthRequest, let_in: LetIn) -> None:
        self.plugin = plugin
        self.method: str = connect.properties[Property.AUTHENTICATION_METHOD]
        self.connect: Connect | None = connect
        self.request = request
        self.let_in = let_in
        self.exchange: AuthExchange | None = None
        self.generation = 0
        """Of the access rules (`AccessControl.generation`) when the exchange began."""
        self.timer: Timer | None = None
        """The end of an exchange that began after CONNACK; the one before that has the connection's."""

    def properties(self, data: bytes) -> Properties:
        """Method and data, as AUTH and CONNACK carry them."""
        found: Properties = {Property.AUTHENTICATION_METHOD: self.method}
        if data:
            found[Property.AUTHENTICATION_DATA] = data
        return found


def begin(connection: Connection, packet: Connect, request: AuthRequest, let_in: LetIn) -> None:
    """A CONNECT names a method. ``let_in`` goes on with it once the client is who it says."""
    method = packet.properties[Property.AUTHENTICATION_METHOD]
    plugin = connection.server.auth_methods.get(method)
    if plugin is None:
        connection.refuse(ReasonCode.BAD_AUTHENTICATION_METHOD, f"authentication method {shown(method)} is not offered")
        return
    request.password = None
    enhanced = connection.enhanced = Enhanced(plugin, packet, request, let_in)
    connection.run(_step(connection, enhanced, packet.properties.get(Property.AUTHENTICATION_DATA, b"")))


def received(connection: Connection, packet: Auth) -> None:
    """The client goes on with an exchange, or begins a new one."""
    enhanced = connection.enhanced
    if enhanced is None:
        _fail(connection, ReasonCode.PROTOCOL_ERROR, "AUTH without an authentication method in CONNECT")
    elif packet.properties[Property.AUTHENTICATION_METHOD] != enhanced.method:
        _fail(connection, ReasonCode.PROTOCOL_ERROR, "AUTH with another authentication method than CONNECT")
    elif (packet.reason == ReasonCode.CONTINUE_AUTHENTICATION) is (enhanced.exchange is None):
        what = "continues no exchange" if enhanced.exchange is None else "begins an exchange within another"
        _fail(connection, ReasonCode.PROTOCOL_ERROR, f"AUTH {what}")
    else:
        if enhanced.exchange is None:
            _begin_again(connection, enhanced)
        connection.run(_step(connection, enhanced, packet.properties.get(Property.AUTHENTICATION_DATA, b"")))


def _begin_again(connection: Connection, enhanced: Enhanced) -> None:
    """An exchange on an open connection has a time limit of its own."""

    def too_long() -> None:
        if not connection.closed:
            _fail(connection, ReasonCode.NOT_AUTHORIZED, "authentication took too long")

    enhanced.timer = connection.server.clock.after(connection.server.settings.mqtt.connect_timeout, too_long)


async def _step(connection: Connection, enhanced: Enhanced, data: bytes) -> None:
    """Give the plugin what the client said, and the client what the plugin answers."""
    try:
        answer = await _ask(connection, enhanced, data)
    except Denied as denied:
        log.info("%s is not authenticated by %s: %s", connection.name, shown(enhanced.method), denied, extra=connection.about)
        delay = connection.server.gate.failed(enhanced.request.address) if denied.code in _WRONG else 0.0
        if delay:
            await asyncio.sleep(delay)
        _fail(connection, denied.code, str(denied))
        return
    if connection.closed:
        return
    if isinstance(answer, Challenge):
        connection.send(Auth(ReasonCode.CONTINUE_AUTHENTICATION, enhanced.properties(answer.data)))
        connection.go_on()
        return
    enhanced.exchange = None
    if enhanced.timer is not None:
        enhanced.timer.cancel()
    connect, enhanced.connect = enhanced.connect, None
    if connect is not None:
        identity = Identity(f"u/{answer.username}", answer.username, False)
        await enhanced.let_in(connection, connect, identity, enhanced.request, enhanced.properties(answer.data))
        return
    connection.info.forget_answers()  # what it may do can be the reason why it came again
    connection.send(Auth(ReasonCode.SUCCESS, enhanced.properties(answer.data)))
    connection.go_on()


async def _ask(connection: Connection, enhanced: Enhanced, data: bytes) -> Challenge | Accepted:
    request = enhanced.request
    user = connection.info.identity.username if connection.open else None
    try:
        access = connection.server.access
        if enhanced.exchange is None:
            enhanced.generation = access.generation
            plugin = connection.server.auth_methods.get(enhanced.method)
            if plugin is None:
                raise Denied("the authentication method is not offered any more", ReasonCode.BAD_AUTHENTICATION_METHOD)
            enhanced.plugin = plugin  # a reload may have put another in its place
            start = AuthStart(enhanced.method, request.client_id, request.username, request.address, request.ssl_object, user)
            enhanced.exchange = enhanced.plugin.begin(start)
        async with asyncio.timeout(connection.server.settings.hooks.timeout):
            answer = await answer_of(enhanced.exchange.step(data))
    except Denied:
        raise
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the client is refused, and hears no reason
        log.error(
            "%s: plugin %s failed: %s", connection.name, type(enhanced.plugin).__name__, blame(error), extra=connection.about
        )
        raise Denied("authentication failed here", ReasonCode.UNSPECIFIED_ERROR) from None
    if isinstance(answer, Accepted):
        if enhanced.generation != access.generation:
            raise Denied("the users have changed meanwhile, try again", ReasonCode.SERVER_BUSY)
        if access.authentication.bars(answer.username):
            raise Denied("the user is disabled", ReasonCode.NOT_AUTHORIZED)
        if not answer.username or request.username not in (None, answer.username):
            raise Denied("the user name in CONNECT is another", ReasonCode.BAD_USER_NAME_OR_PASSWORD)
        if user not in (None, answer.username):
            raise Denied("a connection stays with its user")
    return answer


def _fail(connection: Connection, code: ReasonCode, text: str) -> None:
    if not connection.open:
        connection.refuse(code, text)
        return
    if code == ReasonCode.BAD_USER_NAME_OR_PASSWORD:  # which DISCONNECT does not have
        code = ReasonCode.NOT_AUTHORIZED
    connection.disconnect(code, text)
