// What each store must do. Pairs of a name and a test, which is given an empty open store, a way to open the same one again, and
// `same`, which compares. It runs in Node and in a browser.

import { Message } from "../src/model.js";

/** @typedef {import("../src/stores/store.js").Store} Store */
/** @typedef {(store: Store, again: () => Promise<Store>, same: (found: unknown, wanted: unknown) => void) => Promise<void>} Test */

/** @param {number} seq @param {Partial<import("../src/model.js").Fields>} [more] */
export const message = (seq, more = {}) =>
  new Message({ id: `id-${more.topic ?? "chat/a"}-${seq}`, topic: "chat/a", seq, sender: "u/alice", time: 1764000000000 + seq, payload: new TextEncoder().encode(`${seq} ✓`), ...more });

/** @param {string} key */
const outgoing = (key) => ({ key, topic: "chat/a", payload: new Uint8Array([0, 255, 10]), receipt: ["read"], reason: "" });

/** @param {Message[]} messages */
const texts = (messages) => messages.map((one) => one.text);

/** @type {[string, Test][]} */
export const contract = [
  ["a message is kept once, with the offset", async (store, again, same) => {
    same(await store.take(message(1), 7), true);
    same(await store.take(message(1), 8), false);
    same(await store.take(message(2), 5), true);
    same((await store.mark()).offset, 8);
    const later = await again();
    same((await later.mark()).offset, 8);
    const [one] = await later.history("chat/a", 9);
    same({ ...one, payload: [...(one?.payload ?? [])] }, { ...message(1), payload: [...message(1).payload] });
    same(one instanceof Message, true);
  }],
  ["history pages from the newest, by sequence, whatever the order in which messages came", async (store, again, same) => {
    for (const seq of [5, 2, 9, 1, 10]) await store.take(message(seq));
    await store.take(message(3, { topic: "chat/b" }));
    for (const one of [store, await again()]) {
      same(texts(await one.history("chat/a", 2)), ["9 ✓", "10 ✓"]);
      same(texts(await one.history("chat/a", 2, 9)), ["2 ✓", "5 ✓"]);
      same(texts(await one.history("chat/a", 9, 3)), ["1 ✓", "2 ✓"]);
      same(await one.history("chat/c", 9), []);
      same(await one.topics(), ["chat/a", "chat/b"]);
    }
  }],
  ["read positions go forward, and what the broker does not know of is told", async (store, again, same) => {
    for (const seq of [1, 2, 3]) await store.take(message(seq));
    same(await store.unread("chat/a"), 3);
    await store.read("chat/a", 2, false);
    await store.read("chat/a", 1, true);
    same([await store.unread("chat/a"), await store.position("chat/a"), await store.untold()], [1, 2, [["chat/a", 2]]]);
    const later = await again();
    same(await later.untold(), [["chat/a", 2]]);
    await later.read("chat/a", 2, true);
    same([await later.position("chat/a"), await later.untold()], [2, []]);
    await later.read("chat/a", 2, false);
    same(await later.untold(), []);
  }],
  ["the outbox keeps its order, and what was refused says why", async (store, again, same) => {
    for (const key of ["c", "a", "b"]) await store.put(outgoing(key));
    await store.refused("a", "too large");
    await store.sent("c");
    await store.sent("nobody");
    await store.refused("nobody", "x");
    for (const one of [store, await again()]) {
      const found = await one.waiting();
      same(found.map(({ key, reason, receipt, payload }) => [key, reason, receipt, [...payload]]), [["a", "too large", ["read"], [0, 255, 10]], ["b", "", ["read"], [0, 255, 10]]]);
      same((await one.waiting(found[0]?.place)).map(({ key }) => key), ["b"]);
      same((await one.waiting(0, 1)).map(({ key }) => key), ["a"]);
    }
  }],
  ["what was put last goes out last, also after the store was opened anew", async (store, again, same) => {
    await store.put(outgoing("a"));
    const later = await again();
    await later.put(outgoing("b"));
    same((await later.waiting()).map(({ key }) => key), ["a", "b"]);
  }],
  ["what is asked for at once happens in order", async (store, again, same) => {
    const keys = Array.from({ length: 50 }, (_, number) => `k${number}`);
    await Promise.all([...keys.map((key) => store.put(outgoing(key))), ...keys.slice(0, 40).map((key) => store.sent(key))]);
    same((await (await again()).waiting()).map(({ key }) => key), keys.slice(40));
  }],
  ["a copy that begins anew keeps the outbox and nothing else", async (store, again, same) => {
    await store.begin(3, "e1");
    await store.take(message(1), 4);
    await store.read("chat/a", 1, false);
    await store.put(outgoing("a"));
    await store.forget();
    for (const one of [store, await again()]) {
      same([await one.mark(), await one.topics(), await one.untold()], [{ offset: 0, dataEpoch: "" }, [], []]);
      same((await one.waiting()).map(({ key }) => key), ["a"]);
    }
    await store.begin(2, "e2");
    same(await store.mark(), { offset: 2, dataEpoch: "e2" });
  }],
  ["a message that is taken back loses its content, in whichever order it comes", async (store, again, same) => {
    await store.take(message(1));
    await store.take(message(2, { payload: new Uint8Array(), recalls: ["id-chat/a-1", "id-chat/a-0"] }));
    await store.take(message(3));
    await store.take(message(3, { payload: new Uint8Array(), recalled: true }));
    for (const one of [store, await again()]) {
      same((await one.history("chat/a", 9)).map(({ text, recalled }) => [text, recalled]), [["", true], ["", false], ["", true]]);
    }
  }],
];
