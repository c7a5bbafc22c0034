"""What the documents show with mosquitto's clients and curl works as it stands there, but for the port."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from tests.interop.conftest import Site
from tests.interop.programs import Program, needs, ok, run
from tests.support.laws_process import ROOT
from tests.support.until import wait_until

pytestmark = [needs("mosquitto_pub", "Debian's mosquitto-clients"), needs("curl", "Debian's curl")]


def commands(document: str, program: str, port: int) -> list[list[str]]:
    """The commands of a document that begin with this, in order, with our port."""
    text = (ROOT / document).read_text().replace("\\\n", " ")
    lines = re.findall(rf"^(?:\$ )?({program}.*)$", text, re.MULTILINE)
    found = [shlex.split(line, comments=True) for line in lines]
    if program == "curl":
        return [[word.replace("localhost:8080", f"localhost:{port}") for word in words] for words in found]
    return [[words[0], "-p", str(port), *words[1:]] for words in found]


@pytest.fixture
def own(crashing: AbstractContextManager[Site]) -> Iterator[Site]:
    """A broker that has seen no other page: they use the same names."""
    with crashing as site:
        yield site


def test_the_readme_shows_a_laptop_that_gets_what_it_missed(own: Site) -> None:
    first, publish, second, *_ = commands("README.md", "mosquitto_", own.port)
    with Program(*first, "-d") as laptop:
        laptop.line("Subscribed")
        laptop.stop()
    ok(*publish)
    with Program(*second) as laptop:
        assert laptop.line("home/") == "home/kitchen/temp 21.5"


def test_history_with_nothing_but_mosquittos_clients(own: Site) -> None:
    *asks, listens = commands("docs/sync.md", "mosquitto_", own.port)
    for command in asks:
        ok(*command)
    answer = json.loads(ok(*listens))
    assert (answer["op"], answer["messages"][0]["topic"], answer["messages"][0]["payload"]) == (
        "history",
        "home/kitchen",
        "21.5",
    )


def test_each_call_that_the_api_s_page_shows(own: Site) -> None:
    ok("mosquitto_pub", "-p", str(own.port), "-q", "1", "-t", "home/kitchen", "-m", "20.5")
    with Program("mosquitto_sub", "-p", str(own.port), "-d", "-i", "laptop", "-c", "-q", "1", "-t", "home/#") as laptop:
        laptop.line("Subscribed")
    history, publish, retained, several, sync, ack = commands("docs/http.md", "curl", own.ports["http"])
    assert "20.5" in [message["payload"] for message in json.loads(ok(*history))["messages"]]
    stored = json.loads(ok(*publish))
    assert stored["state"] == "stored"
    assert json.loads(ok(*retained))["seq"] == stored["seq"] + 1
    assert [one["status"] for one in json.loads(ok(*several))["results"]] == [201, 403]
    device = f"http://localhost:{own.ports['http']}/v1/devices/laptop"
    wait_until(lambda: '"connected":false' in run("curl", "-s", device).stdout, "the laptop's connection is gone")
    page = json.loads(ok(*sync))
    assert page["entries"][-2]["message"]["id"] == stored["id"]
    acknowledge = [
        re.sub(r'\{"device".*\}', json.dumps({"device": "laptop", "epoch": page["epoch"], "offset": page["next"]}), word)
        for word in ack
    ]
    assert json.loads(ok(*acknowledge)) == {"offset": page["next"]}


def test_scheduled_messages_as_their_page_shows_them(own: Site) -> None:
    publish, listens = commands("docs/schedules.md", "mosquitto_", own.port)
    ok(*publish)
    assert ok(*listens).strip() == "home/lamp off"
    delayed, daily, listed, cancels = commands("docs/schedules.md", "curl", own.ports["http"])
    assert json.loads(ok(*delayed))["topic"] == "home/lamp"
    made = json.loads(ok(*daily))
    assert (made["schedule"], made["timezone"]) == ("30 9 * * 1-5", "Europe/Berlin")
    assert made["id"] in [one["id"] for one in json.loads(ok(*listed))["schedules"]]
    ok(*(re.sub(r"/5b21…$", f"/{made['id']}", word) for word in cancels), "-f")
    assert made["id"] not in [one["id"] for one in json.loads(ok(*listed))["schedules"]]


def test_presence_as_its_page_shows_it(own: Site) -> None:
    watches, listens, types = commands("docs/presence.md", "mosquitto_", own.port)
    state = json.loads(ok(*watches))
    assert (state["online"], [device["device"] for device in state["devices"]]) == (True, ["watcher"])
    (asks,) = commands("docs/presence.md", "curl", own.ports["http"])
    wait_until(lambda: json.loads(ok(*asks))["online"] is False, "who has gone is offline")
    with Program(*listens, "-d") as reader:
        reader.line("Subscribed")
        ok(*types)
        reader.line('{"typing": true}')


def test_messages_are_edited_reacted_to_and_recalled_as_their_page_shows(own: Site) -> None:
    """The page's commands are those of the sender, with an id of its own in the place of the page's."""
    by_property, by_request, edits, reacts = commands("docs/recall.md", "mosquitto_", own.port)
    (over_http,) = commands("docs/recall.md", "curl", own.ports["http"])
    history = f"http://localhost:{own.ports['http']}/v1/conversations/chat/room/messages"

    def messages() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(ok("curl", "-s", history))["messages"]
        return found

    def said() -> str:
        """The id of a new message of the laptop's."""
        before = len(messages())
        ok("mosquitto_pub", "-p", str(own.port), "-i", "laptop", "-q", "1", "-t", "chat/room", "-m", "at eight")
        wait_until(lambda: len(messages()) > before)
        return str(messages()[0]["id"])

    def about(command: list[str], id: str) -> str:
        return ok(*(word.replace("1a2b3c4d5e6f7081", id) for word in command))

    def one(id: str) -> dict[str, object]:
        return next(message for message in messages() if message["id"] == id)

    id = said()
    about(edits, id)
    about(reacts, id)
    wait_until(lambda: one(id)["reactions"] == {"❤️": 1})
    assert (one(id)["payload"], one(id)["versions"]) == ("at nine", 2)
    about(by_property, id)
    wait_until(lambda: one(id)["recalled"])
    assert one(id)["payload"] == ""
    id = said()
    about(by_request, id)
    wait_until(lambda: one(id)["recalled"])
    id = said()
    assert json.loads(about(over_http, id))["recalled"] == id
    assert one(id)["payload"] == ""
