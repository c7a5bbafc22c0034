// Tries to open a file again and again, as often as it is told. While it has it, it looks whether another one does; it ends as a
// killed process does, with the file open. Says how often it had the file, and before that what should not have been.

import { rm, writeFile } from "node:fs/promises";

import { StoreInUse } from "../src/index.js";
import { FileStore } from "../src/stores/file.js";

const [file = "", times = "1"] = process.argv.slice(2);
let had = 0;
for (let count = 1; count <= Number(times); count += 1) {
  const store = new FileStore(file);
  try {
    await store.open();
    had += 1;
    await writeFile(`${file}.had`, "", { flag: "wx" });
    await rm(`${file}.had`);
    if (count < Number(times)) await store.close();
  } catch (error) {
    if (!(error instanceof StoreInUse)) console.log(String(error));
  }
}
console.log(`had it ${had} times`);
process.exit();
