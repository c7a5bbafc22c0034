"""The pictures of docs/console.md, taken of a furnished broker: ``python -m tests.interop.console.pictures``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import sync_playwright

from tests.interop.console.conftest import Tab
from tests.interop.console.house import PASSWORD, House, house
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


PICTURES = {
    "overview": ("light", overview),
    "timelines": ("dark", timelines),
    "topics": ("light", topics),
    "message": ("light", message),
    "chat": ("dark", chat),
}


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
            options: Any = {"viewport": {"width": 1280, "height": 800}, "color_scheme": scheme, "locale": "en-GB"}
            options["reduced_motion"] = "reduce"  # nothing is caught between two places
            tab = Tab(browser.new_context(**options).new_page(), home.url)
            tab.page.set_default_timeout(60_000)
            tab.operate(home.secret)
            show(tab, home)
            tab.page.screenshot(path=into / f"{name}.png")
            click.echo(f"{into / name}.png {(into / f'{name}.png').stat().st_size} bytes")
            tab.page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
