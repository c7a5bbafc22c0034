"""A broker process with every kind of listener, as it comes: anonymous, on this machine. Its ports outlive its crashes."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import ANONYMOUS
from tests.support.certificates import Certificates
from tests.support.laws_process import BrokerProcess, broker_process, free_port

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium")
"""The browser that some tests drive."""
NOBODY = {"tests.support.laws_auth.NameIsPassword": False, "tests.support.laws_auth.ForbiddenTopics": False}
_names = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What is missing, once each, with how many tests it kept from running."""
    ours = [report for report in terminalreporter.getreports("skipped") if report.nodeid.startswith("tests/interop/")]
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in ours)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"not run, {count} tests: {reason}", yellow=True)


class Site:
    """A broker, and where each of its listeners is."""

    def __init__(self, broker: BrokerProcess, ports: dict[str, int], cafile: str) -> None:
        self.broker = broker
        self.ports = ports
        """By transport: tcp, ws, tls, wss, and http."""
        self.cafile = cafile

    @property
    def port(self) -> int:
        return self.broker.port


@contextmanager
def site(folder: Path, certificates: Certificates) -> Iterator[Site]:
    ports = {name: free_port() for name in ("ws", "tls", "wss", "http")}
    files = {"certfile": str(certificates.server), "keyfile": str(certificates.server_key)}
    listeners = [
        {"name": name, "type": "ws" if name[0] == "w" else "tcp", "bind": f"127.0.0.1:{ports[name]}"}
        | ({"tls": files} if name in ("tls", "wss") else {})
        for name in ("ws", "tls", "wss")
    ]
    plugins = {
        **NOBODY,
        **ANONYMOUS,
        "http": {"bind": f"127.0.0.1:{ports['http']}"},
        "requests": {},
        "recall": {},
        "schedules": {},
        "presence": {"grace": "100ms"},
    }
    with broker_process(folder, f"sqlite:///{folder}/t.db", listeners=listeners, plugins=plugins) as broker:
        yield Site(broker, {**ports, "tcp": broker.port}, str(certificates.ca))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's chromium, without a window. It is gone after a file's tests: no async test can run where Playwright does."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: make interop installs it from PyPI")
    if CHROMIUM is None:
        pytest.skip("chromium is missing: install Debian's chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Site]:
    """One broker for the tests of a file; each test has names of its own."""
    with site(tmp_path_factory.mktemp("broker"), certificates) as made:
        yield made


@pytest.fixture
def crashing(tmp_path: Path, certificates: Certificates) -> AbstractContextManager[Site]:
    """A broker that a test may kill."""
    return site(tmp_path, certificates)


@pytest.fixture
def name() -> str:
    """A name that no other test of the run uses, for a topic or a client."""
    return f"n{next(_names)}"
