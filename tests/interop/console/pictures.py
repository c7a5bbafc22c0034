"""The pictures of docs/console.md, taken of a furnished broker: ``python -m tests.interop.console.pictures``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import sync_playwright

from tests.interop.console.conftest import Tab
from tests.interop.console.house import PASSWORD, House, house
from tests.interop.console.palette import with_few_colours
from tests.support.laws_process import ROOT

SECONDS = 75
"""That the figures are gathered for, so that their plots show something."""


def overview(tab: Tab, home: House) -> None:
    tab.open("overview")
    tab.page.wait_for_timeout(SECONDS * 1000)


def timelines(tab: Tab, home: House) -> None:
    tab.open("timeline/u%2Falice")
    tablet = "/devices/alice-tablet{}?user=u/alice"
    head = home.http.get(tablet.format("")).json()["head"]
    home.http.put(tablet.format("/offset"), json={"offset": head}).raise_for_status()
    tab.page.wait_for_timeout(4000)


def topics(tab: Tab, home: House) -> None:
    tab.open("topics/home%2Fkitchen%2Ftemperature")
    tab.page.wait_for_timeout(12_000)


def message(tab: Tab, home: House) -> None:
    team = home.said[1]
    last = home.http.get("/conversations/chat/kitchen-team/messages?limit=1").json()["last"]
    home.http.put("/conversations/chat/kitchen-team/position?user=u/alice", json={"position": last}).raise_for_status()
    tab.open(f"message/{team}")
    tab.page.get_by_role("row", name="alice-tablet").wait_for()
    tab.page.set_viewport_size({"width": 1280, "height": 1080})  # down to the devices
    tab.page.wait_for_timeout(3000)


def chat(tab: Tab, home: House) -> None:
    tab.open("chat/chat%2Fkitchen-team")
    for name, user in (("laptop", "alice"), ("phone", "bob")):
        side: Any = tab.page.get_by_role("region", name=f"The {name}")
        side.get_by_label("User").fill(user)
        side.get_by_label("Password").fill(PASSWORD)
        side.get_by_role("button", name="Connect").click()
        side.get_by_label("Message from").wait_for()
    tab.page.get_by_role("button", name="Mark as read").last.click()
    laptop = tab.page.get_by_role("region", name="The laptop")
    laptop.get_by_label("Message from").fill("Great. I will be there at three.")
    laptop.get_by_role("button", name="Send").click()
    laptop.get_by_text("delivered to 1 of 1").wait_for()
    tab.page.get_by_label("Message from the phone").press_sequentially("Me too")
    tab.page.wait_for_timeout(1000)


def erasures(tab: Tab, home: House) -> None:
    home.http.post("/erasures", json={"conversation": "chat/alice-bob"}).raise_for_status()
    tab.open("erasures")
    tab.page.get_by_role("row", name="chat/alice-bob").get_by_text("erased", exact=True).wait_for()
    tab.page.get_by_label("User name").fill("carol")
    tab.page.get_by_role("button", name="Erase …").click()
    tab.page.get_by_role("dialog").get_by_role("textbox").fill("u/car")


def rules(tab: Tab, home: House) -> None:
    tab.open("rules")
    tab.page.get_by_label("Topic", exact=True).fill("ingest")
    tab.page.get_by_label("Payload").fill('{"room": "attic", "window": "open"}')
    tab.page.get_by_role("button", name="Try the rules").click()
    tab.page.get_by_text("its topic becomes home/attic/state").wait_for()


def access(tab: Tab, home: House) -> None:
    tab.open("access")
    tab.page.get_by_label("User", exact=True).fill("bob")
    tab.page.get_by_label("Topic, or filter").fill("home/kitchen/temperature")
    tab.page.get_by_role("button", name="Ask").click()
    tab.page.get_by_text("denied", exact=True).wait_for()


def telephone(tab: Tab, home: House) -> None:
    tab.page.set_viewport_size({"width": 390, "height": 700})
    tab.open("clients")
    tab.page.get_by_role("row", name="alice-laptop").wait_for()


def plain(view: str, sign: str = "tbody tr") -> Callable[[Tab, House], None]:
    """A view as it is once it shows something."""

    def show(tab: Tab, home: House) -> None:
        tab.open(view)
        tab.page.locator(sign).first.wait_for()

    return show


PICTURES = {
    "overview": ("light", overview),
    "clients": ("light", plain("clients")),
    "timelines": ("dark", timelines),
    "presence": ("light", plain("presence")),
    "topics": ("light", topics),
    "conversations": ("light", plain("conversations")),
    "search": ("dark", plain("search/kitchen", "mark")),
    "retained": ("light", plain("retained")),
    "schedules": ("light", plain("schedules")),
    "message": ("light", message),
    "chat": ("dark", chat),
    "users": ("light", plain("users")),
    "tokens": ("light", plain("tokens", ".card")),
    "access": ("light", access),
    "rules": ("light", rules),
    "jobs": ("light", plain("jobs")),
    "cluster": ("light", plain("cluster", ".empty:not([hidden])")),
    "telephone": ("dark", telephone),
    "erasures": ("light", erasures),
}
"""Each view, and its scheme. The last one takes something away."""


@click.command()
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), default=ROOT / "docs" / "console", show_default=True)
@click.argument("names", nargs=-1, type=click.Choice(list(PICTURES)))
def main(into: Path, names: tuple[str, ...]) -> None:
    """Take the pictures, or those that are named; needs Debian's chromium, and playwright from PyPI (make interop)."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, house(Path(folder)) as home, sync_playwright() as playwright:
        home.furnish()
        home.live()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in names or PICTURES:
            scheme, show = PICTURES[name]
            options: Any = {"viewport": {"width": 1280, "height": 720}, "color_scheme": scheme, "locale": "en-GB"}
            options["reduced_motion"] = "reduce"  # nothing is caught between two places
            tab = Tab(browser.new_context(**options).new_page(), home.url)
            tab.page.set_default_timeout(60_000)
            tab.operate(home.secret)
            show(tab, home)
            (into / f"{name}.png").write_bytes(with_few_colours(browser.new_page(), tab.page.screenshot()))
            click.echo(f"{into / name}.png {(into / f'{name}.png').stat().st_size} bytes")
            tab.page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
