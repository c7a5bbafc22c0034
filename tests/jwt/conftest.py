"""Keys made anew in each run, tokens that they sign, and a server that has a set of keys, or is away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

SECRET = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"


class Signer:
    """Private keys of each kind, and what is public of them in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()
        for name, key in (("rsa", self.rsa), ("ec", self.ec), ("ed", self.ed)):
            (folder / f"{name}.pem").write_bytes(public(key))
        (folder / "secret").write_text(SECRET + "\n")
        (folder / "short").write_text("secret")
        (folder / "keys.json").write_text(json.dumps(self.keys("one")))

    def keys(self, name: str) -> dict[str, Any]:
        """A set with the RSA and the EC key, under this name and ``ec``."""
        first = {**RSAAlgorithm.to_jwk(self.rsa.public_key(), as_dict=True), "kid": name, "use": "sig"}
        return {"keys": [first, {**ECAlgorithm.to_jwk(self.ec.public_key(), as_dict=True), "kid": "ec", "alg": "ES256"}]}

    def token(self, algorithm: str = "RS256", kid: str = "", key: Any = None, **claims: Any) -> str:
        """A token for alice, good for an hour; a claim that is None is left out."""
        said = {"sub": "alice", "exp": time.time() + 3600, **claims}
        kind: Any = {"RS": self.rsa, "PS": self.rsa, "ES": self.ec, "Ed": self.ed, "HS": SECRET, "no": None}[algorithm[:2]]
        found = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(found, key or kind, algorithm, headers={"kid": kid} if kid else None)


def public(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("jwt"))


class KeyServer:
    """Answers every request with ``body``; 503 while there is none."""

    def __init__(self) -> None:
        self.body: dict[str, Any] | None = None
        self.asked = 0
        self._server: asyncio.Server

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/keys"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        self.asked += 1
        body = json.dumps(self.body).encode() if self.body is not None else b""
        status = "200 OK" if body else "503 Away"
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    async def stop(self) -> None:
        self._server.close()


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    server = KeyServer()
    await server.start()
    yield server
    await server.stop()
