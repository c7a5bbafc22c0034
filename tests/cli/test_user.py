"""`tideline user`: beside a running broker, and where none runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner, Result

from broker.cli.user import user
from tests.accounts.test_users import ACCOUNTS, CHEAP, PATIENT, login, phone, shut_out
from tests.cli.processes import ran, serving
from tests.http.conftest import HTTP
from tests.support.broker import Broker, running


def test_a_first_user_before_there_is_a_broker_and_a_secret_that_outlives_one(tmp_path: Path) -> None:
    plugins: dict[str, Any] = {"persistence": {}, "http": {}, "accounts": {}}
    anonymous: dict[str, Any] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"plugins": {**plugins, **anonymous}}))
    first = ran(tmp_path, "user", "add", "ann", "--generate")
    assert (first.returncode, "anonymous clients are refused" in first.stderr) == (0, True), first.stderr
    generated = first.stdout.strip()
    assert len(generated) > 40, "alone on standard output"
    with serving(tmp_path) as broker:
        broker.line("storing ")
        secret = (tmp_path / "data" / "operator.secret").read_text().strip()
        assert (tmp_path / "data" / "operator.secret").stat().st_mode & 0o777 == 0o600
        assert ran(tmp_path, "user", "list").stdout.splitlines()[1].startswith("ann ")
    with serving(tmp_path) as broker:
        broker.line("storing ")
        url = json.loads((tmp_path / "data" / "operator.json").read_text())["url"]
        assert httpx.get(f"{url}/v1/me", auth=("ann", generated)).json() == {"user": "u/ann", "operator": False}
        answer = httpx.get(f"{url}/v1/users", headers={"Authorization": f"Bearer {secret}"})
        assert [found["name"] for found in answer.json()["users"]] == ["ann"]
    assert "there are users" in broker.log
    assert generated not in broker.log
    assert secret not in broker.log


class Command:
    """`tideline user` with the configuration of a broker, in a thread of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = folder / "config.yaml"
        self.http: dict[str, Any] = {"http": {**HTTP["http"], "operator_file": str(folder / "operator.json")}}
        plugins = {"persistence": {"url": f"sqlite:///{folder}/t.db"}, **self.http, **ACCOUNTS}
        self._config.write_text(yaml.safe_dump({"plugins": plugins}))

    async def run(self, *arguments: str, said: str = "") -> Result:
        wanted = ["-c", str(self._config), *(str(self._folder / a) if a.startswith("file-") else a for a in arguments)]
        return await asyncio.to_thread(CliRunner().invoke, user, wanted, input=said)

    async def done(self, *arguments: str, said: str = "") -> str:
        result = await self.run(*arguments, said=said)
        assert result.exit_code == 0, result.output
        return result.stdout


@pytest.fixture
def here(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
async def broker(here: Command, tmp_path: Path) -> AsyncIterator[Broker]:
    async with running(f"sqlite:///{tmp_path}/t.db", plugins={**here.http, **ACCOUNTS}, hooks=PATIENT) as made:
        yield made


async def test_what_is_done_beside_a_broker_holds_at_once(here: Command, broker: Broker, tmp_path: Path) -> None:
    generated = (await here.done("add", "ann", "--generate")).strip()
    assert "first" not in (await here.run("add", "b/ö", "--password-stdin", said="secret\n")).stderr
    assert await login(broker, "b/ö", "secret") == 0
    client = await phone(broker, "ann", generated)
    assert await here.done("disable", "ann") == "ann disabled\n"
    await shut_out(client)
    assert await here.done("enable", "ann") == "ann enabled\n"
    client = await phone(broker, "ann", generated)
    other = (await here.done("passwd", "ann", "--generate")).strip()
    await shut_out(client)
    assert await login(broker, "ann", other) == 0

    moved = f'# of another broker\ncid,"{CHEAP.hash("c")}"\ndan:{CHEAP.hash("d")}\n\neve,{CHEAP.hash("e")}\n'
    (tmp_path / "file-users").write_text(moved)
    assert await here.done("import", "file-users") == "3 added, 0 changed\n"
    assert await here.done("import", "file-users") == "0 added, 0 changed, 3 left as they were\n"
    for name in ("cid", "dan", "eve"):
        assert await login(broker, name, name[0]) == 0
    (tmp_path / "file-users").write_text(f"cid:{CHEAP.hash('new')}\n")
    assert await here.done("import", "--replace", "file-users") == "0 added, 1 changed\n"
    assert await login(broker, "cid", "new") == 0
    deleted = await here.run("delete", "b/ö")
    assert (deleted.exit_code, deleted.stdout) == (0, "b/ö deleted\n")
    assert "devices, messages and memberships of b/ö stay, and a later user of that name gets them" in deleted.stderr
    assert "tideline erase user 'b/ö'" in deleted.stderr
    listed = [json.loads(line) for line in (await here.done("list", "--json")).splitlines()]
    assert [found["name"] for found in listed] == ["ann", "cid", "dan", "eve"]
    assert set(listed[0]) == {"name", "disabled", "created", "changed"}


WRONG: list[tuple[list[str], str, int, str]] = [
    (["add", "a:b", "--generate"], "", 2, "user name 'a:b': must be printable"),
    (["add", "ann", "--generate"], "", 1, "there is a user 'ann' already"),
    (["add", "bob", "--password-stdin"], "\n", 2, "the password must not be empty"),
    (["add", "bob"], "one\ntwo\n", 1, "do not match"),
    (["add", "bob"], "\n", 1, "the password must not be empty"),
    (["add", "bob", "--generate", "--password-stdin"], "x\n", 2, "one too many"),
    (["add", "bob", "secret"], "", 2, "unexpected extra argument"),
    (["disable", "nobody"], "", 1, "there is no user 'nobody' in storage; a ban keeps out"),
    (["import", "file-twice"], "", 2, "twice, line 2: user 'bob' is there twice"),
    (["import", "file-both"], "", 2, "both, line 1: user name ''"),
    (["import", "file-both"], "", 2, "both, line 3: the hash of user 'cid' is"),
    (["import", "file-foreign"], "", 2, "foreign, line 1: the hash of user 'bob' is bcrypt; it must be Argon2"),
]


async def test_what_is_wrong_is_named(here: Command, broker: Broker, tmp_path: Path) -> None:
    hash = CHEAP.hash("a")
    (tmp_path / "file-twice").write_text(f"bob:{hash}\nbob:{hash}\n")
    (tmp_path / "file-both").write_text(f" :{hash}\nbob:{hash}\ncid:$2b$12$abc\n")
    (tmp_path / "file-foreign").write_text("bob:$2b$12$abc\n")
    await here.done("add", "ann", "--generate")
    for arguments, said, code, told in WRONG:
        run = await here.run(*arguments, said=said)
        assert (run.exit_code, told in run.output) == (code, True), run.output
        assert hash not in run.output


async def test_without_a_broker_and_without_the_plugin_it_is_told_what_to_add(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"plugins": {"persistence": {"url": f"sqlite:///{tmp_path}/t.db"}}}))
    run = await asyncio.to_thread(CliRunner().invoke, user, ["-c", str(config), "list"])
    assert (run.exit_code, "add `accounts: {}` there" in run.output) == (2, True), run.output
