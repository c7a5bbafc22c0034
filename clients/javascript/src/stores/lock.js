// That one process at a time has a file: beside it stands one that names the process. What a killed process left does not count.

import { link, readFile, rename, unlink, writeFile } from "node:fs/promises";
import { readFileSync } from "node:fs";

import { StoreInUse } from "../errors.js";

/** When a process began, where the system tells (Linux): its number may be another one's by now. @param {number} pid */
const began = (pid) => {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ")[19] ?? "";
  } catch {
    return ""; // not Linux, or no such process
  }
};

/** @param {number} pid */
const lives = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === "EPERM";
  }
};

/** Whether what a lock says is of a process that goes on, other than this one. @param {string} said */
const holds = (said) => {
  const [pid = "", since = ""] = said.split(" ");
  const number = Number(pid);
  return Boolean(number) && number !== process.pid && lives(number) && since === began(number);
};

/** @type {Set<string>} */
const ours = new Set();

/** Have the file, or reject with `StoreInUse`. @param {string} file */
export const lock = async (file) => {
  const path = `${file}.lock`;
  if (ours.has(path)) throw new StoreInUse(`${file}: is open in this process already; one store for each file`);
  ours.add(path);
  try {
    await taken(file, path, `${path}.${process.pid}`);
  } catch (error) {
    ours.delete(path);
    throw error;
  }
};

/** @param {string} file @param {string} path @param {string} mine */
const taken = async (file, path, mine) => {
  await writeFile(mine, `${process.pid} ${began(process.pid)}`, { mode: 0o600 });
  try {
    for (;;) {
      try {
        return await link(mine, path); // it comes whole, and to one process only
      } catch (error) {
        if (code(error) !== "EEXIST") throw error;
      }
      await clear(file, path, `${mine}.old`);
    }
  } finally {
    await unlink(mine);
  }
};

/** Take away the lock of a process that is gone. @param {string} file @param {string} path @param {string} aside */
const clear = async (file, path, aside) => {
  try {
    await rename(path, aside); // of several that want it away, one looks at it
  } catch (error) {
    if (code(error) === "ENOENT") return;
    throw error;
  }
  const said = await readFile(aside, "utf8");
  if (holds(said)) await link(aside, path);
  await unlink(aside);
  if (holds(said)) throw new StoreInUse(`${file}: process ${said.split(" ")[0]} has it open; one process for each file (${path} says so)`);
};

/** @param {unknown} error */
const code = (error) => /** @type {NodeJS.ErrnoException} */ (error).code;

/** @param {string} file */
export const unlock = async (file) => {
  ours.delete(`${file}.lock`);
  await unlink(`${file}.lock`);
};
