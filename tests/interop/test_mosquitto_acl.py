"""A mosquitto (Debian: mosquitto) and its mosquitto_passwd: their files mean the same here."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.access.filter_tree import Caller
from broker.access.mosquitto_acl import MosquittoAcl
from broker.access.password_file import Passwords, read
from broker.access.rule_set import decide
from broker.packets.codes import ReasonCode
from broker.packets.model import PingReq, PingResp, Publish
from tests.access.test_live import publishes
from tests.interop.programs import Program, needs, ok
from tests.support.laws_process import free_port
from tests.support.wire import Client

pytestmark = [needs("mosquitto", "Debian's mosquitto"), needs("mosquitto_passwd", "Debian's mosquitto")]

CLIENTS = {"a": "alice", "b": "bob", "n": None, "p": "+", "d": "bob+", "e": "eve"}
"""Client id → user."""
TOPICS = ["x", "x/y", "x/alice", "x/bob", "x/a", "x/b/y", "x/n", "y", "y/x", "alice", "bob/x", "a", "n/x", "z"]
LEVELS = ["x", "y", "alice", "bob", "a", "b", "+", "%u", "%c"]


def acl(dice: random.Random) -> str:
    lines = []
    for user in ("", "alice", "bob", "+", "bob+"):
        lines += [f"user {user}"] if user else []
        lines += [_line("topic", dice) for _ in range(dice.randrange(8))]
    lines += [_line("pattern", dice) for _ in range(dice.randrange(8))]
    return "\n".join([*lines, "user admin", "topic readwrite #", ""])


def _line(word: str, dice: random.Random) -> str:
    levels = [dice.choice(LEVELS if word == "pattern" else LEVELS[:-2]) for _ in range(dice.choice([1, 1, 2, 2, 3]))]
    filter = "/".join([*levels, *(["#"] if dice.random() < 0.5 else [])])
    return f"{word} {dice.choice(['', 'read ', 'write ', 'readwrite ', 'deny '])}{filter}"


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mosquitto") / "pw"
    path.touch(mode=0o600)
    for number, user in enumerate(["admin", *filter(None, CLIENTS.values())]):
        ok("mosquitto_passwd", "-H", ("sha512-pbkdf2", "sha512")[number % 2], "-b", str(path), user, f"{user}-ä")
    return path


def test_what_mosquitto_passwd_writes_lets_in(passwords: Path) -> None:
    found = Passwords(read(passwords))
    assert len(found.users) == 6
    assert all(found.verify(user, f"{user}-ä") for user in found.users)
    assert not any(found.verify(user, "admin-a") for user in found.users)


@pytest.fixture(params=range(8))
def files(request: pytest.FixtureRequest, tmp_path: Path, passwords: Path) -> Iterator[tuple[Path, int]]:
    """An acl_file, and the port of a mosquitto that has it."""
    file, port = tmp_path / "acl", free_port()
    file.write_text(acl(random.Random(request.param)))
    conf = [f"listener {port} 127.0.0.1", "allow_anonymous true", f"password_file {passwords}", f"acl_file {file}", "user root"]
    (tmp_path / "mosquitto.conf").write_text("\n".join(conf) + "\n")
    with Program("mosquitto", "-c", str(tmp_path / "mosquitto.conf")) as program:
        program.line(lambda line: "running" in line)
        yield file, port


async def test_mosquitto_allows_the_same(files: tuple[Path, int]) -> None:
    file, port = files
    ours = MosquittoAcl(file)
    admin = await _client(port, "admin-client", "admin")
    for client_id, user in CLIENTS.items():
        client = await _client(port, client_id, user)
        caller = Caller(user, client_id)
        may = {topic for topic in TOPICS if decide([ours], caller, "publish", topic).allowed}
        theirs = {topic for topic in TOPICS if await publishes(client, topic) != ReasonCode.NOT_AUTHORIZED}
        assert may == theirs, (client_id, file.read_text())
        assert await client.subscribe("#") == [0]
        for topic in TOPICS:
            await publishes(admin, topic)
        client.send(PingReq())  # mosquitto has one thread: what it has for the client comes before its answer
        received = set()
        while isinstance(packet := await client.receive(), Publish):
            received.add(packet.topic)
        assert isinstance(packet, PingResp)
        may = {topic for topic in TOPICS if decide([ours], caller, "receive", topic).allowed}
        assert may == received, (client_id, file.read_text())
        await client.leave()
    await admin.leave()


async def _client(port: int, client_id: str, user: str | None) -> Client:
    client = await Client.open(("127.0.0.1", port), 5)
    password = None if user is None else f"{user}-ä".encode()
    assert (await client.connect(client_id, username=user, password=password)).reason == 0
    return client
