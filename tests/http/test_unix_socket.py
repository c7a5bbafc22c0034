"""The HTTP API on a Unix socket: who may connect is said by its file's mode, and commands find it."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import httpx
import pytest

from broker.cli.ask import running_broker
from broker.config import Settings, plugin_problems
from tests.support.broker import running
from tests.support.certificates import Certificates


async def test_callers_and_commands_reach_it_by_its_file_which_goes_with_the_broker(tmp_path: Path) -> None:
    path, operator = tmp_path / "http.sock", tmp_path / "operator.json"
    plugins = {"http": {"bind": f"unix:{path}", "mode": "600", "operator_file": str(operator)}, "accounts": {}}
    for _ in range(2):
        async with running(f"sqlite:///{tmp_path}/t.db", plugins=plugins) as broker:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            async with httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://localhost"
            ) as http:
                assert (await http.get("/readyz")).text == "ready\n"
                assert (await http.get("/v1/me")).json()["operator"] is True
                assert (await http.get("/v1/me", headers={"Host": "evil.example"})).status_code == 421
                assert (await http.get("/v1/me", auth=("ann", "wrong"))).status_code == 401
            found = await asyncio.to_thread(running_broker, broker.server.settings)
            assert found is not None
            assert (await asyncio.to_thread(found.get, "/users")) == {"users": [], "next": None}
        assert not path.exists()
        assert not operator.exists()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"bind": "unix:"}, "plugins.http.bind: 'unix:' must be unix: and a path of 107 bytes at most"),
        ({"mode": "9"}, "plugins.http.mode: '9' must be the mode of a file in octal digits"),
        (
            {"certfile": "{server}"},
            "plugins.http.certfile: '{server}' must be left out: a Unix socket is of this machine alone",
        ),
    ],
)
def test_what_does_not_go_with_it_is_told(tmp_path: Path, more: dict[str, str], problem: str) -> None:
    server = str(Certificates(tmp_path).server)
    http = {"bind": "unix:/run/x.sock", **{name: value.format(server=server) for name, value in more.items()}}
    (found,) = plugin_problems(Settings.model_validate({"plugins": {"http": http}}))
    assert found.startswith(problem.format(server=server))
