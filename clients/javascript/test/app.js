// An app, driven by lines of JSON on standard input: `{"id": 1, "call": "send", "with": ["chat/a", "hello"]}` calls the client, and
// what happens comes as lines of JSON on standard output. Arguments: the URL, the device, the file of its store, further options.

import { createInterface } from "node:readline";

import { Client } from "tideline-client";
import { FileStore } from "tideline-client/file";

const [url = "", device = "", file = "", options = "{}"] = process.argv.slice(2);
const { filters = [], ...rest } = JSON.parse(options);

/** @param {string} event @param {object} fields */
const say = (event, fields) => console.log(JSON.stringify({ event, ...fields }));
/** @param {unknown} value */
const plain = (value) => JSON.parse(JSON.stringify(value ?? null, (_, one) => (one instanceof Uint8Array ? new TextDecoder().decode(one) : one)));

const store = new FileStore(file);
const client = new Client(url, { device, store, ...rest });
Object.assign(client, /** @type {Partial<Client>} */ ({
  onMessage: ({ id, topic, seq, sender, text, recalls }) => say("message", { id, topic, seq, sender, text, recalls }),
  onReceipt: (receipt) => say("receipt", receipt),
  onRead: (topic, position) => say("read", { topic, position }),
  onMembership: (topic) => say("membership", { topic }),
  onRefused: (message) => say("refused", plain(message)),
  onConnected: (connected) => say("connected", { connected }),
  onTrouble: (words, error) => say("trouble", { words, error: error ? String(error) : null }),
}));
for (const filter of filters) client.subscribe(filter);

for await (const line of createInterface({ input: process.stdin })) {
  const { id, call, with: values = [] } = JSON.parse(line);
  if (call === "store.put") values[0].payload = new TextEncoder().encode(values[0].payload);
  const on = /** @type {any} */ (call.startsWith("store.") ? store : client);
  Promise.resolve()
    .then(() => on[call.replace("store.", "")](...values))
    .then((value) => say("answer", { id, value: plain(value) }), (error) => say("answer", { id, error: { name: error.name, code: error.code, message: error.message } }));
}
