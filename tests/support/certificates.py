"""Certificates for TLS tests, made anew in each run: a root, a server's for localhost, and one device's, as PEM files."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM
_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Certificates:
    """The files' paths, and contexts for clients that trust the root."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.server, self.server_key = folder / "ca.crt", folder / "server.crt", folder / "server.key"
        self.device, self.device_key = folder / "device.crt", folder / "device.key"
        self.encrypted_key = folder / "encrypted.key"
        self._folder = folder
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self.ca.write_bytes(self._signed("Root", self._root_key, [], access=True))
        server_key, device_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.server.write_bytes(self._signed("localhost", server_key, [x509.DNSName("localhost")]))
        device_uri = x509.UniformResourceIdentifier("spiffe://fleet/device/phone")
        self.device.write_bytes(
            self._signed("phone", device_key, [device_uri, x509.DNSName("phone.local"), x509.RFC822Name("phone@x.example")])
        )
        for path, key in ((self.server_key, server_key), (self.device_key, device_key)):
            path.write_bytes(_written(key, serialization.NoEncryption()))
        self.encrypted_key.write_bytes(_written(server_key, serialization.BestAvailableEncryption(b"secret")))

    def issue(self, name: str, *names: x509.GeneralName, days: float = 1.0) -> tuple[Path, Path]:
        """A certificate with this common name, and these alternative ones, and its key: new files each time."""
        key = ec.generate_private_key(ec.SECP256R1())
        stem = f"{x509.random_serial_number()}"
        certificate, private = self._folder / f"{stem}.crt", self._folder / f"{stem}.key"
        certificate.write_bytes(self._signed(name, key, list(names), days=days))
        private.write_bytes(_written(key, serialization.NoEncryption()))
        return certificate, private

    def revoked(self, *certificates: Path, days: float = 1.0) -> bytes:
        """The list that takes these certificates back."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(_named("Root")).last_update(now - timedelta(hours=1))
        builder = builder.next_update(now + timedelta(days=days))
        for path in certificates:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(one)
        return builder.sign(self._root_key, hashes.SHA256()).public_bytes(_PEM)

    def _signed(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        *,
        access: bool = False,
        days: float = 1.0,
    ) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named("Root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=access, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._root_key.public_key()), critical=False)
        )
        if access:
            builder = builder.add_extension(_SIGNS, critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._root_key, hashes.SHA256()).public_bytes(_PEM)

    def client(self, *, with_certificate: bool = False, shows: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client needs to trust the server, and with a certificate, the device's or another, to be known itself."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if with_certificate:
            shows = self.device, self.device_key
        if shows is not None:
            context.load_cert_chain(*shows)
        return context


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Org"), x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _written(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.TraditionalOpenSSL, encryption)
