"""The jwt plugin: which tokens count, whom they let in, for how long, and what they allow."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from broker.config import Settings, plugin_problems
from broker.packets.model import Disconnect
from tests.http.conftest import Site, passwords, site
from tests.jwt.conftest import KeyServer, Signer, public
from tests.support.broker import ANONYMOUS, Broker, running
from tests.support.until import until
from tests.support.wire import Client

__all__ = ["passwords"]
NOBODY: dict[str, Any] = {next(iter(ANONYMOUS)): False}


def plugins(signer: Signer, **values: Any) -> dict[str, Any]:
    """A broker that lets in nobody but by tokens of RS256, unless it is told otherwise."""
    keys = {} if {"secret_file", "jwks_url", "key_file"} & set(values) else {"key_file": str(signer.folder / "rsa.pem")}
    return {**NOBODY, "jwt": {"algorithms": ["RS256"], **keys, **values}}


async def login(broker: Broker, token: str, version: int = 4, client_id: str = "c", username: str = "whoever") -> int:
    """The reason code of CONNACK; the connection ends again."""
    client = await broker.socket(version)
    code = (await client.connect(client_id, username=username, password=token.encode())).reason
    await client.drop()
    return code


def by_hand(secret: bytes) -> str:
    """A token of HS256 whose secret is a public key."""
    claims = {"sub": "alice", "iss": "us", "aud": "broker", "exp": time.time() + 60}
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in ({"alg": "HS256"}, claims)]
    signature = hmac.digest(secret, b".".join(parts), "sha256")
    return b".".join((*parts, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


async def test_what_counts(signer: Signer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    strange = signer.token(key=rsa.generate_private_key(65537, 2048))
    now = time.time()
    cases = {
        "good": (signer.token(iss="us", aud=["them", "broker"]), ""),
        "expired": (signer.token(iss="us", aud="broker", exp=now - 60), "it has expired"),
        "a little": (signer.token(iss="us", aud="broker", exp=now - 5, jti="1"), ""),
        "early": (signer.token(iss="us", aud="broker", nbf=now + 60), "it does not count yet"),
        "issuer": (signer.token(iss="me", aud="broker"), "it is of another issuer"),
        "no issuer": (signer.token(aud="broker"), "it has no claim iss"),
        "audience": (signer.token(iss="us", aud="them"), "it is for another audience"),
        "no expiry": (signer.token(iss="us", aud="broker", exp=None), "it has no claim exp"),
        "no user": (signer.token(iss="us", aud="broker", sub=None), "its claim sub names no user"),
        "odd user": (signer.token(iss="us", aud="broker", sub="a\nb"), "its claim sub has a control character"),
        "other key": (strange, "no key has signed it"),
        "none": (signer.token("none", iss="us", aud="broker"), "algorithm 'none' is not one of RS256"),
        "confused": (by_hand(public(signer.rsa)), "algorithm 'HS256' is not one of RS256"),
        "ES256": (signer.token("ES256", iss="us", aud="broker"), "algorithm 'ES256' is not one of RS256"),
        "acl": (signer.token(iss="us", aud="broker", acl=["#"]), "its claim acl must be"),
        "acl action": (signer.token(iss="us", aud="broker", acl={"fly": ["#"]}), "its claim acl has 'fly'"),
        "acl filter": (signer.token(iss="us", aud="broker", acl={"publish": ["a#"]}), "its claim acl: topics"),
    }
    async with running(plugins=plugins(signer, issuer="us", audience="broker")) as broker:
        for name, (token, why) in cases.items():
            caplog.clear()
            assert await login(broker, token) == (4 if why else 0), name
            assert why in caplog.text, name
            assert not any(part in caplog.text for part in token.split(".") if len(part) > 20), f"{name}: a token is in the log"
        assert await login(broker, "x.y.z") == 4
        client = await broker.client("d", username="bob", password=cases["good"][0].encode())
        (connection,) = [one for one in broker.server.connections if one.open]
        assert connection.info.identity.user_key == "u/alice", "the user is whom the token names"
        await client.drop()


@pytest.mark.parametrize(
    ("algorithm", "setting", "name", "kid"),
    [
        ("HS512", "secret_file", "secret", ""),
        ("PS384", "key_file", "rsa.pem", ""),
        ("ES256", "key_file", "ec.pem", ""),
        ("EdDSA", "key_file", "ed.pem", ""),
        ("RS256", "key_file", "keys.json", "one"),
        ("ES256", "key_file", "keys.json", ""),
    ],
)
async def test_algorithms(signer: Signer, algorithm: str, setting: str, name: str, kid: str) -> None:
    async with running(plugins=plugins(signer, algorithms=[algorithm], **{setting: str(signer.folder / name)})) as broker:
        token = signer.token(algorithm, kid)
        assert await login(broker, token) == 0
        head, body, signature = token.split(".")
        wrong = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
        assert await login(broker, ".".join((head, body, wrong))) == 4
        assert await login(broker, signer.token(algorithm, "unknown")) == (4 if name == "keys.json" else 0)


async def test_what_it_allows(signer: Signer) -> None:
    async with running(plugins=plugins(signer)) as broker:
        allows = {"publish": ["out/{user}/#"], "subscribe": ["in/#"]}
        limited = await broker.client("a", 5, username="x", password=signer.token(acl=allows).encode())
        free = await broker.client("b", 5, username="x", password=signer.token(sub="bob").encode())
        nothing = await broker.client("n", 5, username="x", password=signer.token(sub="eve", acl={}).encode())
        assert await limited.subscribe("in/1", "out/#", "#") == [0, 0x87, 0x87]
        assert await nothing.subscribe("in/1") == [0x87]
        assert await limited.publish("out/alice/1", b"x", 1) < 0x80
        assert await limited.publish("out/bob/1", b"x", 1) == 0x87
        assert await free.publish("in/1", b"y") == 0
        assert (await limited.message()).payload == b"y"
        assert await free.subscribe("#") == [0]


async def test_a_connection_ends_with_its_token(signer: Signer) -> None:
    """Also one over HTTP that waits."""
    async with site(plugins=plugins(signer, leeway=0)) as broker:
        new, expires = await short_lived(broker, signer, 5)
        caller = broker.caller(headers={"Authorization": f"Bearer {signer.token(exp=expires + 1)}"})
        poll = asyncio.create_task(caller.get("/sync?device=laptop&wait=50"))
        (end,) = await new.closed()
        assert time.time() >= expires
        assert isinstance(end, Disconnect)
        assert end.reason == 0x87
        old, _ = await short_lived(broker, signer, 4)
        assert await old.closed() == []
        assert broker.server.clients == 0
        assert (await poll).status_code == 401


async def short_lived(broker: Broker, signer: Signer, version: int) -> tuple[Client, int]:
    """A client that was let in by a token for a moment: a longer one where the machine is slow. And when that ends."""
    for seconds in (1, 5, 30):
        expires = int(time.time()) + 1 + seconds
        client = await broker.socket(version)
        if (await client.connect("c", username="x", password=signer.token(exp=expires).encode())).reason == 0:
            return client, expires
    raise AssertionError("no token was long enough")


async def test_it_may_stay(signer: Signer) -> None:
    async with running(plugins=plugins(signer, disconnect=False)) as broker:
        client = await broker.client("c", username="x", password=signer.token().encode())
        (connection,) = broker.server.connections
        assert connection.expiry is None
        await client.drop()


async def test_a_key_file_that_is_another(signer: Signer, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(public(signer.rsa))
    async with running(plugins=plugins(signer, key_file=str(file))) as broker:
        client = await broker.client("c", 5, username="x", password=signer.token().encode())
        await broker.server.reload()
        await client.ping()
        file.write_bytes(public(rsa.generate_private_key(65537, 2048)))
        await broker.server.reload()
        (end,) = await client.closed()
        assert isinstance(end, Disconnect)
        assert end.reason == 0x98
        assert await login(broker, signer.token()) == 4


async def test_keys_from_a_url(signer: Signer, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.jwt.key_url._SOONEST", 0.05)
    async with running(plugins=plugins(signer, algorithms=["RS256", "ES256"], jwks_url=key_server.url)) as broker:
        assert await login(broker, signer.token(kid="one"), 5) == 0x88, "server unavailable: neither right nor wrong"
        assert await login(broker, signer.token(kid="one")) == 3
        key_server.body = signer.keys("one")
        assert await until(lambda: logs_in(broker, signer.token(kid="one")))
        key_server.body = {"keys": []}
        assert await login(broker, signer.token(kid="never")) == 4, "it is away, but the last keys are known"
        assert await login(broker, signer.token(kid="one")) == 0
        held = await broker.client("held", 5, username="x", password=signer.token(kid="one").encode())
        other = await broker.client("other", 5, username="x", password=signer.token("ES256", "ec").encode())
        asked = key_server.asked
        key_server.body = signer.keys("two")
        monkeypatch.setattr("plugins.jwt.key_url._ASK_EVERY", 0.0)
        assert await until(lambda: logs_in(broker, signer.token(kid="two"))), "a key that is new is asked for"
        assert key_server.asked > asked
        assert await login(broker, signer.token(kid="one")) == 4, "and one that is gone counts no more"
        (end,) = await held.closed()
        assert isinstance(end, Disconnect), "also where it had let somebody in"
        await other.ping()
        key_server.body = None
        await broker.server.reload()
        await other.ping()
        assert await login(broker, signer.token(kid="two")) == 0, "a reload forgets no keys"


async def logs_in(broker: Broker, token: str) -> bool:
    return await login(broker, token) == 0


async def test_over_http_and_beside_passwords(signer: Signer, passwords: Any) -> None:
    file = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(passwords)}}
    async with site(plugins={**plugins(signer), **file}) as made:
        assert await me(made, signer.token()) == (200, "u/alice")
        assert await me(made, signer.token(exp=time.time() - 60)) == (401, None)
        assert await me(made, signer.token("none")) == (401, None)
        assert await me(made, "tl_unknown") == (401, None)
        assert (await made.caller().get("/me", auth=("alice", signer.token(sub="carol")))).json()["user"] == "u/carol"
        assert (await made.caller("alice").get("/me")).json()["user"] == "u/alice", "by her password"
        assert await login(made, signer.token(sub="bob"), username="alice") == 0, (
            "who sends a token is not asked for a password"
        )
        assert await login(made, "alice-password", username="alice") == 0
        assert await login(made, "wrong", username="alice") == 4


async def me(made: Site, token: str) -> tuple[int, str | None]:
    answer = await made.caller(headers={"Authorization": f"Bearer {token}"}).get("/me")
    return answer.status_code, answer.json().get("user")


async def test_in_the_user_name(signer: Signer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with running(plugins=plugins(signer, token_in="username")) as broker:
        good, bad = signer.token(), signer.token(exp=time.time() - 60)
        for token, code in ((good, 0), (bad, 4)):
            client = await broker.socket()
            assert (await client.connect("c", username=token)).reason == code
            await client.drop()
            assert token[:20] not in caplog.text  # of a long name, the beginning is what is logged


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"algorithms": ["none"]}, "'none' must be of HS256"),
        ({"algorithms": []}, "[] must be of HS256"),
        ({"algorithms": ["HS256", "RS256"]}, "must not have HS beside others"),
        ({"jwks_url": "https://x.example/keys", "key_file": "rsa.pem"}, "one of secret_file, key_file and jwks_url"),
        ({"algorithms": ["HS256"], "key_file": "short"}, "key_file: {folder}/short: not JSON, nor PEM"),
        ({"algorithms": ["HS256"], "secret_file": "short"}, "secret_file: {folder}/short has 6 bytes: a secret needs 32"),
        ({"algorithms": ["HS256"], "secret_file": "rsa.pem"}, "secret_file: {folder}/rsa.pem is a PEM file"),
        ({"secret_file": "secret"}, "secret_file does not go with algorithms RS256"),
        ({"key_file": "missing"}, "key_file: cannot read {folder}/missing: No such file"),
        ({"jwks_url": "http://x.example/keys"}, "must be https:// where it leaves this machine"),
        ({"token_in": "topic"}, "token_in: 'topic' must be password or username"),
        ({"leeway": "soon"}, "leeway: 'soon' must be a duration"),
    ],
)
def test_settings(signer: Signer, values: dict[str, Any], problem: str) -> None:
    files: dict[str, Any] = {name: str(signer.folder / values[name]) for name in ("key_file", "secret_file") if name in values}
    loaded = Settings.model_validate({"plugins": plugins(signer, **{**values, **files})})
    (found,) = plugin_problems(loaded)
    assert problem.replace("{folder}", str(signer.folder)) in found
