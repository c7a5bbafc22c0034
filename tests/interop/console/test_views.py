"""Each view shows what the broker has, and does what its buttons say."""

from __future__ import annotations

import re
from collections.abc import Callable

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
    tab.page.get_by_role("button", name="Ban for an hour").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Ban for an hour").click()
    tab.open("clients")
    tab.page.locator("summary", has_text="Bans (1)").click()
    tab.page.get_by_role("button", name="Lift the ban of kicked").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Lift the ban").click()
    tab.page.get_by_text("Nobody is banned.").wait_for()
    assert home.http.get("/bans").json()["bans"] == []


def test_the_tree_is_walked_with_the_keyboard_down_to_a_history(tab: Tab) -> None:
    tab.open("topics")
    page = tab.page
    tree = page.get_by_role("tree", name="Topics")
    tree.get_by_role("treeitem").first.focus()

    def down_to(topic: str) -> None:
        """Also over what other tests have said there."""
        while not tree.locator("[role=treeitem]:focus > .row").get_by_text(topic, exact=True).count():
            page.keyboard.press("ArrowDown")

    page.keyboard.press("Home")
    down_to("chat/")
    page.keyboard.press("ArrowRight")
    tree.get_by_text("kitchen-team").wait_for()
    down_to("kitchen-team")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="chat/kitchen-team").wait_for()
    page.get_by_text("Ready. I moved the kitchen sensor").last.wait_for()
    assert tree.get_by_role("treeitem", selected=True).get_by_text("kitchen-team").count() == 1
    page.get_by_text("Who is subscribed").click()
    page.get_by_role("row", name="bob-phone").wait_for()


def test_a_level_of_many_topics_is_read_page_by_page(tab: Tab, home: House) -> None:
    many = [{"topic": f"chat/many/{number:03}", "payload": f"p{number}"} for number in range(220)]
    home.http.post("/messages?user=u/alice", json=many).raise_for_status()
    home.http.post("/messages?user=u/alice", json=[{"topic": "chat/many", "payload": "both"}]).raise_for_status()
    tab.open("topics")
    tree = tab.page.get_by_role("tree", name="Topics")
    tree.get_by_text("chat/", exact=True).locator("xpath=..").locator(".twist").click()
    tree.get_by_text("many/", exact=True).locator("xpath=..").locator(".twist").click()
    level = tree.get_by_role("treeitem", name="many/").get_by_role("treeitem")
    more = level.filter(has_text="More …")
    more.wait_for()
    assert level.count() == 101
    more.focus()
    tab.page.keyboard.press("Enter")
    tree.get_by_text("100", exact=True).wait_for()
    assert tab.page.evaluate("document.activeElement.querySelector('.name').textContent") == "100"
    more.click()
    tree.get_by_text("219", exact=True).wait_for()
    assert level.count() == 220
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    for _ in range(2):
        with tab.page.expect_request(lambda request: "after=chat%2Fmany%2F199" in request.url):
            pass
    first = "prefix=chat%2Fmany%2F&limit"
    assert not [url for url in asked if first in url]  # it is out of sight
    home.say("alice", "chat/many/000", "another")
    level.first.scroll_into_view_if_needed()
    wait_until(lambda: "another" in level.first.locator(".notes").inner_text(), "what is seen is asked for again")


def test_it_says_who_is_online(home: House, tabs: Tabs) -> None:
    client = home.device("bob", "bob-comes-and-goes")
    tab = tabs(home)
    tab.enter("alice", PASSWORD)
    tab.page.get_by_role("link", name="Presence").click()
    row = tab.page.get_by_role("row", name="bob")
    device = row.get_by_role("listitem").filter(has_text="bob-comes-and-goes")
    device.get_by_text("since").wait_for()
    client.paho.disconnect()
    device.get_by_text("last seen").wait_for()
    tab.page.get_by_label("User", exact=True).fill("nobody")
    tab.page.get_by_role("button", name="Show").click()
    tab.page.get_by_role("row", name="nobody").get_by_text("never seen").wait_for()


