"""Certificates: which user a client's names, which are taken back, and what a listener serves, renews and tells of."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from broker.config import Settings
from broker.net.client_certificates import NotAccepted, read
from plugins.http import HttpPlugin
from tests.support.broker import ANONYMOUS, Broker, running
from tests.support.certificates import Certificates
from tests.support.until import until
from tests.support.wire import TIMEOUT, Client, Closed

NOBODY: dict[str, Any] = {next(iter(ANONYMOUS)): {"allow_anonymous": False}}
NAMES = {
    "cn": "phone",
    "dn": "CN=phone,O=Org",
    "san-dns": "phone.local",
    "san-uri": "spiffe://fleet/device/phone",
    "san-email": "phone@x.example",
}


def listener(certificates: Certificates, *, tls: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    files = {"certfile": str(certificates.server), "keyfile": str(certificates.server_key), "cafile": str(certificates.ca)}
    return {"name": "tcp", "bind": "127.0.0.1:0", "tls": {**files, **(tls or {})}, **values}


async def connected(broker: Broker, context: ssl.SSLContext) -> Client:
    """A client on which TLS is up, as far as it can tell."""
    reader, writer = await asyncio.open_connection(*broker.address, ssl=context, server_hostname="localhost")
    return Client(reader, writer, 4)


async def refused(broker: Broker, context: ssl.SSLContext) -> bool:
    """Whether the client does not get as far as CONNACK."""
    try:
        client = await connected(broker, context)
    except OSError:
        return True
    try:
        return (await client.connect("x")).reason != 0
    except (OSError, Closed):  # TLS 1.3 tells at the first read
        return True
    finally:
        await client.drop()


@pytest.mark.parametrize("identity", NAMES)
async def test_the_name_is_the_user(certificates: Certificates, identity: str) -> None:
    async with running(listeners=[listener(certificates, identity=identity)], plugins=NOBODY) as broker:
        client = await connected(broker, certificates.client(with_certificate=True))
        ack = await client.connect("c", username="admin", password=b"guessed")  # which counts for nothing
        assert ack.reason == 0
        (connection,) = broker.server.connections
        assert connection.info.identity.user_key == f"u/{NAMES[identity]}"
        assert connection.info.identity.username == NAMES[identity]
        await client.drop()
        without = await connected(broker, certificates.client())
        assert (await without.connect("d")).reason == 5
        await without.drop()


@pytest.mark.parametrize(
    ("common", "names", "identity", "why"),
    [
        ("a", [x509.DNSName("a.x"), x509.DNSName("b.x")], "san-dns", "has 2 names of the kind san-dns, and must have one"),
        ("a", [x509.DNSName("a.x")], "san-uri", "has 0 names of the kind san-uri"),
        ("a", [], "san-email", "has 0 names of the kind san-email"),
        ("a\x00b", [], "cn", "names no user: cn 'a\\x00b'"),
    ],
)
def test_what_names_nobody(
    certificates: Certificates, common: str, names: list[x509.GeneralName], identity: Any, why: str
) -> None:
    path, _ = certificates.issue(common, *names)
    der = ssl.PEM_cert_to_DER_cert(path.read_text())
    with pytest.raises(NotAccepted) as caught:
        read(der, identity)
    assert why in str(caught.value)


async def test_it_is_told_who_names_nobody(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    shows = certificates.issue("pump", x509.DNSName("a.x"), x509.DNSName("b.x"))
    async with running(listeners=[listener(certificates, identity="san-dns")]) as broker:
        assert await refused(broker, certificates.client(shows=shows))
        await until(lambda: "has 2 names of the kind san-dns, and must have one" in caplog.text)
        assert broker.server.counters.handshakes_failed == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_a_certificate_that_is_taken_back(certificates: Certificates, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """No new connection, also not by a TLS session that is continued; and the one that there is ends."""
    lost, other = certificates.issue("lost"), certificates.issue("other")
    crl = tmp_path / "crl.pem"
    crl.write_bytes(certificates.revoked())
    async with running(listeners=[listener(certificates, tls={"crlfile": str(crl)}, identity="cn")]) as broker:
        context = certificates.client(shows=lost)
        context.maximum_version = version
        ours, theirs = await connected(broker, context), await connected(broker, certificates.client(shows=other))
        assert (await ours.connect("a")).reason == (await theirs.connect("b")).reason == 0
        session = await asyncio.to_thread(tls_session, broker.address, context)
        crl.write_bytes(certificates.revoked(lost[0]))
        assert "listener tcp: certificate" in (await broker.server.reload()).done
        with contextlib.suppress(OSError):
            await ours.closed()
        await theirs.ping()
        assert await refused(broker, context)
        with pytest.raises(OSError):
            await asyncio.to_thread(tls_session, broker.address, context, session)
        await theirs.drop()
        await ours.drop()


async def test_it_is_taken_back_within_a_handshake(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost, crl = certificates.issue("lost"), tmp_path / "crl.pem"
    crl.write_bytes(certificates.revoked())
    async with running(listeners=[listener(certificates, tls={"crlfile": str(crl)})]) as broker:
        reader, writer = await asyncio.open_connection(*broker.address)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = certificates.client(shows=lost).wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                async with asyncio.timeout(TIMEOUT):
                    incoming.write(await reader.read(1 << 16))
        crl.write_bytes(certificates.revoked(lost[0]))
        await broker.server.reload()
        writer.write(outgoing.read())  # the certificate
        async with asyncio.timeout(TIMEOUT):
            await reader.read()
        writer.close()
        await until(lambda: "the client's certificate was revoked" in caplog.text)


def tls_session(address: tuple[str, int], context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Any:
    """Connect, also on from an earlier session, and let one packet be answered; the TLS session, if there is one."""
    with (
        socket.create_connection(address, TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as tls,
    ):
        tls.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01s")
        if tls.recv(4) != b"\x20\x02\x00\x00":
            raise ConnectionError("no CONNACK")
        return tls.session


async def test_files_that_change_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("broker.config.certificate_watch.INTERVAL", 0.02)
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = Certificates(tmp_path / "old"), Certificates(tmp_path / "new")
    async with running(listeners=[listener(old)]) as broker:
        assert not await refused(broker, old.client())
        old.server.write_bytes(new.server.read_bytes())  # its key not yet
        await until(lambda: "the old ones stay: listener tcp: tls.certfile" in caplog.text)
        assert not await refused(broker, old.client())
        old.server_key.write_bytes(new.server_key.read_bytes())
        assert await until(lambda: trusts(broker, new))
        assert caplog.text.count("the old ones stay") <= 5, "once for a change, of which writing a file is two"


async def trusts(broker: Broker, certificates: Certificates) -> bool:
    return not await refused(broker, certificates.client())


async def test_what_expires_is_told_of(certificates: Certificates, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    soon, late = certificates.issue("localhost", days=5.5), certificates.issue("localhost", days=400)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(certificates.revoked(days=0.5))
    http = {"http": {"bind": "127.0.0.1:0", "operator_file": "", "certfile": str(late[0]), "keyfile": str(late[1])}}
    tls = {"certfile": str(soon[0]), "keyfile": str(soon[1]), "crlfile": str(crl)}
    async with running(listeners=[listener(certificates, tls=tls)], plugins=http) as broker:
        told = [line for line in caplog.messages if "expires on" in line]
        assert [line.partition(" expires on ")[0] for line in told] == [
            f"listener tcp: certificate {soon[0]}",
            f"listener tcp: list of revoked certificates {crl}",
        ]
        assert told[0].endswith(", in 5.5 days")
        plugin = broker.server.api.plugin(HttpPlugin)
        assert plugin is not None
        async with httpx.AsyncClient(verify=certificates.client()) as client:
            found = (await client.get(f"https://localhost:{plugin.address[1]}/v1/health")).json()
        served = [
            (one["name"], one["what"], round(one["expires"] / 8.64e7 - time.time() / 86400, 1)) for one in found["certificates"]
        ]
        assert served == [
            ("listener tcp", "certificate", 5.5),
            ("listener tcp", "crl", 0.5),
            ("plugins.http", "certificate", 400.0),
        ]


@pytest.mark.parametrize(
    ("tls", "client", "taken"),
    [
        ({}, {"maximum_version": ssl.TLSVersion.TLSv1_2}, True),
        ({"min_version": 1.3}, {"maximum_version": ssl.TLSVersion.TLSv1_2}, False),
        ({"min_version": "1.3"}, {}, True),
        ({}, {"maximum_version": ssl.TLSVersion.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES256-SHA384"}, False),
        (
            {"ciphers": "ECDHE-ECDSA-AES256-SHA384"},
            {"maximum_version": ssl.TLSVersion.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES256-SHA384"},
            True,
        ),
    ],
)
async def test_what_is_spoken(certificates: Certificates, tls: dict[str, Any], client: dict[str, Any], taken: bool) -> None:
    async with running(listeners=[listener(certificates, tls=tls)]) as broker:
        context = certificates.client()
        if "ciphers" in client:
            context.set_ciphers(client["ciphers"])
        if "maximum_version" in client:
            context.maximum_version = client["maximum_version"]
        assert await refused(broker, context) is not taken


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"identity": "cn"}, "identity needs tls with cafile"),
        ({"identity": "cn", "tls": {"certfile": "x"}}, "identity needs tls with cafile"),
        ({"tls": {"certfile": "x", "crlfile": "y"}}, "crlfile needs cafile"),
        ({"tls": {"certfile": "x", "ciphers": "NONE-OF-THESE"}}, "must name ciphers as OpenSSL does"),
    ],
)
def test_settings(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Settings.model_validate({"listeners": [{"name": "x", "bind": "127.0.0.1:0", **values}]})
