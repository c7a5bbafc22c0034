"""The JavaScript client as who installs it has it, apps that use it, and brokers for them."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interop.conftest import NOBODY
from tests.interop.programs import NPM, Program
from tests.support.broker import ANONYMOUS
from tests.support.laws_process import ROOT, BrokerProcess, broker_process, free_port
from tests.support.until import wait_until

SOURCES = ROOT / "clients" / "javascript"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the client is installed: its sources, and mqtt.js beside them."""
    folder = tmp_path_factory.mktemp("project")
    sources, modules = folder / "sources", folder / "node_modules"
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("node_modules", "types"))
    modules.mkdir()
    for package in NPM.iterdir():
        (modules / package.name).symlink_to(package)
    (modules / "tideline-client").symlink_to(sources)
    (sources / "node_modules").symlink_to(modules)
    return folder


class Site:
    """A broker, whose users' passwords are their names."""

    def __init__(self, broker: BrokerProcess, http: int, ws: int, secret: str) -> None:
        self.broker = broker
        self.ws = f"ws://127.0.0.1:{ws}/mqtt"
        self.url = f"mqtt://127.0.0.1:{broker.port}"
        headers = {"Authorization": f"Bearer {secret}"}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{http}/v1", headers=headers, timeout=60)

    def texts(self, topic: str) -> list[Any]:
        """What was said in a conversation, in order."""
        found, after = [], 0
        while page := self._page(topic, after):
            found += [message["payload"] for message in page]
            after = page[-1]["seq"]
        return found

    def _page(self, topic: str, after: int) -> list[dict[str, Any]]:
        answer = self.http.get(f"/conversations/{topic}/messages", params={"after": after, "order": "oldest", "limit": 500})
        if answer.status_code == 404:
            return []
        answer.raise_for_status()
        page: list[dict[str, Any]] = answer.json()["messages"]
        return page

    def say(self, user: str, topic: str, text: str) -> str:
        """Publish as a user; the message's id."""
        answer = self.http.post(f"/conversations/{topic}/messages?user=u/{user}", json={"payload": text})
        answer.raise_for_status()
        return str(answer.json()["id"])


@contextmanager
def site(folder: Path, **more: Any) -> Iterator[Site]:
    http, ws = free_port(), free_port()
    plugins = {
        "http": {"bind": f"127.0.0.1:{http}", "operator_file": str(folder / "operator.json")},
        "requests": {},
        "conversations": {},
        "recall": {},
        "receipts": {"resolution_seconds": 0.05},
        **more,
    }
    listeners = [{"name": "ws", "type": "ws", "bind": f"127.0.0.1:{ws}"}]
    with broker_process(folder, f"sqlite:///{folder}/t.db", listeners=listeners, plugins=plugins, origins=["*"]) as broker:
        wait_until((folder / "operator.json").exists, "the API listens")
        made = Site(broker, http, ws, (folder / "operator.secret").read_text().strip())
        with made.http:
            yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One broker for the tests of a file; each test has topics and devices of its own."""
    with site(tmp_path_factory.mktemp("broker")) as made:
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Site]:
    """A broker that a test may kill."""
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def anonymous(tmp_path: Path) -> Iterator[Site]:
    """The same for anonymous clients, as it comes."""
    with site(tmp_path, **NOBODY, **ANONYMOUS) as made:
        yield made


class App:
    """A process with a client; see clients/javascript/test/app.js."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._ids = itertools.count(1)

    def ask(self, call: str, *values: Any) -> int:
        """Call the client, and wait for nothing."""
        number = next(self._ids)
        self.program.tell(json.dumps({"id": number, "call": call, "with": values}))
        return number

    def answer(self, number: int) -> Any:
        """What a call resolved with."""
        event = self.event("answer", id=number)
        assert "error" not in event, event
        return event["value"]

    def call(self, call: str, *values: Any) -> Any:
        return self.answer(self.ask(call, *values))

    def fails(self, call: str, *values: Any) -> dict[str, Any]:
        """What a call rejected with."""
        event = self.event("answer", id=self.ask(call, *values))
        assert "error" in event, event
        error: dict[str, Any] = event["error"]
        return error

    def event(self, kind: str, **values: Any) -> dict[str, Any]:
        """Take the next event of this kind, with these values."""

        def wanted(line: str) -> bool:
            event = json.loads(line) if line.startswith("{") else {}
            return event.get("event") == kind and all(event.get(name) == value for name, value in values.items())

        found: dict[str, Any] = json.loads(self.program.line(wanted))
        return found

    def message(self, **values: Any) -> str:
        """The text of the next message."""
        return str(self.event("message", **values)["text"])

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events so far that nobody took."""
        return [json.loads(line) for line in self.program.seen(f'{{"event":"{kind}"')]

    def connect(self) -> None:
        self.ask("start")
        self.event("connected", connected=True)

    def end(self) -> None:
        self.call("stop")
        self.program.kill()

    def kill(self) -> list[dict[str, Any]]:
        """SIGKILL; the events that nobody took."""
        self.program.kill()
        return [json.loads(line) for line in self.program.rest() if line.startswith("{") and line.endswith("}")]


Apps = Callable[..., App]


@pytest.fixture
def apps(project: Path, tmp_path: Path) -> Iterator[Apps]:
    """Starts apps. One of the same device and site has the same local copy."""
    with ExitStack() as stack:

        def make(at: Site, device: str, *filters: str, user: str = "", connect: bool = True, **options: Any) -> App:
            user = user or device
            chosen = {"filters": filters, "user": user, "password": user, **options}
            program = Program(
                "node",
                str(project / "sources/test/app.js"),
                at.url,
                device,
                str(tmp_path / f"{device}.log"),
                json.dumps(chosen),
            )
            made = App(stack.enter_context(program))
            if connect:
                made.connect()
            return made

        yield make
