"""SCRAM-SHA-256: the RFC's example, what is kept of a password, and clients that cheat."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from broker.access.scram import Credential, Exchange, ProofError, ScramError, prepared
from tests.support.scram_client import ScramClient

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
PENCIL = Credential.make("pencil", salt=SALT, iterations=4096)
MADE_UP = Credential(4096, b"salt", bytes(32), bytes(32))


def find(name: str) -> tuple[Credential, bool]:
    return (PENCIL, True) if name == "user" else (MADE_UP, False)


def test_the_example_of_rfc_7677() -> None:
    exchange = Exchange(find, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    challenge = exchange.first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert challenge == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    answer = exchange.final(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert answer == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert exchange.username == "user"


def run(client: ScramClient) -> Exchange:
    exchange = Exchange(find)
    client.check(exchange.final(client.final(exchange.first(client.first()))))
    return exchange


def test_who_knows_the_password_is_believed() -> None:
    assert run(ScramClient("user", "pencil")).username == "user"


@pytest.mark.parametrize(("name", "password"), [("user", "pen"), ("nobody", "pencil"), ("nobody", "")])
def test_who_does_not_is_refused_at_the_last_step(name: str, password: str) -> None:
    with pytest.raises(ProofError, match="unknown user or wrong password"):
        run(ScramClient(name, password))


def test_a_made_up_credential_lets_nobody_in() -> None:
    """Even a client that knows the keys which an unknown user was given."""
    key = b"\1" * 32
    made_up = Credential(4096, b"salt", hashlib.sha256(key).digest(), bytes(32))
    exchange = Exchange(lambda _: (made_up, False))
    client = ScramClient("nobody", "")
    challenge = exchange.first(client.first())
    nonce = challenge.split(b",")[0]
    said = client.bare + b"," + challenge + b",c=biws," + nonce
    signature = hmac.digest(made_up.stored_key, said, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))
    with pytest.raises(ProofError):
        exchange.final(b"c=biws," + nonce + b",p=" + proof)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "no client-first-message"),
        (b"n,,", "user name and nonce"),
        (b"n,,n=user", "user name and nonce"),
        (b"x,,n=user,r=abcdefgh", "channel binding flag"),
        (b"p=tls-unique,,n=user,r=abcdefgh", "channel binding is not offered"),
        (b"n,a=root,n=user,r=abcdefgh", "act as somebody else"),
        (b"n,root,n=user,r=abcdefgh", "act as somebody else"),
        (b"n,,m=x,n=user,r=abcdefgh", "user name and nonce"),
        (b"n,,n=,r=abcdefgh", "user name is empty"),
        (b"n,,n=a=2cb,r=abcdefgh", "user name is empty or not encoded"),
        (b"n,,n=user,r=abc", "nonce is too short"),
        (b"n,,n=\xff,r=abcdefgh", "not UTF-8"),
    ],
)
def test_a_first_message_that_is_none(message: bytes, why: str) -> None:
    with pytest.raises(ScramError, match=why):
        Exchange(find).first(message)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace(b"c=biws", b"c=eSws"), "channel binding is not that"),
        (lambda text: text.replace(b"c=biws", b"c=!"), "must be Base64"),
        (lambda text: text.replace(b",r=", b",r=x"), "nonce is not that"),
        (lambda text: text.partition(b",p=")[0], "proof are needed"),
        (lambda text: text.partition(b",p=")[0] + b",p=!!", "must be Base64"),
        (lambda text: text.partition(b",p=")[0] + b",p=", "wrong password"),
        (lambda text: text + b"AAAA", "Base64|wrong password"),
        (lambda text: b"", "proof are needed"),
    ],
)
def test_a_last_message_that_is_none(change, why: str) -> None:  # type: ignore[no-untyped-def]
    exchange, client = Exchange(find), ScramClient("user", "pencil")
    last = change(client.final(exchange.first(client.first())))
    with pytest.raises(ScramError, match=why):
        exchange.final(last)


def test_names_with_commas_and_equal_signs() -> None:
    credential = Credential.make("x", iterations=10)
    exchange = Exchange(lambda name: (credential, name == "a,b=c"))
    client = ScramClient("a,b=c", "x")
    client.check(exchange.final(client.final(exchange.first(client.first()))))


def test_a_credential_survives_its_text() -> None:
    assert Credential.parse(str(PENCIL)) == PENCIL
    assert PENCIL.matches("pencil")
    assert not PENCIL.matches("Pencil")
    assert not PENCIL.matches("")
    assert Credential.make("x").salt != Credential.make("x").salt


@pytest.mark.parametrize(
    "text", ["", "x", "SCRAM-SHA-256$", "SCRAM-SHA-256$0:YQ==$YQ==:YQ==", "SCRAM-SHA-256$10:YQ==$YQ==:YQ=="]
)
def test_a_credential_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        Credential.parse(text)


@pytest.mark.parametrize(
    ("password", "same"),
    [("I\u00adX", "IX"), ("\u2168", "IX"), ("\u00aa", "a"), ("a\u00a0b", "a b"), ("密码", "密码"), ("🔑", "🔑")],
)
def test_passwords_are_compared_as_they_look(password: str, same: str) -> None:
    """The examples of RFC 4013, and what it has no opinion of."""
    assert prepared(password) == same


@pytest.mark.parametrize("password", ["", "\u00ad", "\u0007", "\u0627\u0031", "a\ud800"])
def test_passwords_that_nobody_can_type(password: str) -> None:
    with pytest.raises(ValueError):
        prepared(password)
