"""The console's files: what they load, what they may do, and that they hold nothing that only some may see."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from starlette.requests import Request

from broker.config import Listener
from plugins.console.plugin import ConsolePlugin
from plugins.console.websocket import checked, found
from plugins.http.pages import contents
from tests.http.conftest import Site, passwords, site, sites
from tests.support.broker import running

__all__ = ["passwords", "sites"]

FOLDER = Path(__file__).resolve().parents[2] / "plugins" / "console" / "static"
FILES = contents(FOLDER)
CONSOLE: dict[str, Any] = {"console": {}}


async def get(made: Site, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(made.url + path, headers=headers)


async def test_each_file_is_served_with_a_policy_that_lets_nothing_in_from_elsewhere() -> None:
    async with site(plugins=CONSOLE) as made:
        port = made.websocket[1]
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            f"connect-src 'self' ws://127.0.0.1:{port}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
        for name, body in FILES.items():
            answer = await get(made, f"/console/{name}")
            assert (answer.status_code, answer.content) == (200, body), name
            assert answer.headers["content-type"].partition(";")[0] == kinds[name.rpartition(".")[2]]
            assert answer.headers["content-security-policy"] == policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await get(made, "/console/")).content == FILES["index.html"]


async def test_what_a_browser_has_is_not_sent_again() -> None:
    async with site(plugins=CONSOLE) as made:
        for path in ("/console/main.js", "/docs", "/docs.js"):
            tag = (await get(made, path)).headers["etag"]
            again = await get(made, path, **{"If-None-Match": tag})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


async def test_the_address_of_the_broker_leads_to_it_and_no_path_leads_out_of_it() -> None:
    async with site(plugins=CONSOLE) as made:
        assert (await get(made, "/")).headers["location"] == "/console/"
        assert (await get(made, "/console")).headers["location"] == "/console/"
        for path in ("/console/plugin.py", "/console/../plugin.py", "/console/%2e%2e/plugin.py", "/console//etc/passwd"):
            assert (await get(made, path)).status_code == 404, path
    async with site(plugins={}) as made:
        assert (await get(made, "/")).headers["location"] == "/docs"
        assert (await get(made, "/console/")).status_code == 404


async def test_other_sites_may_link_to_it_and_load_nothing_of_it() -> None:
    async with site(plugins=CONSOLE) as made:
        assert (await get(made, "/console/", **{"Sec-Fetch-Site": "cross-site"})).status_code == 200
        assert (await get(made, "/console/main.js", **{"Sec-Fetch-Site": "cross-site"})).status_code == 403
        assert (await get(made, "/console/main.js", **{"Sec-Fetch-Site": "same-origin"})).status_code == 200


async def test_without_credentials_one_gets_the_page_and_no_more(sites: Any) -> None:
    async with sites(plugins=CONSOLE) as made:
        assert (await get(made, "/console/")).content == FILES["index.html"]
        assert (await get(made, "/v1/me")).status_code == 401
        issued = await made.caller("alice").post("/tokens", json={"label": "console", "lifetime": 60})
        bearer = {"Authorization": f"Bearer {issued.json()['token']}"}
        assert (await get(made, "/v1/me", **bearer)).json() == {"user": "u/alice", "operator": False}


def test_what_a_file_names_is_among_them_and_nothing_is_named_elsewhere() -> None:
    named = {"index.html"}
    for name, body in FILES.items():
        text = body.decode()
        links = re.findall(r"""(?:from|import) "([^"]+)"|(?:href|src)="([^"#]+)\"""", text)
        named |= {urljoin(name, one or other) for one, other in links}
        urls = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}[^\s\"'`)]*", text))
        assert urls <= {"http://www.w3.org/2000/svg"}, name
    assert named == set(FILES)


def test_no_file_makes_html_or_code_of_text() -> None:
    makes_html = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|\sstyle="
    makes_code = r"\beval\b|new Function|javascript:|\son\w+=\""
    assert [name for name, body in FILES.items() if re.search(f"{makes_html}|{makes_code}", body.decode())] == []
    assert "localStorage" not in FILES["lib/session.js"].decode()


def test_files_are_small() -> None:
    assert {name: text.count(b"\n") for name, text in FILES.items() if text.count(b"\n") > 300} == {}
    assert sum(map(len, FILES.values())) < 250_000


async def test_it_says_where_it_is_missing_what_it_stands_beside(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "plugins.console"):
        async with running(plugins=CONSOLE):
            assert "add http to the plugins" in caplog.text


# --- where MQTT is -----------------------------------------------------------------------------------------------------


def listener(name: str, **more: Any) -> Any:
    return Listener.model_construct(**{"name": name, "type": "ws", "bind": "0.0.0.0:1", "path": "/mqtt", "tls": None, **more})


def asked(url: str, host: str, *listeners: Any) -> str:
    scheme, _, _ = url.partition(":")
    request = Request({"type": "http", "scheme": scheme, "path": "/", "headers": [(b"host", host.encode())], "server": None})
    return found(request, listeners, {one.name: ("0.0.0.0", 8000 + number) for number, one in enumerate(listeners)})


def test_the_page_is_told_a_listener_by_the_name_that_it_was_called_by() -> None:
    tls = SimpleNamespace()
    tcp, ws, wss = listener("tcp", type="tcp"), listener("ws"), listener("wss", tls=tls, path="/secure")
    assert asked("http://", "localhost:8080", tcp, ws, wss) == "ws://localhost:8001/mqtt"
    assert asked("https://", "broker.example", tcp, ws, wss) == "wss://broker.example:8002/secure"
    assert asked("http://", "[::1]:8080", ws) == "ws://[::1]:8000/mqtt"
    assert asked("http://", "a.example", wss) == "wss://a.example:8000/secure"
    assert asked("http://", "a.example", tcp, listener("sock", bind="unix:/x"), listener("p", proxy_protocol=True)) == ""
    assert asked("http://", "a.example; script-src *", ws) == ""


def test_a_configured_address_is_a_websocket_s() -> None:
    assert checked("wss://mqtt.example/mqtt") == "wss://mqtt.example/mqtt"
    for wrong in ("https://mqtt.example", "wss://a b", "wss://a;b", "wss://user@a", "wss://a/x'y", "mqtt.example"):
        with pytest.raises(ValueError, match="must be a WebSocket's URL"):
            ConsolePlugin.Config(websocket=wrong)


async def test_what_is_configured_goes_before_the_listeners() -> None:
    async with site(plugins={"console": {"websocket": "wss://mqtt.example:8443/mqtt"}}) as made:
        answer = await get(made, "/console/mqtt.json")
        assert answer.json() == {"url": "wss://mqtt.example:8443/mqtt"}
        policy = (await get(made, "/console/")).headers["content-security-policy"]
        assert "connect-src 'self' wss://mqtt.example:8443;" in policy
