"""The JavaScript client against a real broker: offline first, what comes and what is sent survives the app and the broker."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.interop.javascript.conftest import Apps, Site, site
from tests.interop.programs import Program, needs, npm_needs
from tests.support.laws_process import ROOT
from tests.support.until import wait_until

pytestmark = [needs("node", "Debian's nodejs"), needs("npm", "Debian's npm"), npm_needs("mqtt"), npm_needs("typescript")]


def test_what_was_sent_offline_goes_out_in_order_also_when_the_app_was_killed(shared: Site, apps: Apps) -> None:
    offline = apps(shared, "a1", connect=False)
    for number in range(5):
        offline.call("send", "n1/a", str(number))
    offline.kill()
    app = apps(shared, "a1", "n1/#")
    assert [app.message() for _ in range(5)] == ["0", "1", "2", "3", "4"]
    wait_until(lambda: app.call("outbox") == [], "the outbox is empty")
    assert shared.texts("n1/a") == ["0", "1", "2", "3", "4"]


def test_what_is_sent_twice_is_stored_once(shared: Site, apps: Apps, tmp_path: Path) -> None:
    offline = apps(shared, "a2", connect=False)
    offline.call("send", "n2/a", "once")
    offline.kill()
    before = shutil.copy(tmp_path / "a2.log", tmp_path / "before.log")
    for _ in range(2):
        app = apps(shared, "a2", "n2/#")
        wait_until(lambda app=app: app.call("outbox") == [], "the outbox is empty")  # type: ignore[misc]
        app.end()
        shutil.copy(before, tmp_path / "a2.log")  # as if its acknowledgement had been lost
    assert shared.texts("n2/a") == ["once"]


def test_an_app_that_was_away_has_what_it_missed_and_what_it_had(shared: Site, apps: Apps) -> None:
    app = apps(shared, "a3", "n3/#")
    shared.say("bob", "n3/a", "one")
    assert app.message() == "one"
    app.end()
    shared.say("bob", "n3/a", "two")
    app = apps(shared, "a3", "n3/#")
    assert app.message() == "two"
    assert [message["payload"] for message in app.call("store.history", "n3/a", 9)] == ["one", "two"]
    shared.say("bob", "n3/a", "three")
    assert app.message() == "three"
    assert app.events("message") == []


def test_without_its_session_the_app_goes_on_from_its_own_offset(shared: Site, apps: Apps) -> None:
    app = apps(shared, "a4", "n4/#")
    other = apps(shared, "a4-keeper", "n4/#", user="a4")  # so that the user's inbox goes on
    shared.say("bob", "n4/a", "one")
    assert app.message() == "one"
    app.end()
    shared.say("bob", "n4/a", "two")
    assert other.message(text="two") == "two"
    assert shared.http.delete("/devices/a4", params={"user": "u/a4"}).status_code == 204
    app = apps(shared, "a4", "n4/#")
    assert app.message() == "two"
    app.end()
    # a session that the broker believes to be further than the app is, as a crash between the two could leave it
    shared.say("bob", "n4/a", "three")
    head = shared.http.get("/devices/a4", params={"user": "u/a4"}).json()["head"]
    moved = other.call("request", {"op": "set-offset", "device": "a4", "offset": head})
    assert moved["offset"] == head
    assert apps(shared, "a4", "n4/#").message() == "three"


def test_the_offset_of_what_follows_is_kept_also_before_the_app_has_gone_back(apps: Apps, tmp_path: Path) -> None:
    with site(tmp_path) as at:
        app = apps(at, "a16", "n16/#")
        at.say("bob", "n16/a", "one")
        assert app.message() == "one"
        wait_until(lambda: app.call("store.mark")["offset"] == 1, "the offset is kept")
        app.end()
        at.say("bob", "n16/a", "two")
    with site(tmp_path, requests=False) as at:  # nobody answers where the app is to go back to
        app = apps(at, "a16", "n16/#", connect=False)
        app.ask("start")
        assert app.message() == "two"
        assert app.call("store.mark")["offset"] == 2
        assert app.events("connected") == []


def test_a_copy_of_other_data_begins_anew_and_the_outbox_stays(shared: Site, apps: Apps) -> None:
    app = apps(shared, "a5", "n5/#")
    shared.say("bob", "n5/a", "one")
    assert app.message() == "one"
    app.end()
    offline = apps(shared, "a5", connect=False)
    offline.call("send", "n5/b", "mine")
    offline.call("store.begin", 700, "an epoch that there never was")
    offline.end()
    app = apps(shared, "a5", "n5/#")
    assert app.message(topic="n5/b") == "mine"
    wait_until(lambda: app.call("outbox") == [], "the outbox is empty")
    assert app.call("topics") == ["n5/b"]
    assert [message["payload"] for message in app.call("history", "n5/a")] == ["one"]


def test_receipts_read_positions_and_unread_counts(shared: Site, apps: Apps) -> None:
    alice, bob, tablet = apps(shared, "a6", "n6/#"), apps(shared, "b6", "n6/#"), apps(shared, "b6-tablet", "n6/#", user="b6")
    key = alice.call("send", "n6/a", "hello", {"receipt": ["delivered", "read"]})
    told = alice.event("receipt", state="delivered")
    assert (told["key"], told["count"], told["of"], told["users"]) == (key, 1, 1, ["u/b6"])
    assert (bob.message(), tablet.message()) == ("hello", "hello")
    assert bob.call("unread", "n6/a") == 1
    bob.call("markRead", "n6/a", 1)
    assert bob.call("unread", "n6/a") == 0
    assert tablet.event("read") == {"event": "read", "topic": "n6/a", "position": 1}
    assert tablet.call("unread", "n6/a") == 0
    assert alice.event("receipt", state="read")["users"] == ["u/b6"]
    (message,) = alice.call("history", "n6/a")
    assert alice.call("receipts", message["id"]) == {"stored": 2, "delivered": 2, "acknowledged": 2, "read": 1}


def test_what_was_read_offline_is_told_later(shared: Site, apps: Apps) -> None:
    app = apps(shared, "a7", "n7/#")
    shared.say("bob", "n7/a", "hello")
    assert app.message() == "hello"
    app.end()
    offline = apps(shared, "a7", connect=False)
    offline.call("markRead", "n7/a", 1)
    offline.kill()
    app = apps(shared, "a7", "n7/#")
    wait_until(lambda: app.call("request", {"op": "position", "topic": "n7/a"})["position"] == 1, "the broker knows")
    wait_until(lambda: app.call("store.untold") == [], "it is known to know")


def test_a_conversation_in_which_nobody_has_said_anything_has_an_empty_history(shared: Site, apps: Apps) -> None:
    app = apps(shared, "a21", "n21/#")
    app.call("send", "n21/a", "here")
    wait_until(lambda: app.call("outbox") == [], "the broker has it")
    assert [message["payload"] for message in app.call("history", "n21/a")] == ["here"]
    for topic in ("n21/none", "forbidden/other"):
        assert app.call("history", topic) == []
    assert app.fails("request", {"op": "history", "topic": "forbidden/other"}, 60_000)["code"] == "not-found"
    app.end()


def test_history_fetches_what_is_missing_page_by_page(shared: Site, apps: Apps) -> None:
    for number in range(4):
        shared.say("a8", "n8/a", str(number))
    app = apps(shared, "a8", "n8/#")
    found = app.call("history", "n8/a", {"limit": 3})
    assert [message["payload"] for message in found] == ["1", "2", "3"]
    assert [one["payload"] for one in app.call("history", "n8/a", {"limit": 3, "before": found[0]["seq"]})] == ["0"]
    error = app.fails("request", {"op": "history", "topic": "forbidden/b"}, 60_000)
    assert (error["name"], error["code"]) == ("RequestFailed", "not-found")
    assert error["message"] == "conversation 'forbidden/b': there is none, or you may not read it"
    app.end()
    offline = apps(shared, "a8", connect=False)
    assert [message["payload"] for message in offline.call("history", "n8/a", {"limit": 2})] == ["2", "3"]
    assert offline.fails("request", {"op": "device"})["message"] == "device: not connected"


def test_bad_values_are_named_with_what_would_be_right(shared: Site, apps: Apps) -> None:
    app = apps(shared, "a9", connect=False)
    for call, values, words in (
        ("send", ["a/+", "x"], 'topic "a/+": a message goes to one topic; + and # are for filters'),
        ("send", ["", "x"], 'topic "": must have at least one character'),
        ("send", ["a", 3], "payload 3: must be text or a Uint8Array"),
        ("send", ["a", "x", {"receipt": ["seen"]}], 'receipt "seen": must be of delivered, acknowledged, read'),
        ("subscribe", ["a/#/b"], 'filter "a/#/b": + stands for one whole level, # for all levels at the end'),
        ("history", ["a", {"limit": -1}], "limit -1: must be a whole number from 0 on"),
        ("markRead", ["a", 0], "seq 0: must be that of a message, from 1 on"),
    ):
        assert app.fails(call, *values)["message"] == words


def test_what_the_broker_refuses_stays_with_the_reason_and_the_rest_goes_on(shared: Site, apps: Apps) -> None:
    """Also what a broker ends the connection for, without saying which message it was."""
    offline = apps(shared, "a10", connect=False)
    deep = "/".join(["n10"] * 300)
    for topic, payload in (("n10/a", "x" * 1_100_000), ("n10/a", "1"), (deep, "2"), ("$SYS/x", "3"), ("n10/a", "4")):
        offline.call("send", topic, payload)
    offline.kill()
    app = apps(shared, "a10", "n10/#")
    refused = [app.event("refused") for _ in range(3)]
    assert {one["topic"]: one["reason"] != "" for one in refused} == {"n10/a": True, deep: True, "$SYS/x": True}
    wait_until(lambda: shared.texts("n10/a") == ["1", "4"], lambda: str(app.call("outbox")))
    wait_until(lambda: len(app.call("outbox")) == 3, "what was taken is out of the outbox")
    for one in refused:
        app.call("discard", one["key"])
    assert app.call("outbox") == []


def test_members_get_a_conversation_without_subscribing(shared: Site, apps: Apps) -> None:
    bob, alice = apps(shared, "b11"), apps(shared, "a11")
    topic = alice.call("request", {"op": "conversation-create", "kind": "direct", "members": ["u/b11"]})["topic"]
    assert bob.event("membership")["topic"] == topic
    alice.call("send", topic, "hello")
    assert bob.message(topic=topic) == "hello"
    (listed,) = [one for one in bob.call("conversations") if one["topic"] == topic]
    assert (listed["kind"], listed["unread"], listed["lastMessage"]["payload"]) == ("direct", 1, "hello")


def test_what_is_taken_back_leaves_the_local_copy(shared: Site, apps: Apps) -> None:
    alice, bob = apps(shared, "a12", "n12/#"), apps(shared, "b12", "n12/#")
    alice.call("send", "n12/a", "hello")
    message = bob.event("message")
    assert message["text"] == "hello"
    alice.call("request", {"op": "recall", "message": message["id"]})
    assert bob.event("message")["recalls"] == [message["id"]]
    first, second = bob.call("store.history", "n12/a", 9)
    assert (first["payload"], first["recalled"], second["payload"], second["recalled"]) == ("", True, "", False)


def test_a_killed_broker_loses_nothing_and_nothing_is_shown_twice(own: Site, apps: Apps) -> None:
    sender, reader = apps(own, "sender"), apps(own, "reader", "room/#")
    sent = [str(number) for number in range(400)]
    asked = []
    for number, text in enumerate(sent):
        asked.append(sender.ask("send", "room/a", text))
        if number in (100, 250):
            reader.message(text=sent[number - 90])
            own.broker.kill()
            sender.event("connected", connected=False)
            own.broker.start()
    for number in asked:
        sender.answer(number)
    wait_until(lambda: sender.call("outbox") == [], "the outbox is empty")
    assert own.texts("room/a") == sent
    wait_until(lambda: len(reader.call("store.history", "room/a", 999)) == 400, "all came")
    shown = [event["text"] for event in reader.events("message")] + [sent[10], sent[160]]
    assert sorted(shown, key=int) == sent


def test_a_killed_app_loses_nothing_and_shows_nothing_twice(shared: Site, apps: Apps, tmp_path: Path) -> None:
    """It sends and gets its own messages, and is killed again and again in the midst of it."""
    chance, kept, shown, number = random.Random(15), [], [], 0
    for _ in range(8):
        app = apps(shared, "a14", "n14/#", connect=False)
        app.ask("start")
        asked = {}
        for _ in range(chance.randrange(5, 60)):
            asked[app.ask("send", "n14/a", str(number))] = str(number)
            number += 1
        waits = chance.choice(list(asked))
        app.answer(waits)
        if chance.random() < 0.7:
            app.event("message")
            shown.append("")
        events = app.kill()
        kept += [asked[waits]] + [asked[event["id"]] for event in events if event["event"] == "answer" and event["id"] in asked]
        shown += [event["text"] for event in events if event["event"] == "message"]
    app = apps(shared, "a14", "n14/#")
    wait_until(lambda: app.call("outbox") == [], "the outbox is empty")
    stored = shared.texts("n14/a")
    assert set(kept) <= set(stored), "what it said was kept"
    assert len(set(stored)) == len(stored), "is stored once"
    assert stored == sorted(stored, key=int), "in order"
    wait_until(lambda: [one["payload"] for one in app.call("store.history", "n14/a", 9999)] == stored, "it has all of it, once")
    shown += [event["text"] for event in app.events("message")]
    named = [text for text in shown if text]
    assert len(set(named)) == len(named), "nothing was shown twice"


def test_the_example_in_the_readme_runs(shared: Site, project: Path, tmp_path: Path) -> None:
    text = (ROOT / "clients/javascript/README.md").read_text(encoding="utf-8")
    program = (
        text.split("```js\n")[1]
        .split("```")[0]
        .replace("mqtt://localhost:1883", shared.url)
        .replace("chat.log", str(tmp_path / "chat.log"))
    )
    assert len(program.splitlines()) <= 12
    program = program.replace('device: "laptop"', 'device: "laptop", user: "laptop", password: "laptop"')
    (project / "example.mjs").write_text(program)
    with Program("node", str(project / "example.mjs")) as example:
        assert example.line("u/laptop") == "u/laptop dinner is ready"
        assert example.line("1 ") == "1 dinner is ready"  # which the history has
    assert shared.texts("chat/kitchen") == ["dinner is ready"]
