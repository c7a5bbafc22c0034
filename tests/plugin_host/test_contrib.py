"""amqtt's contributed plugins for authentication, but for LDAP's, which needs libldap to be compiled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web
from amqtt.contexts import Action
from amqtt.contrib import cert
from cryptography.hazmat.primitives.serialization import Encoding

from broker.access.access_control import AccessControl
from broker.access.identity import AuthRequest, Identity
from broker.access.session_info import SessionInfo
from broker.amqtt.plugin_host import BrokerEvents, PluginHost


def asked(username: str | None, password: str | None, client_id: str = "phone") -> AuthRequest:
    return AuthRequest(client_id, username, None if password is None else password.encode(), "10.0.0.1:1")


async def test_jwt(access_of: Callable[..., AccessControl]) -> None:
    secret = "a secret of thirty-two bytes or more"
    claims = {"user_claim": "name", "secret_key": secret}
    topics = {"publish_claim": "may_pub", "subscribe_claim": "may_sub", "receive_claim": "may_rec", "secret_key": secret}
    access = access_of({"amqtt.contrib.jwt.UserAuthJwtPlugin": claims, "amqtt.contrib.jwt.TopicAuthJwtPlugin": topics})
    token = jwt.encode({"name": "alice", "may_pub": ["a/#"], "may_sub": ["b"], "may_rec": ["b"]}, secret, algorithm="HS256")
    request = asked("alice", token)
    identity = await access.authentication.authenticate(request)
    assert identity == Identity("u/alice", "alice", False)
    session = SessionInfo(identity, request)
    assert access.cached(session, Action.PUBLISH, "a/x") is True
    assert access.cached(session, Action.PUBLISH, "b") is False
    assert access.cached(session, Action.RECEIVE, "b") is True
    assert await access.authentication.authenticate(asked("bob", token)) is None
    assert await access.authentication.authenticate(asked("alice", token[:-2])) is None


async def test_database(host_of: Callable[..., PluginHost], tmp_path: Path) -> None:
    connection = f"sqlite+aiosqlite:///{tmp_path}/auth.db"
    users, topics = "amqtt.contrib.auth_db.UserAuthDBPlugin", "amqtt.contrib.auth_db.TopicAuthDBPlugin"
    options = {"connection": connection, "sync_schema": True}
    plugin_host = host_of({users: dict(options, hash_schemes=["argon2"]), topics: options})
    await plugin_host.fire_and_wait(BrokerEvents.PRE_START)
    await plugin_host.plugins.get_plugin("UserAuthDBPlugin")._user_manager.create_user_auth("alice", "wonderland")
    manager = plugin_host.plugins.get_plugin("TopicAuthDBPlugin")._topic_manager
    await manager.create_topic_auth("alice")
    await manager.add_allowed_topic("alice", "a/b", Action.PUBLISH)
    access = AccessControl(plugin_host.plugins)
    request = asked("alice", "wonderland")
    identity = await access.authentication.authenticate(request)
    assert identity == Identity("u/alice", "alice", False)
    assert await access.allowed(SessionInfo(identity, request), Action.PUBLISH, "a/b")
    assert not await access.allowed(SessionInfo(identity, request), Action.PUBLISH, "a/c")
    assert await access.authentication.authenticate(asked("alice", "wrong")) is None


async def test_http(host_of: Callable[..., PluginHost]) -> None:
    seen: list[dict[str, Any]] = []

    async def answer(request: Any) -> Any:
        values = await request.json()
        seen.append(values)
        if request.path == "/user":
            return web.json_response({"ok": values["password"] == "wonderland"})
        return web.json_response({"ok": values["topic"] == "a/b" and values["acc"] == 2})

    app = web.Application()
    app.router.add_post("/user", answer)
    app.router.add_post("/acl", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert isinstance(site._server, asyncio.Server)
    port = site._server.sockets[0].getsockname()[1]
    options = {"host": "127.0.0.1", "port": str(port), "request_method": "post"}
    http = "amqtt.contrib.http."
    plugin_host = host_of({http + "UserAuthHttpPlugin": options, http + "TopicAuthHttpPlugin": options})
    access = AccessControl(plugin_host.plugins)
    try:
        request = asked("alice", "wonderland")
        identity = await access.authentication.authenticate(request)
        assert identity == Identity("u/alice", "alice", False)
        assert await access.allowed(SessionInfo(identity, request), Action.PUBLISH, "a/b")
        assert not await access.allowed(SessionInfo(identity, request), Action.RECEIVE, "a/b")
        assert await access.authentication.authenticate(asked("alice", "wrong")) is None
        await runner.cleanup()
        assert await access.authentication.authenticate(asked("alice", "wonderland")) is None  # the service is away
    finally:
        await plugin_host.fire_and_wait(BrokerEvents.PRE_SHUTDOWN)
        await runner.cleanup()
    assert len(seen) == 4


async def test_certificates_verify_the_client_id_not_the_user_name(access_of: Callable[..., AccessControl]) -> None:
    key, ca = cert.generate_root_creds("XX", "State", "Town", "Org", "Root")
    _, request = cert.generate_device_csr("XX", "Org", "device", "spiffe://fleet.example/device/phone", "phone.local")
    der: bytes = cert.sign_csr(request, key, ca).public_bytes(Encoding.DER)

    class Tls:
        def getpeercert(self, binary_form: bool = False) -> bytes:
            return der

    access = access_of({"amqtt.contrib.cert.UserAuthCertPlugin": {"uri_domain": "fleet.example"}})
    with_certificate = asked("root", None)
    with_certificate.ssl_object = Tls()  # type: ignore[assignment]
    assert await access.authentication.authenticate(with_certificate) == Identity("c/phone", None, anonymous=False)
    other = asked("root", None, client_id="pad")
    other.ssl_object = Tls()  # type: ignore[assignment]
    assert await access.authentication.authenticate(other) is None
    assert await access.authentication.authenticate(asked("root", None)) is None
