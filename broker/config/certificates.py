"""The certificates of what listens, as contexts for TLS, and how they are renewed while it listens."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from broker.config.settings import Tls
from broker.errors import StartError

if TYPE_CHECKING:  # imported where there is a certificate: a tenth of what a broker without one imports
    from cryptography import x509

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption. Those of 1.3 all have both."""

_FIELDS = ("certfile", "keyfile", "cafile", "crlfile")
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Expiry(NamedTuple):
    """How long something of a listener serves. ``not_after`` is ms since 1970."""

    name: str
    """``listener mqtt``, ``plugins.http``."""
    what: str
    """``certificate``, of which the first of the chain to expire counts, or ``crl``."""
    file: str
    not_after: int


class Certificate:
    """The certificates of one listener. Its handshakes begin with ``latest``; where sockets are made with one context for all
    time, with ``context``, which gives each handshake the latest.

    Whether clients must show a certificate is fixed by the first. Raises `StartError` as `server_context` does.
    """

    def __init__(self, where: str, tls: Tls, protocol: str) -> None:
        self._where = where
        self._protocol = protocol
        self._tried: object = None
        self.tls = tls
        self.expiries: list[Expiry] = []
        self.revoked: frozenset[tuple[bytes, int]] = frozenset()
        """(issuer, serial number) of the client certificates that count no more."""
        self.renew(tls)
        self.context = server_context(where, tls, protocol)
        self.context.sni_callback = self._choose

    @property
    def name(self) -> str:
        """Whose certificates they are, for people."""
        return self._where.removesuffix("tls.").rstrip(": ")

    def renew(self, tls: Tls) -> None:
        """Serve these from now on. Reads files. Raises `StartError`, and the old ones stay."""
        self._tried = _state(tls)
        latest = server_context(self._where, tls, self._protocol)
        expiries, revoked = [_served(self.name, tls)], frozenset[tuple[bytes, int]]()
        if tls.crlfile is not None:
            lists = _crls(tls.crlfile)
            revoked = frozenset((one.issuer.public_bytes(), each.serial_number) for one in lists for each in one)
            ends = [one.next_update_utc for one in lists if one.next_update_utc is not None]
            if ends:
                expiries.append(Expiry(self.name, "crl", str(tls.crlfile), int(min(ends).timestamp() * 1000)))
        self.latest, self.tls, self.expiries, self.revoked = latest, tls, expiries, revoked

    def renew_if_changed(self) -> bool:
        """The same, where the files are others than when they were last looked at. Raises `StartError` once for a change."""
        if _state(self.tls) == self._tried:
            return False
        self.renew(self.tls)
        return True

    def _choose(self, connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        """A handshake begins, with or without a server name. (Loading into the old context would keep an old key of another
        kind beside the new one, and serve it to clients that prefer it.)"""
        connection.context = self.latest


def server_context(where: str, tls: Tls, protocol: str) -> ssl.SSLContext:
    """TLS 1.2 and up, with these certificates, for an ALPN protocol.

    Raises `StartError` naming the file that does not serve; ``where`` stands before the setting's name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.set_ciphers(tls.ciphers or CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols([protocol])
    # TLS 1.3 gives each client two tickets by default, for two connections at once. A device has one, which each new
    # connection replaces; one more costs a tenth of the handshake.
    context.num_tickets = 1
    for problem in certificate_faults(context, where, tls):
        raise StartError(problem)
    if tls.cafile is not None:
        # Without the requirement a certificate is still checked if there is one, for plugins that ask for it.
        context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
        # A session that is continued would be one whose certificate is not looked at again.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    if tls.crlfile is not None:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def certificate_faults(context: ssl.SSLContext, where: str, tls: Tls, *, forbidden: bool = True) -> Iterator[str]:
    """Load the certificates; which of the files does not serve, and why, a line each. ``forbidden``: whether to tell of those
    that this user may not read."""

    def no_passphrase() -> str:
        raise ValueError("encrypted")  # rather than a prompt on the terminal

    unreadable = set()
    for field in _FIELDS:
        path: Path | None = getattr(tls, field)
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            unreadable.add(path)
            if forbidden or not isinstance(error, PermissionError):
                yield f"{where}{field} {path}: {(error.strerror or str(error)).lower()}"
    key = tls.keyfile or tls.certfile
    if unreadable.isdisjoint((tls.certfile, key)):
        try:
            context.load_cert_chain(tls.certfile, tls.keyfile, no_passphrase)
        except ValueError:
            yield f"{where}keyfile {key}: is encrypted; give one without a passphrase"
        except ssl.SSLError as error:
            mismatch = error.reason == "KEY_VALUES_MISMATCH"
            why = "the key does not belong to the certificate" if mismatch else "not a PEM certificate and key"
            yield f"{where}certfile {tls.certfile} with key {key}: {why}"
    if tls.cafile is not None and tls.cafile not in unreadable:
        try:
            context.load_verify_locations(tls.cafile)
        except ssl.SSLError:
            yield f"{where}cafile {tls.cafile}: not PEM certificates"
    if tls.crlfile is not None and tls.crlfile not in unreadable:
        try:
            _crls(tls.crlfile)
            context.load_verify_locations(tls.crlfile)
        except (ssl.SSLError, ValueError):
            yield f"{where}crlfile {tls.crlfile}: not PEM certificate revocation lists"


def _served(name: str, tls: Tls) -> Expiry:
    from cryptography import x509

    chain = x509.load_pem_x509_certificates(tls.certfile.read_bytes())
    first = min(one.not_valid_after_utc for one in chain)
    return Expiry(name, "certificate", str(tls.certfile), int(first.timestamp() * 1000))


def _crls(path: Path) -> list[x509.CertificateRevocationList]:
    """Every list of a file; raises ValueError where there is none."""
    from cryptography import x509

    begin, end = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
    found = [x509.load_pem_x509_crl(begin + part.partition(end)[0] + end) for part in path.read_bytes().split(begin)[1:]]
    if not found:
        raise ValueError("no list")
    return found


def _state(tls: Tls) -> tuple[object, ...]:
    """Differs once a file is another one, or has other content."""
    return tuple(_file_state(getattr(tls, field)) for field in _FIELDS)


def _file_state(path: Path | None) -> object:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino
