"""A browser, and pages of it that end the test where a script of the console fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.console.house import House, house

PATIENCE = 30_000
"""Milliseconds that a page waits for what a test expects."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One broker for the tests of a file, furnished and live."""
    with house(tmp_path_factory.mktemp("console")) as made:
        made.furnish()
        made.live()
        made.indexed()
        yield made


class Tab:
    """A page of its own context: nothing that another test stored is in it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.wrong: list[str] = []
        self.asked: set[str] = set()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", self._said)
        page.on("request", lambda request: self.asked.add(request.url))
        page.on("websocket", lambda socket: self.asked.add(socket.url))

    def _said(self, message: Any) -> None:
        answered = "the server responded with a status of" in message.text  # a 401 at the door, a 404 without a cluster
        if message.type == "error" and not answered:
            self.wrong.append(message.text)

    def open(self, view: str = "") -> None:
        """Go to a view."""
        self.page.goto(f"{self.url}/console/#/{view}")

    def operate(self, secret: str) -> None:
        """Sign in as the operator."""
        self.open()
        self.page.get_by_label("Operator's secret").fill(secret)
        self.page.get_by_role("button", name="Sign in as the operator").click()
        self.page.get_by_role("link", name="Overview").wait_for()

    def enter(self, user: str, password: str) -> None:
        """Sign in as a user."""
        self.open()
        self.page.get_by_label("User name").fill(user)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in", exact=True).click()


@pytest.fixture
def tabs(chromium: Any) -> Iterator[Callable[..., Tab]]:
    """Opens tabs; what went wrong in one fails the test."""
    contexts, made = [], []

    def make(at: House, **options: Any) -> Tab:
        contexts.append(chromium.new_context(viewport={"width": 1360, "height": 860}, **options))
        made.append(Tab(contexts[-1].new_page(), at.url))
        return made[-1]

    yield make
    for context in contexts:
        context.close()
    assert [tab.wrong for tab in made if tab.wrong] == []


@pytest.fixture
def tab(home: House, tabs: Callable[..., Tab]) -> Tab:
    """The operator's."""
    made = tabs(home)
    made.operate(home.secret)
    return made


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[House]:
    """A broker without users."""
    with house(tmp_path) as made:
        yield made


@pytest.fixture
def empty_plain(tmp_path: Path) -> Iterator[House]:
    """A broker without users, and without the plugins that messages can do without."""
    off = dict.fromkeys(("presence", "receipts", "schedules", "attachments", "recall", "conversations"), False)
    with house(tmp_path, **off) as made:
        yield made
