"""Each view shows what the broker has, and does what its buttons say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.interop.console.conftest import Tab
from tests.interop.console.house import PASSWORD, House
from tests.support.until import wait_until

Tabs = Callable[..., Tab]


def test_the_figures_are_live(tab: Tab) -> None:
    tab.open("overview")
    stored = tab.page.locator(".tiles > div").last.locator("strong")
    wait_until(lambda: stored.inner_text() != "–", "the first figures are there")
    first = stored.inner_text()
    wait_until(lambda: stored.inner_text() != first, "they move")
    told = tab.page.get_by_role("img", name=re.compile("Messages: published .*, between")).first
    told.wait_for()
    tab.page.get_by_text("ready", exact=True).wait_for()


def test_a_client_is_disconnected_by_hand_and_its_session_stays(tab: Tab, home: House) -> None:
    client = home.device("fleet", "kicked", "home/kicked/#")
    tab.open("clients")
    tab.page.get_by_role("link", name="kicked").click()
    tab.page.get_by_text("home/kicked/#").wait_for()
    tab.page.get_by_role("button", name="Disconnect").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Disconnect").click()
    assert str(client.disconnected.get(timeout=30)) == "Administrative action"
    tab.page.get_by_text("away", exact=True).wait_for()
    assert home.http.get("/clients/kicked").json()["durable"]


def test_the_tree_is_walked_with_the_keyboard_down_to_a_history(tab: Tab) -> None:
    tab.open("topics")
    page = tab.page
    tree = page.get_by_role("tree", name="Topics")
    tree.get_by_role("treeitem").first.focus()
    for key in ("Home", "ArrowDown", "ArrowRight", "ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
        if key == "ArrowRight":
            tree.get_by_text("kitchen-team").wait_for()
    page.get_by_role("heading", name="chat/kitchen-team").wait_for()
    page.get_by_text("Ready. I moved the kitchen sensor").last.wait_for()
    assert tree.get_by_role("treeitem", selected=True).get_by_text("kitchen-team").count() == 1
    page.get_by_text("Who is subscribed").click()
    page.get_by_role("row", name="bob-phone").wait_for()


def test_the_timelines_move_with_what_is_published(tab: Tab, home: House) -> None:
    tab.open("timeline/u%2Fbob")
    picture = tab.page.get_by_role("img", name="Inbox of u/bob")
    picture.wait_for()

    def head() -> int:
        return int(str(picture.get_attribute("aria-label")).partition("head ")[2].partition(",")[0])

    before = head()
    home.say("alice", "chat/kitchen-team", "one more")
    wait_until(lambda: head() == before + 1, "the inbox has grown")
    row = tab.page.get_by_role("row", name="bob-phone")
    wait_until(lambda: row.get_by_role("cell").all_inner_texts()[1:4] == [str(before + 1)] * 2 + ["0"], "its device has it")


def test_search_finds_while_one_types_in_any_language(tab: Tab, home: House) -> None:
    tab.open("search")
    box = tab.page.get_by_role("searchbox")
    for typed, marked in (("kitch", "kitchen"), ("会议", "会议"), ("جاهز", "جاهز")):
        box.fill("")
        box.press_sequentially(typed)
        tab.page.locator("mark", has_text=marked).first.wait_for()
    tab.page.locator(".hits a").first.click()
    tab.page.get_by_role("heading", name="What it says").wait_for()


def test_what_others_send_is_text_and_nothing_else(tab: Tab, home: House) -> None:
    evil = "<img src=x onerror=alert(1)><b>bold</b>"
    home.say("bob", "chat/<b>x<b>", evil, retain=True, properties=[["<i>", "<script>alert(1)</script>"]])
    home.indexed()
    for view in ("search/onerror", "conversations", "retained", "topics/chat%2F%3Cb%3Ex%3Cb%3E"):
        tab.open(view)
        tab.page.locator("#main").get_by_text("onerror").first.wait_for()
    tab.open("search/onerror")
    tab.page.locator(".hits a").first.click()
    tab.page.get_by_text("<script>alert(1)</script>").wait_for()
    assert tab.page.locator("#main b, #main i:not(.key), #main script, #main img").count() == 0


def test_a_retained_message_is_cleared(tab: Tab, home: House) -> None:
    home.say("fleet", "home/old/state", "gone", retain=True)
    tab.open("retained")
    tab.page.get_by_role("button", name="Clear home/old/state").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Clear").click()
    tab.page.get_by_role("row", name="home/old/state").wait_for(state="detached")
    assert home.http.get("/retained?filter=home/old/state").json()["messages"] == []


def test_a_conversation_with_members_gets_another_and_loses_it(home: House, tabs: Tabs) -> None:
    begun = home.http.post("/conversations?user=u/alice", json={"kind": "group", "name": "Boiler crew", "members": ["u/bob"]})
    topic = begun.raise_for_status().json()["topic"]
    home.say("bob", topic, "first words")
    tab = tabs(home)
    tab.enter("alice", PASSWORD)
    tab.page.get_by_role("row", name="Boiler crew").get_by_text("first words").wait_for()
    tab.page.get_by_role("link", name="Boiler crew").click()
    tab.page.locator("summary", has_text="Members").click()
    tab.page.get_by_label("User", exact=True).fill("fleet")
    tab.page.get_by_role("button", name="Add the member").click()
    tab.page.get_by_role("button", name="Remove fleet").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    tab.page.get_by_role("row", name="fleet").wait_for(state="detached")
    members = home.http.get(f"/conversations/{topic}/members").json()["members"]
    assert [member["user"] for member in members] == ["u/alice", "u/bob"]


def side(tab: Tab, name: str) -> Any:
    return tab.page.get_by_role("region", name=f"The {name}")


def connect(tab: Tab, name: str, user: str) -> Any:
    found = side(tab, name)
    found.get_by_label("User").fill(user)
    found.get_by_label("Password").fill(PASSWORD)
    found.get_by_role("button", name="Connect").click()
    found.get_by_label("Message from").wait_for()
    return found


def test_two_devices_of_one_user_say_and_get_all_also_what_one_missed(home: House, tabs: Tabs) -> None:
    tab = tabs(home)
    tab.enter("alice", PASSWORD)
    tab.page.get_by_role("heading", name="Conversations").wait_for()
    tab.open("chat/chat%2Fpair")
    laptop, phone = connect(tab, "laptop", "alice"), connect(tab, "phone", "alice")

    def say(where: Any, words: str) -> None:
        where.get_by_label("Message from").fill(words)
        where.get_by_role("button", name="Send").click()
        where.get_by_role("log").get_by_text(words).wait_for()

    say(laptop, "from the laptop")
    phone.get_by_role("log").get_by_text("from the laptop").wait_for()
    phone.get_by_role("button", name="Disconnect").click()
    phone.get_by_text("away").wait_for()
    say(laptop, "while you were away")
    connect(tab, "phone", "alice").get_by_role("log").get_by_text("while you were away").wait_for()
    laptop.get_by_text("2 unread").wait_for()
    phone.get_by_role("button", name="Mark as read").click()
    laptop.get_by_text("all read").wait_for()  # its user's other device has read it
    stored = home.http.get("/conversations/chat/pair/messages?order=oldest").json()["messages"]
    assert [message["payload"] for message in stored] == ["from the laptop", "while you were away"]


def test_a_message_is_taken_back_from_its_page_and_the_chat_shows_it(home: House, tabs: Tabs) -> None:
    chat, other = tabs(home), tabs(home)
    chat.enter("alice", PASSWORD)
    chat.page.get_by_role("heading", name="Conversations").wait_for()
    chat.open("chat/chat%2Fback")
    log = connect(chat, "laptop", "alice").get_by_role("log")
    message = home.say("alice", "chat/back", "said too much")
    log.get_by_text("said too much").wait_for()
    other.operate(home.secret)
    other.open(f"message/{message}")
    other.page.get_by_role("button", name="Take it back").click()
    other.page.get_by_role("dialog").get_by_role("button", name="Take it back").click()
    other.page.get_by_text("taken back by its sender").first.wait_for()
    log.get_by_text("taken back").wait_for()
    assert log.get_by_text("said too much").count() == 0


def test_a_wrong_password_of_a_chat_s_device_is_told(home: House, tabs: Tabs) -> None:
    tab = tabs(home)
    tab.enter("alice", PASSWORD)
    tab.page.get_by_role("heading", name="Conversations").wait_for()
    tab.open("chat")
    laptop = side(tab, "laptop")
    laptop.get_by_label("User").fill("alice")
    laptop.get_by_label("Password").fill("wrong")
    laptop.get_by_role("button", name="Connect").click()
    laptop.get_by_role("alert").wait_for()
    assert "password" in laptop.get_by_role("alert").inner_text()


def test_users_are_added_and_shut_out(tab: Tab, home: House) -> None:
    tab.open("users")
    page = tab.page
    page.get_by_label("User name").fill("carol")
    page.get_by_role("textbox", name="Password").fill(PASSWORD)
    page.get_by_role("button", name="Add the user").click()
    page.get_by_role("button", name="Shut out carol").click()
    page.get_by_role("button", name="Let in carol").wait_for()
    assert home.http.get("/users/carol").json()["disabled"]
    page.get_by_role("button", name="Delete carol").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("row", name="carol").wait_for(state="detached")
    page.get_by_label("User name").fill("a:b")
    page.get_by_role("textbox", name="Password").fill(PASSWORD)
    page.get_by_role("button", name="Add the user").click()
    page.get_by_role("alert").get_by_text("a:b").wait_for()


def test_tokens_are_made_and_revoked(home: House, tabs: Tabs) -> None:
    tab = tabs(home)
    tab.enter("alice", PASSWORD)
    tab.page.get_by_role("link", name="Tokens").click()
    tab.page.get_by_label("What for").fill("backup")
    tab.page.get_by_role("button", name="Make a token").click()
    token = tab.page.locator(".issued code").inner_text()
    bearer = {"Authorization": f"Bearer {token}"}
    assert home.http.get("/me", headers=bearer).json()["user"] == "u/alice"
    tab.page.get_by_role("button", name="Revoke token backup").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    tab.page.get_by_role("row", name="backup").wait_for(state="detached")
    assert home.http.get("/me", headers=bearer).status_code == 401


def test_it_says_which_rule_lets_somebody_do_something(tab: Tab) -> None:
    tab.open("access")
    page = tab.page
    for user, answer in (("bob", "denied"), ("fleet", "allowed")):
        page.get_by_label("User", exact=True).fill(user)
        page.get_by_label("Topic, or filter").fill("home/kitchen/temperature")
        page.get_by_role("button", name="Ask").click()
        page.locator(".answer").get_by_text(answer, exact=True).wait_for()
    page.get_by_label("Topics, one a line").fill("extra/#\nmore, with a comma/#")
    page.get_by_role("button", name="Add the rule").click()
    page.get_by_role("row", name="more, with a comma").get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    page.get_by_role("row", name="more, with a comma").wait_for(state="detached")


def test_a_job_runs_now(tab: Tab, home: House) -> None:
    tab.open("jobs")
    tab.page.get_by_role("button", name="Run sessions now").click()
    tab.page.get_by_role("row", name="sessions").get_by_text("done", exact=True).wait_for()
    assert home.http.get("/jobs/sessions").json()["last"]["outcome"] == "done"


def test_a_broker_alone_says_so(tab: Tab) -> None:
    tab.open("cluster")
    tab.page.get_by_text("serves one node").wait_for()
