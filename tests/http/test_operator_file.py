"""A command on this machine is the operator, by a file that only the broker's owner can read."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from broker.cli import ask
from broker.cli.ask import RunningBroker, running_broker
from broker.cli.settings import Failure
from broker.config.settings import Settings
from tests.http.conftest import HTTP, Site

Sites = Callable[..., AbstractAsyncContextManager[Site]]


def _http(path: Path, **options: Any) -> dict[str, Any]:
    return {"http": {**HTTP["http"], "operator_file": str(path), **options}}


def _found(path: Path) -> RunningBroker | None:
    return running_broker(Settings.model_validate({"plugins": _http(path)}))


async def test_the_file_makes_an_operator_and_ends_with_the_broker(sites: Sites, tmp_path: Path) -> None:
    path = tmp_path / "made" / "operator.json"
    async with sites(plugins=_http(path)) as made:
        assert path.stat().st_mode & 0o777 == 0o600
        assert json.loads(path.read_text())["url"] == made.url
        asked = await asyncio.to_thread(_found, path)
        assert asked is not None
        assert await asyncio.to_thread(asked.get, "/me") == {"user": "b/operator", "operator": True}
        wrong = {"Authorization": "Bearer " + "x" * len(asked.secret)}
        assert (await made.caller(headers=wrong).get("/me")).status_code == 401
        assert (await made.caller().get("/me")).status_code == 401
    assert not path.exists()
    assert await asyncio.to_thread(_found, path) is None


async def test_a_secret_beside_it_outlives_the_broker_and_is_rolled_by_a_reload(sites: Sites, tmp_path: Path) -> None:
    path, kept = tmp_path / "made" / "operator.json", tmp_path / "made" / "operator.secret"

    async def status(made: Site, secret: str) -> int:
        return (await made.caller(headers={"Authorization": f"Bearer {secret}"}).get("/users")).status_code

    plugins = {**_http(path), "accounts": {}}
    async with sites(plugins=plugins):
        assert kept.stat().st_mode & 0o777 == 0o600
        first = kept.read_text().strip()
        assert first != json.loads(path.read_text())["secret"], "a command's secret is worth nothing after the broker"
    async with sites(plugins=plugins, errors=True) as made:
        assert kept.read_text().strip() == first
        assert await status(made, first) == 200
        kept.unlink()
        assert await status(made, first) == 200, "until the broker is told"
        assert "plugins.http: operator secret" in (await made.server.reload()).done
        second = kept.read_text().strip()
        assert (await status(made, first), await status(made, second)) == (401, 200)
        kept.write_text("short\n")
        assert any("operator.secret must be one word" in line for line in (await made.server.reload()).failed)
        assert await status(made, second) == 200
        kept.write_text("a-secret-of-an-administrator\n")
        assert "plugins.http: operator secret" in (await made.server.reload()).done
        assert await status(made, "a-secret-of-an-administrator") == 200
        assert "plugins.http: operator secret" not in (await made.server.reload()).done


async def test_without_a_file_no_secret_is_accepted(users: Site) -> None:
    for header in ("Bearer", "Bearer x", "Bearer None"):
        assert (await users.caller(headers={"Authorization": header}).get("/me")).status_code == 401


async def test_another_brokers_file_is_left_alone(sites: Sites, tmp_path: Path) -> None:
    path = tmp_path / "operator.json"
    async with sites(plugins=_http(path)):
        async with sites(plugins=_http(path)) as second:
            assert json.loads(path.read_text())["url"] == second.url
        assert not path.exists()
        path.write_text('{"url": "http://127.0.0.1:9", "secret": "somebody else\'s"}')
    assert path.exists()
    assert await asyncio.to_thread(_found, path) is None, "left behind, and nobody listens"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": 1'])
def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "operator.json"
    path.write_text(text)
    with pytest.raises(Failure, match=r"operator\.json cannot be read"):
        _found(path)


async def test_what_the_broker_says_against_it_is_told(sites: Sites, tmp_path: Path) -> None:
    path = tmp_path / "operator.json"
    async with sites(plugins=_http(path)):
        asked = await asyncio.to_thread(_found, path)
        assert asked is not None
        with pytest.raises(Failure, match="no-such-device"):
            await asyncio.to_thread(asked.delete, "/devices/no-such-device")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_over_tls_the_brokers_own_certificate_is_trusted_and_no_other(sites: Sites, tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}.example", "-days", "2"]
        make += ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        await asyncio.to_thread(subprocess.run, make, check=True, capture_output=True)
    path = tmp_path / "operator.json"
    tls = {"certfile": str(tmp_path / "ours.pem"), "keyfile": str(tmp_path / "ours.key")}
    async with sites(plugins=_http(path, **tls)):
        asked = await asyncio.to_thread(_found, path)
        assert asked is not None
        assert asked.url.startswith("https://")
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "certfile": str(tmp_path / "theirs.pem")}))
        with pytest.raises(Failure, match=r"cannot be asked: .*CERTIFICATE_VERIFY_FAILED"):
            await asyncio.to_thread(_found, path)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "did not answer in 0.2 s"),
        (b"HTTP/1.1 503 busy\r\nContent-Length: 0\r\n\r\n", "answered 503: the broker answers 503 busy"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "cannot be asked: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "answers what is no JSON"),
    ],
)
async def test_one_that_does_not_answer_as_it_should_is_not_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes, told: str
) -> None:
    """Beside it the command would open the data itself, and say that it is in use."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if not answer:
            await reader.read()  # until the command has had enough
        writer.close()

    if not answer:
        monkeypatch.setattr(ask, "_PATIENCE", 0.2)
    server = await asyncio.start_server(served, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = tmp_path / "operator.json"
    path.write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "secret": "x"}))
    async with server:
        with pytest.raises(Failure) as failed:
            await asyncio.to_thread(_found, path)
    assert told in str(failed.value.message)
    assert f"if no broker runs, remove {path}" in str(failed.value.message)
