"""Client certificates: which user one names, and whether it still counts.

- The name is the certificate's one common name, its whole subject, or its one subject alternative name of a kind. None, or
  several, name nobody: the client is refused.
- One that was revoked is refused also where TLS looked at it before the list was read again: by an older handshake or session.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:  # imported where there is a certificate: few brokers have clients with one
    from cryptography import x509

Identity = Literal["cn", "dn", "san-dns", "san-uri", "san-email"]
_LONGEST = 1024


class NotAccepted(Exception):
    """Why a client's certificate lets nobody in."""


class Shown(NamedTuple):
    """What a client showed: the key of its certificate among the revoked ones, and the user whom it names."""

    key: tuple[bytes, int]
    user: str


def read(der: bytes, identity: Identity | None) -> Shown:
    """What a verified certificate says; no user without ``identity``. Raises `NotAccepted`."""
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der)
        user = "" if identity is None else checked(_name(certificate, identity), identity)
        return Shown((certificate.issuer.public_bytes(), certificate.serial_number), user)
    except ValueError as error:
        raise NotAccepted(f"the client's certificate cannot be read: {error}") from None


def checked(name: str, identity: Identity) -> str:
    """The name, where it can be a user's. Raises `NotAccepted`."""
    if not name or len(name) > _LONGEST or any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise NotAccepted(f"the client's certificate names no user: {identity} {name[:80]!r}")
    return name


def _name(certificate: x509.Certificate, identity: Identity) -> str:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    kinds = {"san-dns": x509.DNSName, "san-uri": x509.UniformResourceIdentifier, "san-email": x509.RFC822Name}
    if identity == "dn":
        return certificate.subject.rfc4514_string()
    if identity == "cn":
        names = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    else:
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names = [str(one.value) for one in found if isinstance(one, kinds[identity])]
        except x509.ExtensionNotFound:
            names = []
    if len(names) != 1:
        raise NotAccepted(f"the client's certificate has {len(names)} names of the kind {identity}, and must have one")
    return names[0]
