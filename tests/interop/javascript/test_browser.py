"""The client in Debian's chromium: the store in IndexedDB, and the sample chat, over MQTT-WebSocket."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import CHROMIUM
from tests.interop.javascript.conftest import Site
from tests.interop.programs import needs, npm_needs
from tests.support.until import wait_until

pytestmark = [needs("npm", "Debian's npm"), npm_needs("mqtt"), npm_needs("typescript")]
CONTRACT = """async () => {
  const { contract } = await import("/sources/test/contract.js");
  const { IndexedDbStore } = await import("/sources/src/stores/indexeddb.js");
  const plain = (value) => JSON.stringify(value, (_, one) => (one instanceof Uint8Array ? [...one] : one));
  const failed = [];
  for (const [number, [name, test]] of contract.entries()) {
    let store = new IndexedDbStore(`contract-${number}`);
    await store.open();
    const again = async () => {
      await store.close();
      store = new IndexedDbStore(`contract-${number}`);
      await store.open();
      return store;
    };
    const same = (found, wanted) => {
      const sorted = (text) => (text.startsWith("{") ? JSON.stringify(Object.entries(JSON.parse(text)).sort()) : text);
      if (sorted(plain(found)) !== sorted(plain(wanted))) throw new Error(`${plain(found)} is not ${plain(wanted)}`);
    };
    const current = new Proxy(store, { get: (_, what) => store[what].bind(store) });
    try {
      await test(current, again, same);
    } catch (error) {
      failed.push(`${name}: ${error.message}`);
    }
    await store.close();
  }
  return [contract.length, failed];
}"""
WRITES = """async () => {
  const { IndexedDbStore } = await import("/sources/src/stores/indexeddb.js");
  const store = new IndexedDbStore("killed");
  await store.open();
  window.kept = [];
  (async () => {
    for (let number = 0; ; number += 1) {
      const key = `${Date.now()}-${number}`;
      await store.put({ key, topic: "chat/a", payload: new Uint8Array(300), receipt: [], reason: "" });
      window.kept.push(key);
    }
  })();
}"""
FOUND = """async () => {
  const { IndexedDbStore } = await import("/sources/src/stores/indexeddb.js");
  const store = new IndexedDbStore("killed");
  await store.open();
  return (await store.waiting()).map(({ key }) => key);
}"""

EARLIER = """async () => {
  const request = indexedDB.open("tideline:killed", 1);
  request.onupgradeneeded = () => {
    const database = request.result;
    database.createObjectStore("messages", { keyPath: "id" }).createIndex("place", ["topic", "seq"]);
    database.createObjectStore("positions", { keyPath: "topic" });
    const outbox = database.createObjectStore("outbox", { keyPath: "place", autoIncrement: true });
    outbox.createIndex("key", "key", { unique: true });
    database.createObjectStore("meta");
    for (const [key, reason] of [["one", ""], ["two", "too large"]]) {
      outbox.add({ key, topic: `chat/${key}`, payload: new Uint8Array(3), receipt: [], reason });
    }
  };
  await new Promise((resolve) => { request.onsuccess = resolve; });
  window.held = request.result;
}"""


@pytest.fixture(scope="module")
def pages(project: Path) -> Iterator[str]:
    """Serves the project's folder; its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(project)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages, each of a browser of its own."""
    contexts = []

    def go(url: str) -> Any:
        contexts.append(chromium.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.goto(url)
        return page

    yield go
    for context in contexts:
        context.close()


def test_the_store_keeps_what_stores_promise(pages: str, visit: Callable[..., Any]) -> None:
    count, failed = visit(f"{pages}/sources/test/").evaluate(CONTRACT)
    assert failed == []
    assert count > 5


def test_a_second_tab_is_told(pages: str, visit: Callable[..., Any]) -> None:
    page = visit(f"{pages}/sources/test/")
    page.evaluate(WRITES)
    other = page.context.new_page()
    other.goto(f"{pages}/sources/test/")
    opens = FOUND.replace(
        "await store.open();", "return await store.open().then(() => '', (error) => `${error.name}: ${error.message}`);"
    )
    assert other.evaluate(opens) == "StoreInUse: database tideline:killed: another tab has it open; one tab for each device"
    page.close()
    assert other.evaluate(opens) == ""


def test_a_tab_with_what_an_earlier_version_opened_is_waited_for_and_told(pages: str, visit: Callable[..., Any]) -> None:
    """As where the page came by plain HTTP: there are no locks there. Once that tab has gone, what it kept is there."""
    page = visit(f"{pages}/sources/test/")
    page.evaluate(EARLIER)
    other = page.context.new_page()
    other.goto(f"{pages}/sources/test/")
    told = FOUND.replace(
        "await store.open();", "return await store.open().then(() => '', (error) => `${error.name}: ${error.message}`);"
    ).replace("async () => {", "async () => { Object.defineProperty(navigator, 'locks', { value: undefined });", 1)
    wanted = "StoreInUse: database tideline:killed: another tab has it open; one tab for each device"
    assert other.evaluate(told) == wanted
    assert other.evaluate(told) == wanted, "and what was given up holds nobody up"
    page.close()
    wait_until(lambda: other.evaluate(told) == "", "it is open")
    assert other.evaluate(FOUND) == ["one", "two"]
    again = page.context.new_page()
    again.goto(f"{pages}/sources/test/")
    other.close()
    assert again.evaluate(FOUND) == ["one", "two"]


def test_what_is_kept_outlives_a_killed_browser(pages: str, tmp_path: Path, chromium: Any) -> None:
    def browser() -> Any:
        return chromium.browser_type.launch_persistent_context(str(tmp_path), executable_path=CHROMIUM, args=["--no-sandbox"])

    context = browser()
    page = context.new_page()
    page.goto(f"{pages}/sources/test/")
    page.evaluate(WRITES)
    page.wait_for_function("window.kept.length > 50")
    kept = page.evaluate("window.kept")
    ours = processes(f"--user-data-dir={tmp_path}")
    assert ours
    for process in ours:
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: processes(f"--user-data-dir={tmp_path}") == [], "the browser is gone")
    context = browser()
    page = context.new_page()
    page.goto(f"{pages}/sources/test/")
    found = page.evaluate(FOUND)
    context.close()
    assert set(kept) <= set(found)
    assert len(set(found)) == len(found)


