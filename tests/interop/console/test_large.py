"""With some thousand clients no view holds more than a page of them, asks for more, or is harder to use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.interop.console.conftest import Tab
from tests.interop.console.crowd import crowd
from tests.interop.console.house import House, house
from tests.interop.console.test_accessible import VIEWS, axe, faults

__all__ = ["axe"]

pytestmark = pytest.mark.timeout(900)  # its clients come first

Tabs = Callable[..., Tab]
CLIENTS = 2000
RULES = 250
ELEMENTS, BYTES = 2000, 100_000
"""Of a page, and of an answer to it."""
LARGE = {
    **VIEWS,
    "clients/device-01999/u%2Ffleet": "tbody tr",
    "timeline/u%2Ffleet": "svg .cell",
    "topics/fleet%2F00001": ".messages li",
    "message/{news}": ".scroll tbody tr",
    "message/{crew}": ".scroll tbody tr",
    "presence/u%2Ffleet": "tbody tr",
}
FULL = ("clients", "timeline/u%2Ffleet", "presence", "topics/fleet%2F00001", "retained", "message/{news}", "access")


class Large:
    """The house, and what was said to all, and to one user with many devices."""

    def __init__(self, home: House, news: str, crew: str) -> None:
        self.home = home
        self.news = news
        self.crew = crew

    def view(self, view: str) -> str:
        return view.format(message=self.home.said[5], news=self.news, crew=self.crew)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    with house(tmp_path_factory.mktemp("large"), accounts={"anonymous": True}) as home:
        home.furnish()
        home.live()
        for number in range(RULES):
            rule = {"allow": ["all"], "topics": [f"site/{number}/#"], "users": ["alice"]}
            home.http.put(f"/acl/rules/r{number:03}", json=rule).raise_for_status()
        everybody = {"allow": ["all"], "topics": ["news/#", "own/#", "crew/#", "fleet/#"]}
        home.http.put("/acl/rules/everybody", json=everybody).raise_for_status()
        with crowd(home, CLIENTS):
            for first in range(0, CLIENTS, 100):
                said = [
                    {"topic": f"fleet/{number:05}", "payload": "here", "retain": True} for number in range(first, first + 100)
                ]
                home.http.post("/messages", params={"user": "u/fleet"}, json=said).raise_for_status()
            news = home.say("fleet", "news/all", "for everybody")
            crew = home.say("fleet", "crew/all", "for the fleet")
            home.indexed()
            yield Large(home, news, crew)


def test_no_view_holds_or_asks_for_more_than_a_page(large: Large, tabs: Tabs) -> None:
    tab = tabs(large.home)
    asked: list[Any] = []
    tab.operate(large.home.secret)
    tab.page.on("requestfinished", lambda request: asked.append(request))  # a method of a list it cannot keep
    for view, sign in LARGE.items():
        asked.clear()
        tab.open(large.view(view))
        tab.page.locator(sign).first.wait_for()
        with tab.page.expect_response(lambda answer: "/v1/metrics" in answer.url):
            pass  # so long that what is asked for again was
        elements = tab.page.evaluate("document.querySelectorAll('*').length")
        assert elements < ELEMENTS, view
        sizes = {one.url: one.sizes()["responseBodySize"] for one in asked if "/v1/" in one.url}
        assert {url: size for url, size in sizes.items() if size > BYTES} == {}, view
    script = "import('/console/lib/figures.js').then(({ history }) => history.map((one) => Boolean(one.answer)))"
    answers = tab.page.evaluate(script)
    assert len(answers) > 5
    assert answers.count(True) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_is_broken(scheme: str, axe: str, large: Large, tabs: Tabs) -> None:
    """By the views that have more to show than those of `test_accessible`."""
    tab = tabs(large.home, color_scheme=scheme, reduced_motion="reduce")
    tab.operate(large.home.secret)
    for view in FULL:
        tab.open(large.view(view))
        tab.page.locator(LARGE[view]).first.wait_for()
        assert faults(tab, axe) == [], view


def test_the_last_client_of_a_user_with_many_shows_its_subscriptions(large: Large, tabs: Tabs) -> None:
    tab = tabs(large.home)
    tab.operate(large.home.secret)
    tab.open("clients/device-01999/u%2Ffleet")
    tab.page.get_by_text("own/device-01999").wait_for()


def test_devices_and_holders_are_read_page_by_page(large: Large, tabs: Tabs) -> None:
    tab = tabs(large.home)
    tab.operate(large.home.secret)
    page = tab.page
    tab.open("timeline/u%2Ffleet")
    page.get_by_role("row", name="device-00001").wait_for()
    page.get_by_role("button", name="Next page").click()
    page.get_by_role("row", name="device-00001").wait_for(state="detached")
    assert page.get_by_role("img", name="Inbox of u/fleet").locator(".dot").count() == page.locator("tbody tr").count()
    page.get_by_role("button", name="Previous page").click()
    page.get_by_role("row", name="device-00001").wait_for()
    tab.open(f"message/{large.crew}")
    page.get_by_role("row", name="more devices").wait_for()
    assert page.locator(".scroll tbody tr").count() == 11
    tab.open("access")
    page.get_by_role("row", name="r000").wait_for()
    assert page.locator("tbody tr").count() == 50
