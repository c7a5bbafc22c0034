"""The keys that tokens are signed with: a shared secret, public keys in PEM, or a set of JWKs in a file or at a URL.

Each key is of one family, and checks signatures of that family's algorithms alone: a public key is never a shared secret
(RFC 8725 2.1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from jwt import PyJWK
from jwt.exceptions import PyJWTError

FAMILIES = {
    "HS256": "HS",
    "HS384": "HS",
    "HS512": "HS",
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "PS256": "RSA",
    "PS384": "RSA",
    "PS512": "RSA",
    "ES256": "EC",
    "ES384": "EC",
    "ES512": "EC",
    "EdDSA": "OKP",
}
"""Algorithm → kind of key. There is no "none" among them."""

_SHORTEST = 32
_MOST = 100
_BEGIN = "-----BEGIN "


class Key(NamedTuple):
    """A key, its name in tokens or nothing, its family, and the one algorithm that it is for, or nothing."""

    key: Any
    name: str
    family: str
    algorithm: str = ""

    @property
    def id(self) -> str:
        """Tells it from every other, also from one of that name."""
        if isinstance(self.key, bytes):
            content = self.key
        else:
            content = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"jwt {self.name} {hashlib.sha256(content).hexdigest()}"


class Keys:
    """Some keys, as tokens ask for them."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = list(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def ids(self) -> frozenset[str]:
        """The `Key.id` of each."""
        return frozenset(key.id for key in self._keys)

    def fitting(self, algorithm: str, name: str | None) -> list[Key]:
        """Those that a token with this header may be signed with."""
        family = FAMILIES[algorithm]
        return [
            key
            for key in self._keys
            if key.family == family and key.algorithm in ("", algorithm) and (name is None or key.name in ("", name))
        ]


def secret(path: Path) -> Keys:
    """A shared secret: the file's content, without a line's end. Raises ValueError."""
    try:
        value = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if len(value) < _SHORTEST:
        raise ValueError(f"{path} has {len(value)} bytes: a secret needs {_SHORTEST} or more (openssl rand -hex 32)")
    if value.lstrip().startswith(_BEGIN.encode()):
        raise ValueError(f"{path} is a PEM file, which is no shared secret; name it as key_file")
    return Keys([Key(value, "", "HS")])


def file(path: Path) -> Keys:
    """Public keys or certificates in PEM, or a set of JWKs. Raises ValueError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"cannot read {path}: {reason}") from error
    try:
        return pem(text) if _BEGIN in text else jwks(text, secrets=True)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def pem(text: str) -> Keys:
    """Every public key and certificate of a PEM text. Raises ValueError."""
    keys = []
    for part in text.split(_BEGIN)[1:]:
        block = (_BEGIN + part).encode()
        if part.startswith("CERTIFICATE-----"):
            found: Any = x509.load_pem_x509_certificate(block).public_key()
        elif "PRIVATE KEY-----" in part.partition("\n")[0]:
            raise ValueError("has a private key; give the public one, which is all that is needed here")
        else:
            try:
                found = load_pem_public_key(block)
            except ValueError:
                raise ValueError("not a public key or certificate in PEM") from None
        family = _family(found)
        if not family:
            raise ValueError("a public key must be RSA, of an elliptic curve, or Ed25519")
        keys.append(Key(found, "", family))
    return Keys(keys)


def _family(key: object) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "EC"
    return "OKP" if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) else ""


def jwks(text: str | bytes, *, secrets: bool) -> Keys:
    """A set of JWKs (RFC 7517 5). Of kinds and uses that are not ours nothing is kept. ``secrets``: whether it may have
    shared ones. Raises ValueError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON, nor PEM") from None
    found = data.get("keys") if isinstance(data, Mapping) else None
    if not isinstance(found, list):
        raise ValueError('must be a set of JWKs: {"keys": [...]}')
    if len(found) > _MOST:
        raise ValueError(f"has {len(found)} keys: must be {_MOST} at most")
    keys = [key for one in found if isinstance(one, Mapping) and (key := _jwk(one, secrets)) is not None]
    if not keys:
        raise ValueError("has no key that signs tokens")
    return Keys(keys)


def _jwk(data: Mapping[str, Any], secrets: bool) -> Key | None:
    kind, name, algorithm = data.get("kty"), data.get("kid"), data.get("alg") or ""
    family = {"RSA": "RSA", "EC": "EC", "OKP": "OKP", "oct": "HS"}.get(str(kind), "")
    if not family or data.get("use", "sig") != "sig" or (algorithm and FAMILIES.get(algorithm) != family):
        return None
    if family == "HS" and not secrets:
        return None
    try:
        default = {"RSA": "RS256", "HS": "HS256", "OKP": "EdDSA"}.get(family)
        key = PyJWK(dict(data), algorithm or default).key
    except PyJWTError as error:
        raise ValueError(f"key {str(name)[:80]!r} cannot be used: {type(error).__name__}") from None
    if family == "HS" and (not isinstance(key, bytes) or len(key) < _SHORTEST):
        raise ValueError(f"key {str(name)[:80]!r}: a secret needs {_SHORTEST} bytes or more")
    public = getattr(key, "public_key", None)  # of a private one that somebody put there
    return Key(key if public is None else public(), str(name or ""), family, str(algorithm))
