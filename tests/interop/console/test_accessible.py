"""Every view for everybody: by axe's rules of WCAG 2 AA in both schemes, by keyboard alone, and on a small screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.interop.console.conftest import Tab
from tests.interop.console.house import STRANGE, House

Tabs = Callable[..., Tab]
VIEWS = {
    "overview": ".plot path[d]",
    "clients": "tbody tr",
    "clients/alice-phone": "tbody tr",
    "timeline": "svg .cell",
    "presence": "tbody tr",
    "topics/chat%2Fkitchen-team": ".messages li",
    "conversations": "tbody tr",
    "search/kitchen": "mark",
    "retained": "tbody tr",
    "message/{message}": ".scroll tbody tr",
    "schedules": "tbody tr",
    "chat": "section.chat",
    "users": "tbody tr",
    "tokens": "form",
    "access": "tbody tr",
    "rules": "tbody tr",
    "erasures": "form",
    "jobs": "tbody tr",
    "cluster": ".empty:not([hidden])",
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@pytest.fixture(scope="module")
def axe() -> str:
    found = pytest.importorskip("axe_core_python", reason="axe-core-python is missing: make interop installs it from PyPI")
    return (Path(found.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def faults(tab: Tab, axe: str) -> list[Any]:
    tab.page.evaluate(axe)
    found = tab.page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)["violations"]
    return [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_is_broken(scheme: str, axe: str, home: House, tabs: Tabs) -> None:
    tab = tabs(home, color_scheme=scheme, reduced_motion="reduce")
    tab.open()
    tab.page.get_by_role("heading", name="Sign in to Tideline").wait_for()
    assert faults(tab, axe) == []
    tab.operate(home.secret)
    for view, sign in VIEWS.items():
        tab.open(view.format(message=home.said[5]))
        tab.page.locator(sign).first.wait_for()
        assert faults(tab, axe) == [], view


def test_the_keyboard_reaches_what_the_mouse_does(tab: Tab) -> None:
    page = tab.page
    tab.open("jobs")
    page.reload()
    page.get_by_role("button", name="Run sessions now").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"))
    assert {f"Run {job} now" for job in ("retention", "inboxes", "sessions", "index")} <= reached
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    page.get_by_role("button", name="Run sessions now").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(outline) == "solid"


def test_a_question_holds_the_focus_and_escape_answers_no(tab: Tab, home: House) -> None:
    tab.open("retained")
    tab.page.get_by_role("button", name="Clear home/attic/state").click()
    assert tab.page.evaluate("document.activeElement.textContent") == "Cancel"
    tab.page.keyboard.press("Escape")
    tab.page.get_by_role("dialog").wait_for(state="detached")
    assert len(home.http.get("/retained?filter=home/attic/state").json()["messages"]) == 1


def test_the_switch_of_the_colours_is_kept(tab: Tab) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    before = tab.page.evaluate(background)
    switch = tab.page.get_by_role("button", name="Colours: as the system. Change")
    switch.click()
    tab.page.get_by_role("button", name="Colours: light. Change").click()
    tab.page.get_by_role("button", name="Colours: dark. Change").wait_for()
    assert tab.page.evaluate(background) != before
    tab.page.reload()
    tab.page.get_by_role("button", name="Colours: dark. Change").wait_for()


def test_names_of_any_kind_are_told_apart_and_tear_nothing(home: House, tabs: Tabs) -> None:
    """Long ones, those of other directions, and those with characters that cannot be seen, wide and narrow."""
    for topic in STRANGE:
        home.say("alice", topic, f"a\x01b\x1b of {topic}", retain=True)
    home.device("bob", "b" * 256, "chat/long/#")
    tab = tabs(home, reduced_motion="reduce")
    tab.operate(home.secret)
    views = (
        "retained",
        "conversations",
        "clients",
        "timeline/u%2Fbob",
        "topics/chat%2Fevil%E2%80%AEgnp",
        "clients/" + "b" * 256,
    )
    for width in (1360, 390):
        tab.page.set_viewport_size({"width": width, "height": 800})
        for view in (*views, f"topics/{quote(STRANGE[0], safe='')}"):
            tab.open(view)
            tab.page.locator("table tbody tr, .messages li").first.wait_for()
            assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, view
            shown = tab.page.locator("main").inner_text()
            assert not set("\u202e\x01\x1b") & set(shown), view
            if view == "retained":
                assert "chat/evil‹U+202E›gnp" in shown
                assert "a‹U+0001›b‹U+001B› of" in shown


def test_a_telephone_shows_it_without_scrolling_sideways(axe: str, home: House, tabs: Tabs) -> None:
    tab = tabs(home, reduced_motion="reduce")
    tab.page.set_viewport_size({"width": 390, "height": 800})
    tab.operate(home.secret)
    for view, sign in VIEWS.items():
        tab.open(view.format(message=home.said[5]))
        tab.page.locator(sign).first.wait_for()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390, view
        assert faults(tab, axe) == [], view
