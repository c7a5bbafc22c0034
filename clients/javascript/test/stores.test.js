// The stores keep what stores promise; and a file does so whatever becomes of the process.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, it } from "node:test";

import { MemoryStore, StoreDamaged, StoreInUse } from "../src/index.js";
import { FileStore } from "../src/stores/file.js";
import { parsed } from "../src/stores/frames.js";
import { contract, message } from "./contract.js";

/** @param {unknown} found @param {unknown} wanted */
const same = (found, wanted) => assert.deepEqual(found, wanted);

describe("a MemoryStore", () => {
  for (const [name, test] of contract) {
    it(name, async () => {
      const store = new MemoryStore();
      await store.open();
      await test(store, async () => store, same);
    });
  }
});

/** @param {string} key */
const outgoing = (key) => ({ key, topic: "chat/a", payload: new TextEncoder().encode(key), receipt: [], reason: "" });

/** @param {string} path @param {(store: FileStore) => Promise<unknown>} work */
const opened = async (path, work) => {
  const store = new FileStore(path);
  await store.open();
  try {
    return await work(store);
  } finally {
    await store.close();
  }
};

/** @param {string} path */
const keys = (path) => opened(path, async (store) => (await store.waiting()).map(({ key }) => key));

describe("a FileStore", () => {
  let folder = "";
  let number = 0;
  const path = () => join(folder, `${(number += 1)}.log`);
  before(async () => { folder = await mkdtemp(join(tmpdir(), "tideline-")); });
  after(() => rm(folder, { recursive: true }));

  for (const [name, test] of contract) {
    it(name, async () => {
      const file = path();
      let store = new FileStore(file);
      await store.open();
      const again = async () => {
        await store.close();
        store = new FileStore(file);
        await store.open();
        return store;
      };
      // what a test has is the store of before, too: it goes to the one that is open
      const open = new Proxy(store, { get: (_, what) => { const value = Reflect.get(store, what); return typeof value === "function" ? value.bind(store) : value; } });
      await test(open, again, same);
      await store.close();
    });
  }

  it("takes a file that a crash has cut at any byte for what was whole in it", async () => {
    const file = path();
    const sizes = [(await opened(file, async () => {}), await stat(file)).size];
    for (const key of ["a", "b", "c"]) {
      await opened(file, (store) => store.put(outgoing(key)));
      sizes.push((await stat(file)).size);
    }
    const bytes = await readFile(file);
    const beginning = sizes[0] ?? 0;
    for (let length = beginning; length < bytes.length; length += 1) {
      const { changes, length: counts } = parsed(bytes.subarray(0, length), file);
      same(counts, sizes.findLast((size) => size <= length));
      same(changes.flatMap((one) => one.message?.key ?? []), ["a", "b", "c"].slice(0, sizes.indexOf(counts)));
    }
    for (const length of [beginning, (sizes[1] ?? 0) + 5, bytes.length - 1]) {
      await writeFile(file, bytes.subarray(0, length));
      const whole = ["a", "b", "c"].slice(0, sizes.filter((size) => size <= length).length - 1);
      await opened(file, (store) => store.put(outgoing("d")));
      same(await keys(file), [...whole, "d"]);
    }
  });

  it("names the line that is damaged, and changes nothing", async () => {
    const file = path();
    for (const key of ["a", "b", "c"]) await opened(file, (store) => store.put(outgoing(key)));
    const bytes = await readFile(file);
    bytes.write("?", bytes.indexOf("chat/a"));
    await writeFile(file, bytes);
    await assert.rejects(keys(file), (error) => error instanceof StoreDamaged && error.message.startsWith(`${file}, line 3: is damaged`));
    same(await readFile(file), bytes);
    await writeFile(file, "my diary\n");
    await assert.rejects(keys(file), /is not a file of this version of tideline-client/);
    same(await readFile(file, "utf8"), "my diary\n");
  });

  it("is written anew when most of it is of no use, and holds the same", async () => {
    const file = path();
    await opened(file, async (store) => {
      await store.begin(3, "e1");
      for (const seq of [1, 2, 3]) await store.take(message(seq), 3 + seq);
      await store.put(outgoing("kept"));
      const large = { ...outgoing("large"), payload: new Uint8Array(400_000) };
      for (let round = 0; round < 10; round += 1) {
        await store.put(large);
        await store.sent("large");
      }
    });
    assert.ok((await stat(file)).size < 2_700_000, "half of the ten are gone");
    same((await readdir(folder)).filter((name) => name.startsWith(`${number}.`)), [`${number}.log`]);
    same(await keys(file), ["kept"]);
    await opened(file, async (store) => {
      same(await store.mark(), { offset: 6, dataEpoch: "e1" });
      same((await store.history("chat/a", 9)).map(({ seq }) => seq), [1, 2, 3]);
    });
  });

  it("is one process's, until that ends however it ends", async () => {
    const file = path();
    const child = writer(file);
    await child.line();
    await assert.rejects(keys(file), (error) => error instanceof StoreInUse && error.message.includes(`process ${child.pid} has it open`));
    await child.kill();
    await opened(file, async () => assert.rejects(keys(file), /is open in this process already/));
    await mkdir(`${file}.lock`);
    await writeFile(`${file}.lock/${process.ppid}-12`, ""); // the number is another process's by now
    if (process.platform === "linux") await keys(file);
  });

  it("stays one process's while others want it at once", async () => {
    const file = path();
    await opened(file, async () => same(await Promise.all([1, 2, 3].map(() => said(file, 100))), Array(3).fill(["had it 0 times"])));
  });

  it("goes to one process at a time of those that want it at once, also when the last one was killed", async () => {
    const file = path();
    for (let round = 0; round < 3; round += 1) {
      for (const lines of await Promise.all([1, 2, 3].map(() => said(file, 50)))) {
        assert.match(lines.join(", "), /^had it [0-9]+ times$/);
      }
    }
    assert.deepEqual((await readdir(folder)).filter((name) => name.startsWith(`${number}.`)).sort(), [`${number}.log`, `${number}.log.lock`]);
    await opened(file, async () => {});
    assert.deepEqual((await readdir(folder)).filter((name) => name.startsWith(`${number}.`)), [`${number}.log`]);
  });

  it("has what it said it has, when its process was killed in the midst of writing", async () => {
    const file = path();
    for (let round = 0; round < 3; round += 1) {
      const child = writer(file);
      const said = [];
      for (let count = 0; count < 5 + round * 17; count += 1) said.push(await child.line());
      said.push(...(await child.kill()));
      const found = /** @type {string[]} */ (await keys(file));
      same(said.filter((key) => !found.includes(key)), []);
      same(new Set(found).size, found.length);
    }
  });

  it("does nothing that it says it could not do, and keeps the rest", { skip: process.platform === "win32" }, async () => {
    const file = path();
    const child = writer(file, "limited"); // its shell lets no file grow beyond 64 KiB
    const said = [];
    for (let line = await child.line(); line !== "full"; line = await child.line()) said.push(line);
    same(await child.line(), "small");
    await child.kill();
    same(await keys(file), [...said.slice(1), "small"]);
  });
});

