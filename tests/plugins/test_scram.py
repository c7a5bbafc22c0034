"""SCRAM-SHA-256 by AUTH: the RFC's example, and clients that cheat."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path

import pytest
from amqtt.contexts import BaseContext

from broker.access.scram import Credential
from broker.hooks import Accepted, AuthStart, Challenge, Denied
from broker.packets.codes import ReasonCode
from plugins.scram import ScramPlugin, _Steps
from tests.support.scram_client import ScramClient

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
PENCIL = Credential.make("pencil", salt=SALT, iterations=4096)
MADE_UP = Credential(4096, bytes(16), bytes(32), bytes(32))


def find(name: str) -> tuple[str, Credential, bool]:
    return (name, PENCIL, True) if name == "user" else (name, MADE_UP, False)


async def test_the_example_of_rfc_7677() -> None:
    exchange = _Steps(find, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    challenge = await exchange.step(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert isinstance(challenge, Challenge)
    assert challenge.data == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    answer = await exchange.step(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert answer == Accepted("user", b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


async def run(client: ScramClient, exchange: _Steps) -> str:
    """The user who is accepted."""
    challenge = await exchange.step(client.first())
    assert isinstance(challenge, Challenge)
    answer = await exchange.step(client.final(challenge.data))
    assert isinstance(answer, Accepted)
    client.check(answer.data)
    return answer.username


async def test_who_knows_the_password_is_believed() -> None:
    assert await run(ScramClient("user", "pencil"), _Steps(find)) == "user"


@pytest.mark.parametrize(("name", "password"), [("user", "pen"), ("nobody", "pencil"), ("nobody", "")])
async def test_who_does_not_is_refused_at_the_last_step(name: str, password: str) -> None:
    with pytest.raises(Denied, match="unknown user or wrong password") as refused:
        await run(ScramClient(name, password), _Steps(find))
    assert refused.value.code == ReasonCode.BAD_USER_NAME_OR_PASSWORD


async def test_a_made_up_credential_lets_nobody_in() -> None:
    """Even a client that knows the keys which an unknown user was given."""
    key = b"\1" * 32
    made_up = Credential(4096, bytes(16), hashlib.sha256(key).digest(), bytes(32))
    exchange = _Steps(lambda name: (name, made_up, False))
    client = ScramClient("nobody", "")
    first = await exchange.step(client.first())
    assert isinstance(first, Challenge)
    challenge = first.data
    nonce = challenge.split(b",")[0]
    said = client.bare + b"," + challenge + b",c=biws," + nonce
    signature = hmac.digest(made_up.stored_key, said, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))
    with pytest.raises(Denied, match="unknown user"):
        await exchange.step(b"c=biws," + nonce + b",p=" + proof)


@pytest.mark.parametrize(
    "message",
    [
        b"n",
        b"n,,",
        b"n,,n=user",
        b"x,,n=user,r=abcdefgh",
        b"p=tls-unique,,n=user,r=abcdefgh",
        b"n,a=root,n=user,r=abcdefgh",
        b"n,root,n=user,r=abcdefgh",
        b"n,,m=x,n=user,r=abcdefgh",
        b"n,,n=,r=abcdefgh",
        b"n,,n=a=2cb,r=abcdefgh",
        b"n,,n=user,r=",
        b"n,,n=\xff,r=abcdefgh",
        b"n,,n=user,r=a\x00b",
    ],
)
async def test_a_first_message_that_is_none(message: bytes) -> None:
    with pytest.raises(Denied) as refused:
        await _Steps(find).step(message)
    assert refused.value.code == ReasonCode.NOT_AUTHORIZED


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"c=biws", b"c=eSws"),
        lambda text: text.replace(b"c=biws", b"c=!"),
        lambda text: text.replace(b",r=", b",r=x"),
        lambda text: text.partition(b",p=")[0],
        lambda text: text.partition(b",p=")[0] + b",p=!!",
        lambda text: text.partition(b",p=")[0] + b",p=",
        lambda text: text + b"AAAA",
        lambda text: text.partition(b",p=")[0] + b",p=" + base64.b64encode(bytes(31)),
        lambda text: b"",
        lambda text: b"\xff",
    ],
)
async def test_a_last_message_that_is_none(change: Callable[[bytes], bytes]) -> None:
    exchange, client = _Steps(find), ScramClient("user", "pencil")
    challenge = await exchange.step(client.first())
    assert isinstance(challenge, Challenge)
    with pytest.raises(Denied):
        await exchange.step(change(client.final(challenge.data)))


async def test_an_exchange_goes_one_way() -> None:
    exchange, client = _Steps(find), ScramClient("user", "pencil")
    await exchange.step(client.first())
    with pytest.raises(Denied):
        await exchange.step(client.first())


@pytest.mark.parametrize("name", ["a,b=c", "Ⅸ", "a\u00a0b", "李雷"])
async def test_names_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    """With commas and equal signs, and compared as SASLprep has them."""
    (tmp_path / "users").write_text(f"{name}:{Credential.make('x', iterations=4096)}\n")
    context = BaseContext()
    context.config = ScramPlugin.Config(file=str(tmp_path / "users"))
    exchange = ScramPlugin(context).begin(AuthStart("SCRAM-SHA-256", "c", None, "", None, None))
    assert isinstance(exchange, _Steps)
    assert await run(ScramClient(name, "x"), exchange) == name
