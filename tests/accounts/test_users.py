"""Users in storage: who comes in, and who goes, on this node and on another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import argon2
import httpx
import jwt
import pytest

from broker.access import Ban, Passwords, generated
from broker.clock import ServerTime
from broker.hooks import Imported, NoSuchUser, UserExists, Users
from broker.packets import Disconnect, ReasonCode
from plugins.accounts import AccountsPlugin
from plugins.http import HttpPlugin
from storage.records import DropSetting, SaveSetting
from tests.http.conftest import HTTP, Site, site
from tests.listeners.test_certificates import connected, listener, refused
from tests.support.broker import Broker, running
from tests.support.certificates import Certificates
from tests.support.cluster import cluster
from tests.support.slow_logins import Gated
from tests.support.until import until
from tests.support.wire import Client

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ACCOUNTS: dict[str, Any] = {"accounts": {}}
PATIENT = {"timeout": 60}
"""A real Argon2 hash takes its time on a busy machine."""
WRONG, OUT = ReasonCode.BAD_USER_NAME_OR_PASSWORD, ReasonCode.NOT_AUTHORIZED


def users_of(broker: Broker) -> Users:
    plugin = broker.server.api.plugin(AccountsPlugin)
    assert plugin is not None
    return plugin


async def login(broker: Broker, name: str | None, password: str = "", client_id: str = "x") -> int:
    """The reason code that a client is answered, which leaves then."""
    client = await broker.socket(5)
    ack = await client.connect(client_id, username=name, password=password.encode() if name else None)
    await client.drop()
    return int(ack.reason)


async def phone(broker: Broker, name: str, password: str) -> Client:
    return await broker.durable("phone", 5, username=name, password=password.encode())


async def shut_out(client: Client) -> None:
    """The client is told so, and disconnected."""
    said = [packet.reason for packet in await client.closed() if isinstance(packet, Disconnect)]
    assert said == [ReasonCode.ADMINISTRATIVE_ACTION]


async def test_the_first_user_ends_anonymous_access_also_that_of_who_is_connected(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with site(url, plugins=ACCOUNTS) as made:
        assert await login(made, None) == await login(made, "guest", "whatever") == 0
        guest, operator = await made.client("guest", 5), made.caller()
        assert (await operator.get("/users")).json() == {"users": [], "next": None}
        added = await operator.post("/users", json={"name": "ann", "hash": CHEAP.hash("a")})
        assert (added.status_code, set(added.json())) == (201, {"name", "disabled", "created", "changed"})
        await shut_out(guest)
        assert (await operator.get("/users")).status_code == 401, "who has no credentials is the operator no more"
        assert await login(made, None) == OUT
        assert await login(made, "ann", "a") == 0
        assert await login(made, "ann", "b") == await login(made, "guest", "whatever") == WRONG
        await users_of(made).delete("ann")
        assert await login(made, None) == OUT, "that the last user has gone lets nobody in"
    async with running(url, plugins=ACCOUNTS) as broker:
        assert (await login(broker, None), await login(broker, "ann", "a")) == (OUT, WRONG)
    async with running(url, plugins={"accounts": {"anonymous": True}}) as broker:
        assert await login(broker, None) == 0, "unless the configuration says so"


async def test_what_shuts_a_user_out_ends_the_connection_and_keeps_the_session() -> None:
    async with running(plugins=ACCOUNTS) as broker:
        users = users_of(broker)
        await users.add("ann", CHEAP.hash("a"))
        await users.add("bob", CHEAP.hash("b"))
        bob = await broker.durable("phone", 5, username="bob", password=b"b")
        client = await phone(broker, "ann", "a")
        await client.subscribe("news", options=1)

        await users.change("ann", disabled=True)
        await shut_out(client)
        assert await login(broker, "ann", "a", "other") == WRONG, "what was remembered of the password counts no more"
        await bob.publish("news", b"1")
        await users.change("ann", disabled=False)
        client = await phone(broker, "ann", "a")
        assert (await client.message()).payload == b"1"

        await users.change("ann", hash=CHEAP.hash("c"))
        await shut_out(client)
        assert await login(broker, "ann", "a", "other") == WRONG
        client = await phone(broker, "ann", "c")

        await users.delete("ann")
        await shut_out(client)
        assert await login(broker, "ann", "c", "other") == WRONG
        await bob.ping()


async def test_who_is_shut_out_on_one_node_is_on_the_others() -> None:
    async with cluster(2, plugins=ACCOUNTS) as made:
        one, other = made.nodes
        guest = await other.client("guest", 5)
        await users_of(one).add("ann", CHEAP.hash("a"))
        await shut_out(guest)
        await until(lambda: users_of(other).all())
        client = await phone(other, "ann", "a")
        await users_of(one).change("ann", hash=CHEAP.hash("b"))
        await shut_out(client)
        client = await phone(other, "ann", "b")
        await users_of(one).delete("ann")
        await shut_out(client)
        assert await login(other, "ann", "b") == WRONG


async def test_a_login_that_is_under_way_when_the_user_is_disabled_is_refused() -> None:
    """The password was right, and another plugin is still looking."""
    gated: dict[str, Any] = {"tests.support.slow_logins.Gated": {}}
    async with running(plugins={**ACCOUNTS, **gated}, hooks={"timeout": 30}) as broker:
        users, gate = users_of(broker), broker.server.api.plugin(Gated)
        assert gate is not None
        await users.add("ann", CHEAP.hash("ann"))
        client = await broker.socket(5)
        answer = asyncio.create_task(client.connect("x", username="ann", password=b"ann"))
        await until(lambda: gate.seen)
        await users.change("ann", disabled=True)
        gate.let(5)
        assert (await answer).reason == WRONG


async def test_users_of_several_plugins_stand_side_by_side_and_a_disabled_one_is_out_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"cid:{CHEAP.hash('c')}\nbob:{CHEAP.hash('old')}\n")
    key = tmp_path / "secret"
    key.write_text("a secret of thirty-two characters or more")
    key.chmod(0o600)
    token = jwt.encode({"sub": "cid", "exp": time.time() + 600}, key.read_text(), "HS256")
    others = {"passwords": {"file": str(file)}, "jwt": {"algorithms": ["HS256"], "secret_file": str(key)}}
    async with running(plugins={**ACCOUNTS, **others}) as broker:
        users = users_of(broker)
        assert await login(broker, "cid", "c") == 0, "storage has no users yet"
        await users.add("ann", CHEAP.hash("a"))
        assert await login(broker, "ann", "a") == await login(broker, "cid", "c") == 0
        assert await login(broker, "ann", "c") == await login(broker, "eve", "a") == await login(broker, "cid", "a") == WRONG
        await users.add("bob", CHEAP.hash("new"))
        assert await login(broker, "bob", "old") == await login(broker, "bob", "new") == WRONG, "both know him, and one says no"
        await users.add("cid", CHEAP.hash("c"))
        assert await login(broker, "cid", token) == 0
        client = await phone(broker, "cid", "c")
        await users.change("cid", disabled=True)
        await shut_out(client)
        assert await login(broker, "cid", "c") == await login(broker, "cid", token) == WRONG


async def test_a_disabled_user_is_out_whatever_its_certificate_says(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    async with running(listeners=[listener(made, identity="cn")], plugins=ACCOUNTS) as broker:
        users, context = users_of(broker), made.client(with_certificate=True)
        client = await connected(broker, context)
        assert (await client.connect("x")).reason == 0
        (connection,) = broker.server.connections
        name = connection.info.identity.username
        assert name is not None
        await users.add(name, CHEAP.hash("p"))
        await client.ping()
        await users.change(name, disabled=True)
        assert await client.closed() == []
        assert await refused(broker, context)
        await users.change(name, disabled=False)
        assert not await refused(broker, context)


async def test_changes_say_what_came_of_them() -> None:
    async with running(plugins=ACCOUNTS) as broker:
        users = users_of(broker)
        one, two, three = (CHEAP.hash(word) for word in ("1", "2", "3"))
        assert await users.take({"ann": one, "bob": two}, replace=False) == Imported(2, 0, 0)
        client = await phone(broker, "ann", "1")
        assert await users.take({"ann": three, "cid": three}, replace=False) == Imported(1, 0, 1)
        before = users.all()[0]
        assert await users.change("ann", hash=one, disabled=False) == before, "nothing has changed, also not when"
        await client.ping()
        assert await users.take({"ann": three, "bob": two}, replace=True) == Imported(0, 1, 1)
        await shut_out(client)
        assert [(account.name, account.hash) for account in users.all()] == [("ann", three), ("bob", two), ("cid", three)]
        with pytest.raises(UserExists, match="'ann'"):
            await users.add("ann", one)
        for change in (users.change("eve", disabled=True), users.delete("eve")):
            with pytest.raises(NoSuchUser, match="'eve'"):
                await change
        with pytest.raises(ValueError, match="bcrypt"):
            await users.take({"new": one, "eve": "$2b$12$abc"}, replace=False)
        for wrong in ("a:b", "#a", " a", "", "a\n", "x" * 1025):
            with pytest.raises(ValueError, match="user name"):
                await users.add(wrong, one)
        assert [account.name for account in users.all()] == ["ann", "bob", "cid"]


async def test_what_cannot_be_read_of_a_user_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    async with running(plugins=ACCOUNTS, errors=True) as broker:
        await broker.server.api.commit([SaveSetting("user", "ann", b"{}")], 30)
        assert "what storage has of user 'ann' cannot be read" in caplog.text
        assert await login(broker, "ann", "") == WRONG
        assert broker.server.access.authentication.bars("ann"), "a certificate or token of that name lets nobody in either"
        await users_of(broker).change("ann", hash=CHEAP.hash("a"), disabled=False)
        assert await login(broker, "ann", "a") == 0
        await broker.server.api.commit([DropSetting("user", "ann")], 30)
        assert await login(broker, "ann", "a") == WRONG


def test_an_unknown_user_costs_what_a_wrong_password_costs() -> None:
    """In processor time, so that a busy machine is none the slower: where nothing is hashed it is a thousandth."""
    dear = argon2.PasswordHasher(time_cost=1, memory_cost=1 << 13, parallelism=1)
    known = Passwords({"device": generated()[1], "ann": dear.hash("a")})

    def cost(name: str) -> float:
        begun = time.process_time()
        assert not known.verify(name, "wrong")
        return time.process_time() - begun

    ann = min(cost("ann") for _ in range(3))
    assert min(cost("nobody") for _ in range(3)) > ann / 4
    assert min(cost("device") for _ in range(3)) > ann / 4
    known.drop("ann")
    assert not known.verify("ann", "a")


# --- over HTTP -----------------------------------------------------------------------------------------------------------


async def test_the_api_is_the_operators_and_shows_no_hash(tmp_path: Path) -> None:
    http = {"http": {**HTTP["http"], "operator_file": str(tmp_path / "operator.json")}}
    async with site(f"sqlite:///{tmp_path}/t.db", plugins={**http, **ACCOUNTS}, hooks=PATIENT) as made:
        headers = {"Authorization": f"Bearer {(tmp_path / 'operator.secret').read_text().strip()}"}
        operator = made.caller(headers=headers)
        for name, password in (("ann", "ann-password"), ("b/ö", "x"), ("zoë", "x")):
            kept = {"password": password} if name == "zoë" else {"hash": CHEAP.hash(password)}
            assert (await operator.post("/users", json={"name": name, **kept})).status_code == 201
        page = (await operator.get("/users?limit=2")).json()
        assert ([user["name"] for user in page["users"]], page["next"]) == (["ann", "b/ö"], "b/ö")
        page = (await operator.get("/users", params={"limit": 2, "after": page["next"]})).json()
        assert ([user["name"] for user in page["users"]], page["next"]) == (["zoë"], None)
        assert (await operator.get("/users/b/ö")).json()["name"] == "b/ö"
        assert (await operator.patch("/users/b/ö", json={"disabled": True})).json()["disabled"] is True
        for call, body, status in (
            ("/users", {"name": "ann", "password": "x"}, 409),
            ("/users", {"name": "new"}, 422),
            ("/users", {"name": "new", "password": "x", "hash": "y"}, 422),
            ("/users", {"name": "a:b", "password": "x"}, 422),
            ("/users", {"name": "new", "hash": "$2b$12$abc"}, 422),
            ("/users/import", {"users": {"new": "x"}}, 422),
        ):
            answer = await operator.post(call, json=body)
            assert answer.status_code == status, answer.text
        moved = {"users": {"ann": CHEAP.hash("m"), "new": CHEAP.hash("n")}}
        assert (await operator.post("/users/import", json=moved)).json() == {"added": 1, "changed": 0, "kept": 1}
        assert await login(made, "zoë", "x") == 0
        ann = made.caller("ann")
        assert (await ann.get("/me")).json() == {"user": "u/ann", "operator": False}
        issued = (await ann.post("/tokens", json={})).json()
        assert [token["id"] for token in (await operator.get("/tokens?user=u/ann")).json()["tokens"]] == [issued["id"]]
        assert (await ann.delete(f"/tokens/{issued['id']}?user=u/new")).status_code == 403
        assert (await operator.delete(f"/tokens/{issued['id']}")).status_code == 404, "it is none of the operator's own"
        assert (await operator.delete(f"/tokens/{issued['id']}?user=u/ann")).status_code == 204
        assert (await made.caller(headers={"Authorization": f"Bearer {issued['token']}"}).get("/me")).status_code == 401
        for refused in (ann.get("/users"), ann.post("/users", json={"name": "eve", "password": "e"}), ann.delete("/users/ann")):
            assert (await refused).status_code == 403
        assert (await operator.delete("/users/ann")).status_code == 204
        assert (await operator.delete("/users/ann")).status_code == 404
        assert (await ann.get("/me")).status_code == 401
        assert "argon2" not in (await operator.get("/users")).text


async def waiting(made: Site, caller: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
    """A long poll that waits."""
    api: Any = made.server.api.plugin(HttpPlugin)
    poll = asyncio.create_task(caller.get("/sync?device=laptop&wait=50"))
    await until(lambda: api._api._waiting.total() or poll.done())
    assert not poll.done(), poll.result().text
    return poll


async def test_streams_and_waits_of_whom_is_shut_out_end_at_once() -> None:
    """And are no failed logins: others may call from the same address."""
    later = [0.0]
    clocks = ServerTime(uptime=lambda: time.monotonic() + later[0])
    async with site(plugins=ACCOUNTS, limits={"failed_logins": 1}, time=clocks) as made:
        users = users_of(made)
        await users.add("ann", CHEAP.hash("ann-password"))
        ann = made.caller("ann")
        issued = (await ann.post("/tokens", json={"label": "script"})).json()
        bearer = made.caller(headers={"Authorization": f"Bearer {issued['token']}"})

        poll = await waiting(made, bearer)
        await users.add("bob", CHEAP.hash("b"))
        await (await made.client("b", 5, username="bob", password=b"b")).ping()
        assert not poll.done(), "what happens to others ends nothing"
        assert (await ann.delete(f"/tokens/{issued['id']}")).status_code == 204
        assert (await poll).status_code == 401

        issued = (await ann.post("/tokens", json={})).json()
        bearer = made.caller(headers={"Authorization": f"Bearer {issued['token']}"})
        async with bearer.stream("GET", "/sync?device=laptop", headers={"Accept": "text/event-stream"}) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "event: claim"
            await users.change("ann", disabled=True)
            said = [line async for line in lines]
        assert "event: problem" in said
        assert '"status":401' in "".join(said)
        await users.change("ann", disabled=False)
        assert (await bearer.get("/me")).status_code == 200, "the token was not revoked"

        poll, ban = await waiting(made, bearer), Ban("user", "u/ann")
        await made.server.api.commit([SaveSetting("ban", ban.key, ban.value())], 30)
        assert (await poll).status_code == 403
        await made.server.api.commit([DropSetting("ban", ban.key)], 30)

        short = (await ann.post("/tokens", json={"lifetime": 3600})).json()
        poll = await waiting(made, made.caller(headers={"Authorization": f"Bearer {short['token']}"}))
        later[0] += 3601
        assert (await poll).status_code == 401, "its token has ended"
        await users.change("ann", hash=CHEAP.hash("new"))
        assert (await bearer.get("/me")).status_code == 401, "another password revokes it"


async def test_tokens_go_with_the_password_and_with_the_user() -> None:
    """Also of many whose passwords an import replaces; a user who is made again has none of the one before."""
    async with site(plugins=ACCOUNTS) as made:
        users, bearers = users_of(made), {}
        for name in ("ann", "bob", "cid", "dan"):
            await users.add(name, CHEAP.hash(f"{name}-password"))
            token = (await made.caller(name).post("/tokens", json={})).json()["token"]
            bearers[name] = made.caller(headers={"Authorization": f"Bearer {token}"})
        await users.take({"ann": CHEAP.hash("1"), "bob": CHEAP.hash("2")}, replace=True)
        cid = next(user for user in users.all() if user.name == "cid")
        await users.delete("cid")
        await users.add("cid", cid.hash)
        found = {name: (await bearer.get("/me")).status_code for name, bearer in bearers.items()}
        assert found == {"ann": 401, "bob": 401, "cid": 401, "dan": 200}


async def test_a_token_that_is_revoked_on_one_node_ends_waits_on_another() -> None:
    plugins = {**HTTP, **ACCOUNTS, "requests": {}}
    async with cluster(2, plugins=plugins) as made:
        one, other = (Site(node) for node in made.nodes)
        try:
            await users_of(one).add("ann", CHEAP.hash("ann-password"))
            await until(lambda: users_of(other).all())
            issued = (await one.caller("ann").post("/tokens", json={})).json()
            poll = await waiting(other, other.caller(headers={"Authorization": f"Bearer {issued['token']}"}))
            assert (await one.caller("ann").delete(f"/tokens/{issued['id']}")).status_code == 204
            assert (await poll).status_code == 401
        finally:
            await one.close()
            await other.close()