def test_a_message_is_scheduled_listed_and_cancelled(home: House, tabs: Tabs) -> None:
    tab, operator = tabs(home), tabs(home)
    tab.enter("alice", PASSWORD)
    tab.page.get_by_role("link", name="Schedules").click()
    page = tab.page
    page.locator("summary", has_text="Publish a message later").click()
    for topic, amount in (("chat/later", "1"), ("chat/never", "7")):
        page.get_by_label("Topic").fill(topic)
        page.get_by_label("Payload").fill("from then")
        page.get_by_label("How many").fill(amount)
        page.get_by_label("Unit").select_option("seconds" if topic == "chat/later" else "days")
        page.get_by_role("button", name="Schedule the message").click()
        page.get_by_text(f"The message to {topic} is published").first.wait_for()
    page.get_by_role("row", name="chat/later").wait_for(state="detached")
    assert home.http.get("/conversations/chat/later/messages").json()["messages"][0]["payload"] == "from then"
    page.get_by_label("Published").select_option("again and again")
    page.get_by_label("How often").fill("every now and then")
    page.get_by_role("button", name="Schedule the message").click()
    page.get_by_role("alert").get_by_text("every now and then").wait_for()
    operator.operate(home.secret)
    operator.open("schedules")
    operator.page.get_by_role("row", name="chat/kitchen-team").get_by_text("30 9 * * 1-5").wait_for()
    operator.page.get_by_role("button", name="Cancel the message to chat/never").click()
    operator.page.get_by_role("dialog").get_by_role("button", name="Cancel the message").click()
    page.get_by_role("row", name="chat/never").wait_for(state="detached")
    assert home.http.get("/schedules?user=u/alice").json()["schedules"] == []


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


def test_the_rules_are_counted_and_tried(tab: Tab) -> None:
    tab.open("rules")
    page = tab.page
    row = page.get_by_role("row", name="cellar")
    row.get_by_text("it is published again to pager/{rest}").wait_for()
    assert row.get_by_role("cell").all_inner_texts()[3:5] == ["1", "1"]
    answer = page.locator(".answer")
    for payload, told in (
        ('{"room": "attic"}', "its topic becomes home/attic/state"),
        ('{"room": "a/b"}', "is no level of a topic"),
    ):
        page.get_by_label("Topic", exact=True).fill("ingest")
        page.get_by_label("Payload").fill(payload)
        page.get_by_role("button", name="Try the rules").click()
        answer.get_by_text(told).wait_for()
    assert answer.get_by_text("fails", exact=True).count() == 1
    page.get_by_label("Topic", exact=True).fill("a/#")
    page.get_by_role("button", name="Try the rules").click()
    page.get_by_role("alert").get_by_text("a/#").wait_for()
    assert page.get_by_role("row", name="sort").get_by_role("cell").all_inner_texts()[3:] == ["0", "0", "0", "none"]


def test_an_erasure_begins_once_its_name_is_typed(tab: Tab, home: House) -> None:
    home.say("alice", "chat/erase/me", "to be gone")
    tab.open("erasures")
    page = tab.page
    page.get_by_label("What").select_option("conversation")
    page.get_by_label("Conversation (topic)").fill("chat/erase/me")
    page.get_by_role("button", name="Erase …").click()
    dialog = page.get_by_role("dialog")
    sure = dialog.get_by_role("button", name="Erase for good")
    typed = dialog.get_by_label("Type chat/erase/me to confirm")
    typed.fill("chat/erase/m")
    assert sure.is_disabled()
    typed.press("Enter")
    assert dialog.is_visible()
    typed.press_sequentially("e")
    typed.press("Enter")
    row = page.get_by_role("row", name="chat/erase/me")
    row.get_by_text("erased", exact=True).wait_for()
    assert home.http.get("/conversations/chat/erase/me/messages").json()["messages"][-1]["recalled"]
    row.get_by_role("button", name="Forget").click()
    dialog.get_by_role("button", name="Forget it").click()
    row.wait_for(state="detached")
    assert home.http.get("/erasures").json()["erasures"] == []


def test_a_job_runs_now(tab: Tab, home: House) -> None:
    tab.open("jobs")
    tab.page.get_by_role("button", name="Run sessions now").click()
    tab.page.get_by_role("row", name="sessions").get_by_text("done", exact=True).wait_for()
    assert home.http.get("/jobs/sessions").json()["last"]["outcome"] == "done"


def test_a_broker_alone_says_so(tab: Tab) -> None:
    tab.open("cluster")
    tab.page.get_by_text("serves one node").wait_for()
