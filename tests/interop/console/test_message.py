"""The page of one message: its ledger, versions, reactions and attachments; and what others send is text, everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from tests.interop.console.conftest import Tab
from tests.interop.console.house import PASSWORD, House
from tests.support.until import wait_until

Tabs = Callable[..., Tab]


def counts(tab: Tab) -> dict[str, str]:
    """How many users, by what the tiles are called."""
    tiles = tab.page.locator(".steps > div")
    return {one.locator("dt").inner_text(): one.locator("strong").inner_text() for one in tiles.all()}


def test_the_ledger_says_who_has_a_message_on_which_device_and_moves(tab: Tab, home: House) -> None:
    home.device("bob", "bob-here", "chat/ledger")
    home.device("bob", "bob-away", "chat/ledger").paho.disconnect()
    message = home.say("alice", "chat/ledger", "who has it?")
    seq = home.http.get(f"/messages/{message}").json()["seq"]
    tab.open(f"message/{message}")
    page = tab.page
    page.get_by_role("row", name="bob-here").get_by_text("acknowledged", exact=True).wait_for()
    away = page.get_by_role("row", name="bob-away")
    away.get_by_text("stored", exact=True).wait_for()
    away.get_by_text("away", exact=True).wait_for()
    page.get_by_role("row", name="alice-tablet").get_by_text("stored", exact=True).wait_for()
    assert counts(tab) == {"Stored for": "2", "Delivered to": "2", "Acknowledged by": "2", "Read by": "0"}
    home.http.put("/conversations/chat/ledger/position?user=u/bob", json={"position": seq}).raise_for_status()
    wait_until(lambda: counts(tab)["Read by"] == "1", "bob has read it")
    home.device("bob", "bob-away")
    away.get_by_text("acknowledged", exact=True).wait_for()
    told = home.http.get(f"/messages/{message}/ledger").json()["counts"]["devices"]
    assert (
        f"it is for {told['due']}: delivered to {told['delivered']}, acknowledged by {told['acknowledged']}" in page.content()
    )


def test_who_is_not_its_sender_sees_how_many_and_not_who(home: House, tabs: Tabs) -> None:
    home.device("bob", "bob-counts", "chat/counts")
    message = home.say("alice", "chat/counts", "how many?")
    tab = tabs(home)
    tab.enter("bob", PASSWORD)
    tab.page.get_by_role("heading", name="Conversations").wait_for()
    tab.open(f"message/{message}")
    wait_until(lambda: counts(tab).get("Acknowledged by") == "2", "it is counted")
    assert tab.page.get_by_role("row", name="bob-counts").count() == 0


def test_a_sender_edits_and_reacts_and_all_versions_are_shown(home: House, tabs: Tabs) -> None:
    message = home.say("alice", "chat/versions", "at nein")
    tab = tabs(home)
    tab.enter("alice", PASSWORD)
    page = tab.page
    page.get_by_role("heading", name="Conversations").wait_for()
    tab.open(f"message/{message}")
    page.locator("summary", has_text="Edit it").click()
    page.get_by_label("The new version").fill("at nine")
    page.get_by_role("button", name="Save the new version").click()
    versions = page.get_by_role("list", name="Versions, the first one first")
    versions.get_by_text("at nein").wait_for()
    versions.get_by_text("at nine").wait_for()
    page.get_by_label("Another reaction").fill("🎉")
    page.get_by_role("button", name="React", exact=True).click()
    page.get_by_role("row", name="🎉").get_by_text("alice").wait_for()
    page.get_by_role("button", name="🎉, given 1 times", pressed=True).click()
    page.get_by_role("row", name="🎉").wait_for(state="detached")
    home.http.put(f"/messages/{message}/reactions/❤️?user=u/bob", json={}).raise_for_status()
    tab.open("conversations/chat%2Fversions")
    first = page.get_by_role("listitem").filter(has=page.get_by_role("link", name="message 1"))
    first.get_by_text("edited, 2 versions").wait_for()
    first.get_by_text("❤️ 1").wait_for()
    first.get_by_text("at nine").wait_for()
    page.get_by_text("reacts with").first.wait_for()
    page.get_by_text("a later version").first.wait_for()


def test_a_file_is_published_with_a_message_and_downloaded_from_its_page(tab: Tab, home: House, tmp_path: Path) -> None:
    file = tmp_path / "plan.txt"
    file.write_bytes(b"water the plants\n")
    page = tab.page
    tab.open("topics/chat%2Fplans")
    page.locator("summary", has_text="Publish a message").click()
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_label("Payload").fill("the plan")
    page.get_by_role("button", name="Publish").click()
    page.get_by_text("attachment", exact=True).first.wait_for()
    page.get_by_role("link", name="message 1").click()
    page.get_by_text("17 B, text/plain").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download plan.txt").click()
    assert Path(download.value.path()).read_bytes() == file.read_bytes()


def test_a_broker_without_the_plugins_says_so(empty_plain: House, tabs: Tabs) -> None:
    tab = tabs(empty_plain)
    posted = empty_plain.http.post("/messages", json={"topic": "a", "payload": "1"}).raise_for_status().json()
    words = {"presence": "presence is not on", "schedules": "schedules is not on", f"message/{posted['id']}": "which is not on"}
    for view, said in words.items():
        tab.open(view)
        tab.page.get_by_text(said).wait_for()
    assert tab.page.get_by_role("button", name="React").count() == 0


TAG = "<img src=x onerror=alert(1)><b>bold</b>"
TOPIC, EVE = "chat/<b>x<b>", "<b>eve</b>"


def evil(home: House) -> str:
    """Markup wherever somebody may put it; the id of a message that has much of it."""
    key = quote(f"u/{EVE}", safe="")
    home.http.post("/users", json={"name": EVE, "password": PASSWORD}).raise_for_status()
    home.http.put("/acl/rules/eve", json={"allow": ["all"], "topics": ["chat/#"], "users": [EVE]}).raise_for_status()
    home.device(EVE, TAG, f"{TOPIC}/#")  # and no conversation that another test counts in
    home.http.post(f"/schedules?user={key}", json={"topic": TOPIC, "payload": TAG, "delay": 3600}).raise_for_status()
    message = home.say(EVE, TOPIC, TAG, retain=True, properties=[["<i>", "<script>alert(1)</script>"]])
    reaction = quote("<b>!<b>", safe="")
    home.http.put(f"/messages/{message}/reactions/{reaction}?user={key}", json={}).raise_for_status()
    home.http.post(f"/messages/{message}/versions?user={key}", json={"payload": f"{TAG} again"}).raise_for_status()
    home.indexed()
    return message


def test_what_others_send_is_text_and_nothing_else(tab: Tab, home: House) -> None:
    message = evil(home)
    topic, key = quote(TOPIC, safe=""), quote(f"u/{EVE}", safe="")
    views = ["search/onerror", "conversations", "retained", f"topics/{topic}", "schedules", "presence", "clients"]
    for view in (
        *views,
        f"clients/{quote(TAG, safe='')}/{key}",
        f"timeline/{key}",
        "users",
        f"chat/{topic}",
        f"message/{message}",
    ):
        tab.open(view)
        if view.startswith("chat/"):
            side = tab.page.get_by_role("region", name="The laptop")
            side.get_by_label("User").fill(EVE)
            side.get_by_label("Password").fill(PASSWORD)
            side.get_by_role("button", name="Connect").click()
        tab.page.locator("#main").get_by_text(EVE if view == "users" else "onerror").filter(visible=True).first.wait_for()
        found = tab.page.locator("#main b, #main i:not(.key, .track, .filled), #main script, #main img")
        assert found.count() == 0, view
    tab.page.get_by_text("<script>alert(1)</script>").wait_for()
    tab.page.get_by_role("row", name="<b>!<b>").wait_for()
    tab.page.get_by_role("row", name=TAG).first.wait_for()
    assert tab.page.get_by_text(f"{TAG} again").count() > 1  # what is said now, and among the versions
    assert tab.page.locator("#main b, #main i:not(.key, .track, .filled), #main script, #main img").count() == 0