/** What a process says that tries to open a file so many times, once it is gone. @param {string} file @param {number} times @returns {Promise<string[]>} */
const said = async (file, times) => {
  const child = spawn(process.execPath, [program("opener.js"), file, String(times)], { stdio: ["ignore", "pipe", "inherit"] });
  const gone = once(child, "exit");
  const lines = [];
  for await (const line of createInterface({ input: child.stdout })) lines.push(line);
  await gone;
  return lines;
};

/** @param {string} name */
const program = (name) => join(import.meta.dirname ?? new URL(".", import.meta.url).pathname, name);

/** A process that puts messages into a file, and says the key of each that is there for good. @param {string} file @param {string} kind */
const writer = (file, kind = "") => {
  const command = kind ? `ulimit -f 64; trap '' XFSZ; exec "$0" "$@"` : `exec "$0" "$@"`;
  const child = spawn("bash", ["-c", command, process.execPath, program("writer.js"), file], { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    pid: child.pid,
    line: async () => {
      const { value, done } = await lines.next();
      if (done) throw new Error("the writer has ended");
      return /** @type {string} */ (value);
    },
    kill: async () => {
      child.kill("SIGKILL");
      await once(child, "exit");
      const rest = [];
      for await (const line of { [Symbol.asyncIterator]: () => lines }) rest.push(line);
      return rest;
    },
  };
};
