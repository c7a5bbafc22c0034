"""SCRAM-SHA-256: what is kept of a password."""

from __future__ import annotations

import base64

import pytest

from broker.access.scram import Credential, prepared

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
PENCIL = Credential.make("pencil", salt=SALT, iterations=4096)


def test_a_credential_survives_its_text() -> None:
    assert Credential.parse(str(PENCIL)) == PENCIL
    assert PENCIL.matches("pencil")
    assert not PENCIL.matches("Pencil")
    assert not PENCIL.matches("")
    assert Credential.make("x").salt != Credential.make("x").salt


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$0:YQ==$YQ==:YQ==",
        str(PENCIL).replace("4096", "4095"),
        str(PENCIL).replace("4096", "10000001"),
        str(PENCIL).replace("W22ZaJ0S", ""),
        str(PENCIL)[:-4],
    ],
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
