"""Who may see what: the door, what is kept of it, and what a user who is no operator is offered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.interop.console.conftest import Tab
from tests.interop.console.house import PASSWORD, House

Tabs = Callable[..., Tab]


def kept(tab: Tab) -> tuple[str, str]:
    """What the tab keeps for itself, and what the browser keeps for all."""
    return tab.page.evaluate("JSON.stringify({...sessionStorage})"), tab.page.evaluate("JSON.stringify({...localStorage})")


def test_a_wrong_password_is_told_and_a_right_one_makes_a_token_that_ends_with_the_visit(home: House, tabs: Tabs) -> None:
    tab = tabs(home)
    tab.enter("alice", "wrong")
    tab.page.get_by_role("alert").get_by_text("wrong name or password").wait_for()
    tab.enter("alice", PASSWORD)
    tab.page.get_by_role("heading", name="Conversations").wait_for()
    mine, everybodys = kept(tab)
    assert "tl_" in mine
    assert PASSWORD not in mine
    assert "tl_" not in everybodys
    assert not tab.page.context.cookies()
    tab.page.reload()
    tab.page.get_by_role("heading", name="Conversations").wait_for()
    token = json.loads(json.loads(mine)["tideline-console"])["secret"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert home.http.get("/me", headers=bearer).json()["user"] == "u/alice"
    tab.page.get_by_role("button", name="Sign out").click()
    tab.page.get_by_role("heading", name="Sign in to Tideline").wait_for()
    assert "tl_" not in kept(tab)[0]
    assert home.http.get("/me", headers=bearer).status_code == 401


def test_a_token_that_is_revoked_leads_back_to_the_door(home: House, tabs: Tabs) -> None:
    tab = tabs(home)
    tab.enter("bob", PASSWORD)
    tab.page.get_by_role("heading", name="Conversations").wait_for()
    home.http.patch("/users/bob", json={"disabled": True}).raise_for_status()
    try:
        tab.page.get_by_role("heading", name="Sign in to Tideline").wait_for()
    finally:
        home.http.patch("/users/bob", json={"disabled": False}).raise_for_status()


def test_a_user_is_offered_what_users_have(home: House, tabs: Tabs) -> None:
    tab = tabs(home)
    tab.enter("alice", PASSWORD)
    tab.page.get_by_role("heading", name="Conversations").wait_for()
    menu = tab.page.get_by_role("navigation").get_by_role("link").all_inner_texts()
    assert menu == ["Timelines", "Presence", "Conversations", "Search", "Retained", "Schedules", "Chat", "Tokens"]
    tab.open("users")
    tab.page.get_by_text("This is for the operator").wait_for()
    tab.open("timeline")
    tab.page.get_by_role("row", name="alice-tablet").wait_for()
    assert tab.page.get_by_role("row", name="bob-phone").count() == 0


def test_nothing_is_asked_of_another_host(tab: Tab, home: House) -> None:
    for view in ("overview", "chat", "search/kitchen"):
        tab.open(view)
        tab.page.wait_for_load_state("networkidle") if view != "overview" else tab.page.locator(
            ".plot path[d]"
        ).first.wait_for()
    assert {url for url in tab.asked if not url.startswith((home.url, home.url.replace("http", "ws")))} == set()


def test_without_users_it_is_open_until_the_first_one_is_added(empty: House, tabs: Tabs) -> None:
    tab = tabs(empty)
    tab.open("users")
    page: Any = tab.page
    page.get_by_label("User name").fill("alice")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Add the user").click()
    page.get_by_role("dialog").get_by_role("button", name="Add the first user").click()
    page.get_by_role("heading", name="Sign in to Tideline").wait_for()
    tab.operate(empty.secret)
    tab.open("users")
    page.get_by_role("row", name="alice").wait_for()


def test_a_page_that_cannot_be_seen_asks_for_nothing(tab: Tab) -> None:
    """Not for its view, nor for the figures; once it is seen again it goes on."""
    page = tab.page
    page.clock.install()
    tab.open("jobs")
    page.reload()
    page.get_by_role("row", name="sessions").wait_for()
    turn = """state => {
        Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(turn, "hidden")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(120_000)
    assert asked == []
    with page.expect_request("**/v1/jobs"), page.expect_request("**/v1/metrics"):
        page.evaluate(turn, "visible")
