"""The package: its own tests, its types, and what who installs it gets."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.interop.programs import NPM, needs, npm_needs, ok, run

pytestmark = [needs("node", "Debian's nodejs"), needs("npm", "Debian's npm"), npm_needs("mqtt"), npm_needs("typescript")]
CONSUMER = """\
import { Client, MemoryStore, RequestFailed, type Conversation, type Message, type Receipt, type Store } from "tideline-client";
import { FileStore } from "tideline-client/file";
import { IndexedDbStore } from "tideline-client/indexeddb";

const stores: Store[] = [new MemoryStore(), new FileStore("chat.log"), new IndexedDbStore("chat")];
const client = new Client("mqtt://localhost:1883", { device: "phone", store: stores[1]! });
client.onMessage = (message: Message) => console.log(message.seq + 1, message.text.length);
client.onReceipt = (receipt: Receipt) => receipt.count ?? 0;
const key: string = await client.send("chat/a", new Uint8Array(), { receipt: ["read"] });
const found: Conversation[] = await client.conversations();
const kind: "direct" | "group" | "channel" | undefined = found[0]?.kind;
const code: string = new RequestFailed({ status: 404, name: "not-found", detail: "" }).code;
console.log(key, kind, code);
// @ts-expect-error: there is no such state
await client.send("chat/a", "x", { receipt: ["seen"] });
// @ts-expect-error: a store is needed
new Client("mqtt://localhost:1883", { device: "phone" });
"""


def tsc(project: Path, *arguments: str) -> None:
    done = run("node", str(project / "node_modules/typescript/bin/tsc"), *arguments, patience=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_own_tests_pass(project: Path) -> None:
    done = run("node", "--test", str(project / "sources/test/stores.test.js"), patience=240)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "# skipped 0" in done.stdout


def test_its_types_hold(project: Path) -> None:
    tsc(project, "-p", str(project / "sources/tsconfig.json"))


def test_who_installs_it_has_types(project: Path, tmp_path: Path) -> None:
    """What npm packs is used by TypeScript in its strictest form; nothing is built by who installs it."""
    sources = project / "sources"
    tsc(project, "-p", str(sources / "tsconfig.types.json"))  # what npm's `prepare` does
    ok("npm", "pack", str(sources), "--ignore-scripts", "--offline", "--pack-destination", str(tmp_path))
    modules = tmp_path / "node_modules"
    modules.mkdir()
    for package in NPM.iterdir():
        (modules / package.name).symlink_to(package)
    (packed,) = tmp_path.glob("*.tgz")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "package").rename(modules / "tideline-client")
    names = sorted(path.name for path in (modules / "tideline-client").iterdir())
    assert names == ["LICENSE", "README.md", "package.json", "src", "types"]
    (tmp_path / "consumer.mts").write_text(CONSUMER)
    options = ("--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--types", "node", "--skipLibCheck")
    tsc(project, *options, "--typeRoots", str(modules / "@types"), str(tmp_path / "consumer.mts"))
