// The whole app: what is here is drawn at once, also without a network; what is written goes out when it can.

import { Client } from "tideline-client";
import { IndexedDbStore } from "tideline-client/indexeddb";

const asked = new URLSearchParams(location.search);
const me = asked.get("me") ?? "alice";
const room = asked.get("room") ?? "chat/kitchen";
const broker = asked.get("broker") ?? `ws://${location.hostname}:8083/mqtt`;
const PAGE = 30;

/** @param {string} id */
const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
const words = /** @type {HTMLInputElement} */ (element("words"));

const client = new Client(broker, { device: `${me}-browser`, store: new IndexedDbStore(me), ...(asked.has("password") ? { user: me, password: asked.get("password") ?? "" } : {}) });
/** @type {import("tideline-client").Message[]} */
let shown = [];
/** @type {Set<string>} own messages that somebody has read */
const read = new Set();

/** @param {string} sender @param {string} text @param {string} mark */
const line = (sender, text, mark) => {
  const mine = sender === me;
  const item = document.createElement("li");
  item.className = mine ? "mine" : "";
  const small = document.createElement("small");
  small.textContent = ` ${mark}`;
  item.append(mine ? "" : `${sender}: `, text, small);
  return item;
};

/** @param {string} sender a user key, or a client id's */
const named = (sender) => sender.slice(2).replace(/-browser$/, "");

const draw = async () => {
  const waiting = (await client.outbox()).filter(({ topic }) => topic === room);
  const said = shown.filter(({ recalls }) => !recalls.length).map((one) => line(named(one.sender), one.recalled ? "(taken back)" : one.text, read.has(one.id) ? "✓✓" : "✓"));
  const own = waiting.map(({ payload, reason }) => line(me, new TextDecoder().decode(payload), reason ? `✗ ${reason}` : "waits"));
  element("messages").replaceChildren(...said, ...own);
  const last = shown.at(-1);
  if (last && document.visibilityState === "visible") await client.markRead(room, last.seq);
};

/** Draw the newest messages that are here. @param {number} limit */
const show = async (limit) => {
  shown = await client.store.history(room, limit);
  await draw();
};

/** The same, after what is missing here was fetched. @param {number} limit */
const load = async (limit) => {
  await client.history(room, { limit });
  await show(limit);
};

/** @param {import("tideline-client").Message} message */
client.onMessage = ({ topic }) => (topic === room ? show(shown.length + 1) : undefined);
/** @param {import("tideline-client").Receipt} receipt */
client.onReceipt = ({ message, state }) => {
  if (state === "read") read.add(message);
  return draw();
};
client.onRefused = draw;
/** @param {boolean} connected */
client.onConnected = (connected) => {
  element("state").textContent = connected ? `${me} in ${room}` : "offline";
  return connected ? load(Math.max(PAGE, shown.length)) : undefined;
};
client.subscribe(room);
element("write").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = words.value;
  words.value = "";
  await client.send(room, text, { receipt: ["read"] });
  await draw();
});
element("earlier").addEventListener("click", () => load(shown.length + PAGE));
document.addEventListener("visibilitychange", draw);

await client.start();
await load(PAGE);
