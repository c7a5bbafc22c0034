"""The chat: two devices side by side, over MQTT in the page itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.interop.console.conftest import Tab
from tests.interop.console.house import PASSWORD, House

Tabs = Callable[..., Tab]


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
    other.page.get_by_text("taken back", exact=True).first.wait_for()
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


def chat(tabs: Tabs, home: House, topic: str) -> tuple[Tab, Any, Any]:
    """Alice on the laptop and bob on the phone, in one tab of alice."""
    tab = tabs(home)
    tab.enter("alice", PASSWORD)
    tab.page.get_by_role("heading", name="Conversations").wait_for()
    tab.open(f"chat/{topic.replace('/', '%2F')}")
    return tab, connect(tab, "laptop", "alice"), connect(tab, "phone", "bob")


def say(where: Any, words: str) -> None:
    where.get_by_label("Message from").fill(words)
    where.get_by_role("button", name="Send").click()
    where.get_by_role("log").get_by_text(words).wait_for()


def test_an_edit_and_a_reaction_are_seen_on_both_sides(home: House, tabs: Tabs) -> None:
    tab, laptop, phone = chat(tabs, home, "chat/edits")
    say(laptop, "at nein")
    laptop.get_by_label("Actions for message 1").click()
    laptop.get_by_role("button", name="Edit message 1").click()
    assert laptop.get_by_label("Message from").input_value() == "at nein"
    say(laptop, "at nine")
    item = phone.get_by_role("listitem").filter(has_text="at nine")
    item.get_by_text("edited").wait_for()
    assert phone.get_by_role("log").get_by_text("at nein").count() == 0
    item.get_by_label("Actions for message 1").focus()
    tab.page.keyboard.press("Enter")  # by the keyboard alone
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Space")
    laptop.get_by_role("button", name="👍 1").wait_for()
    laptop.get_by_role("button", name="👍 1").click()
    phone.get_by_role("button", name="👍 2").click()
    laptop.get_by_role("button", name="👍 1").wait_for()
    given = home.http.get("/conversations/chat/edits/messages").json()["messages"][-1]["reactions"]
    assert given == {"👍": 1}


def test_a_sender_is_told_how_far_its_message_is(home: House, tabs: Tabs) -> None:
    _, laptop, phone = chat(tabs, home, "chat/receipts")
    say(laptop, "do you read me?")
    laptop.get_by_text("delivered to 1 of 1").wait_for()
    phone.get_by_role("button", name="Mark as read").click()
    laptop.get_by_text("read by 1 of 1").wait_for()


def test_a_message_is_taken_back_on_the_side_that_sent_it(home: House, tabs: Tabs) -> None:
    tab, laptop, phone = chat(tabs, home, "chat/oops")
    say(laptop, "not for you")
    phone.get_by_role("log").get_by_text("not for you").wait_for()
    phone.get_by_label("Actions for message 1").click()
    assert phone.get_by_role("button", name="Take message 1 back").count() == 0
    laptop.get_by_label("Actions for message 1").click()
    message = home.http.get("/conversations/chat/oops/messages").json()["messages"][0]["id"]
    home.http.put(f"/messages/{message}/reactions/👍?user=u/bob", json={}).raise_for_status()
    laptop.get_by_role("button", name="👍 1").wait_for()  # it is another now, with its actions still open
    laptop.get_by_role("button", name="Take message 1 back").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Take it back").click()
    phone.get_by_role("log").get_by_text("taken back").wait_for()
    assert phone.get_by_role("log").get_by_text("not for you").count() == 0


def test_it_shows_who_is_there_and_who_types(home: House, tabs: Tabs) -> None:
    _, laptop, phone = chat(tabs, home, "chat/typing")
    say(phone, "hello")
    laptop.get_by_text("bob", exact=True).filter(visible=True).first.wait_for()
    laptop.locator(".present").get_by_text("online").wait_for()
    phone.get_by_label("Message from").press_sequentially("wait")
    laptop.get_by_text("bob typing …").wait_for()
    assert phone.get_by_text("typing …").count() == 0
    phone.get_by_role("button", name="Send").click()
    laptop.get_by_role("log").get_by_text("wait").wait_for()
    laptop.get_by_text("bob typing …").wait_for(state="detached")
    phone.get_by_role("button", name="Disconnect").click()
    assert home.http.get("/topics?prefix=$typing").json()["topics"] == []


def test_a_file_goes_with_a_message(home: House, tabs: Tabs, tmp_path: Path) -> None:
    tab, laptop, phone = chat(tabs, home, "chat/files")
    photo = tmp_path / "Küche & <b>.bin"
    photo.write_bytes(bytes(range(256)) * 20_000)  # more than one piece
    laptop.locator("input[type=file]").set_input_files(photo)
    laptop.get_by_text(photo.name).wait_for()
    say(laptop, "look")
    button = phone.get_by_role("button", name=f"Download {photo.name}")
    with tab.page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename == photo.name.replace("<", "_").replace(">", "_")
    assert Path(download.value.path()).read_bytes() == photo.read_bytes()
    assert phone.get_by_role("button", name="Attach").filter(visible=True).count() == 0  # the page uploads as alice


def test_a_chat_that_goes_on_keeps_the_last_messages_and_their_elements(home: House, tabs: Tabs) -> None:
    tab, topic = tabs(home), "chat/long"
    tab.operate(home.secret)
    tab.open("chat/chat%2Flong")
    laptop = connect(tab, "laptop", "alice")
    laptop.get_by_text("all read", exact=True).wait_for()  # what was said is loaded, and it hears what will be
    items = laptop.locator(".log li")
    for first in range(0, 400, 100):
        said = [{"topic": topic, "payload": f"word {number}."} for number in range(first, first + 100)]
        home.http.post("/messages", params={"user": "u/alice"}, json=said).raise_for_status()
    items.filter(has_text="word 399.").wait_for()
    assert items.count() == 300
    laptop.get_by_role("button", name="Earlier messages").click()
    items.filter(has_text="word 50.").wait_for()
    tab.page.evaluate("document.querySelectorAll('.log li').forEach((item) => { item.dataset.early = 'yes'; })")
    home.say("alice", topic, "while you read")
    items.filter(has_text="while you read").wait_for()
    assert items.count() == 350  # what was asked for stays, until its reader is back at the end
    assert tab.page.locator(".log li[data-early]").count() == 349
    tab.page.evaluate("document.querySelectorAll('.log').forEach((log) => log.scrollTo(0, log.scrollHeight))")
    home.say("alice", topic, "and one more")
    items.filter(has_text="and one more").wait_for()
    assert items.count() == 300
    assert items.first.locator(".words").inner_text() == "word 102."
    assert tab.page.locator(".log li[data-early]").count() == 298
    laptop.get_by_role("button", name="Earlier messages").click()
    items.filter(has_text="word 52.").wait_for()
    assert items.nth(50).locator(".words").inner_text() == "word 102."


def test_what_arrives_while_a_chat_asks_for_the_last_messages_is_not_asked_for_again(home: House, tabs: Tabs) -> None:
    tab, topic = tabs(home), "chat/busy"

    def say(words: str, count: int) -> None:
        said = [{"topic": topic, "payload": f"{words} {number}."} for number in range(count)]
        home.http.post("/messages", params={"user": "u/alice"}, json=said).raise_for_status()

    def between(page: Any) -> None:
        broker = page.connect_to_server()

        def sent(frame: bytes) -> None:
            if b'"op":"history"' in frame and b'"before"' not in frame:
                say("meanwhile", 100)
            broker.send(frame)

        page.on_message(sent)

    say("before", 30)
    tab.page.route_web_socket("**/*", between)
    tab.operate(home.secret)
    tab.open("chat/chat%2Fbusy")
    laptop = connect(tab, "laptop", "alice")
    items = laptop.locator(".log li")
    items.filter(has_text="meanwhile 99.").wait_for()
    items.filter(has_text="meanwhile 0.").wait_for()
    laptop.get_by_role("button", name="Earlier messages").click()
    items.filter(has_text="before 0.").wait_for()
