"""The certificates of what listens, as contexts for TLS, and how they are renewed while it listens."""

from __future__ import annotations

import ssl

from broker.config.settings import Tls
from broker.errors import StartError


class Certificate:
    """The certificates of one listener. ``context`` is what its sockets are made with: each handshake gets the latest.

    Whether clients must show a certificate is fixed by the first. Raises `StartError` as `server_context` does.
    """

    def __init__(self, where: str, tls: Tls, protocol: str) -> None:
        self._where = where
        self._protocol = protocol
        self.context = self._latest = server_context(where, tls, protocol)
        self.context.sni_callback = self._choose

    def renew(self, tls: Tls) -> None:
        """Serve these from now on. Reads files. Raises `StartError`, and the old ones stay."""
        self._latest = server_context(self._where, tls, self._protocol)

    def _choose(self, connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        """A handshake begins, with or without a server name. (Loading into the old context would keep an old key of another
        kind beside the new one, and serve it to clients that prefer it.)"""
        connection.context = self._latest


def server_context(where: str, tls: Tls, protocol: str) -> ssl.SSLContext:
    """TLS 1.2 and up, with these certificates, for an ALPN protocol.

    Raises `StartError` naming the file that does not serve; ``where`` stands before the setting's name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols([protocol])
    _load_certificates(context, where, tls)
    if tls.cafile is not None:
        # Without the requirement a certificate is still checked if there is one, for plugins that ask for it.
        context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
    return context


def _load_certificates(context: ssl.SSLContext, where: str, tls: Tls) -> None:
    def no_passphrase() -> str:
        raise ValueError("encrypted")  # rather than a prompt on the terminal

    for field, path in (("certfile", tls.certfile), ("keyfile", tls.keyfile), ("cafile", tls.cafile)):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise StartError(f"{where}{field} {path}: {(error.strerror or str(error)).lower()}") from error
    key = tls.keyfile or tls.certfile
    try:
        context.load_cert_chain(tls.certfile, tls.keyfile, no_passphrase)
    except ValueError as error:
        raise StartError(f"{where}keyfile {key}: is encrypted; give one without a passphrase") from error
    except ssl.SSLError as error:
        why = (
            "the key does not belong to the certificate"
            if error.reason == "KEY_VALUES_MISMATCH"
            else "not a PEM certificate and key"
        )
        raise StartError(f"{where}certfile {tls.certfile} with key {key}: {why}") from error
    if tls.cafile is not None:
        try:
            context.load_verify_locations(tls.cafile)
        except ssl.SSLError as error:
            raise StartError(f"{where}cafile {tls.cafile}: not PEM certificates") from error
