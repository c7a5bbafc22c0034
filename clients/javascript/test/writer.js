// Puts messages into a file for ever, and says the key of each that is there for good. When one could not be: `full`; then it
// takes the first one out, puts one that fits, and says `small`.

import { FileStore } from "../src/stores/file.js";

const store = new FileStore(process.argv[2] ?? "");
await store.open();

/** @param {string} key @param {number} size */
const put = (key, size) => store.put({ key, topic: "chat/a", payload: new Uint8Array(size), receipt: [], reason: "" });

for (let number = 0; ; number += 1) {
  const key = `${process.pid}-${number}`;
  try {
    await put(key, 3000 + (number % 700));
  } catch {
    console.log("full");
    await store.sent(`${process.pid}-0`);
    await put("small", 1);
    console.log("small");
    await new Promise(() => setInterval(() => {}, 1000));
  }
  console.log(key);
}