def test_the_sample_chat_works_offline(own: Site, pages: str, visit: Callable[..., Any]) -> None:
    def chat(name: str) -> str:
        return f"{pages}/sources/examples/chat/?me={name}&password={name}&broker={own.ws}"

    alice, bob = visit(chat("alice")), visit(chat("bob"))
    for page in (alice, bob):
        page.get_by_role("status").get_by_text("in chat/kitchen").wait_for()
    write(alice, "dinner is ready")
    bob.get_by_text("alice: dinner is ready").wait_for()
    alice.get_by_text("dinner is ready ✓✓").wait_for()  # bob has read it
    own.broker.kill()
    alice.get_by_role("status").get_by_text("offline").wait_for()
    write(alice, "it gets cold")
    alice.get_by_text("it gets cold waits").wait_for()
    alice.reload()  # the page ends, and all that it had in memory
    alice.get_by_text("dinner is ready").wait_for()
    alice.get_by_text("it gets cold waits").wait_for()
    own.broker.start()
    bob.get_by_text("alice: it gets cold").wait_for()
    alice.get_by_text("it gets cold ✓✓").wait_for()
    assert own.texts("chat/kitchen") == ["dinner is ready", "it gets cold"]
    assert bob.get_by_role("listitem").all_inner_texts() == ["alice: dinner is ready ✓", "alice: it gets cold ✓"]


def processes(argument: str) -> list[int]:
    """Those that have it in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def write(page: Any, words: str) -> None:
    page.get_by_label("Message").fill(words)
    page.get_by_role("button", name="Send").click()
