// That one process at a time has a file: beside it stands a folder in which one entry names the process. What a killed process left does not count.
//
// A folder with its entry takes its place by a rename, which fails where another one stands that is not empty. What a process that is
// gone left is taken away by its own name, so never what another one has put there meanwhile.

import { mkdir, readdir, rename, rm, rmdir, unlink, writeFile } from "node:fs/promises";
import { readFileSync } from "node:fs";
import { join } from "node:path";

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

/** Whether an entry is of a process that goes on. @param {string} entry */
const holds = (entry) => {
  const [pid = "", since = ""] = entry.split("-");
  const number = Number(pid);
  if (!number || !lives(number) || since !== began(number)) return false;
  return number !== process.pid || since !== ""; // else this process has the number of one that is gone
};

const own = () => `${process.pid}-${began(process.pid)}`;

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
  await rm(mine, { recursive: true, force: true });
  await mkdir(mine, { mode: 0o700 });
  try {
    await writeFile(join(mine, own()), "");
    while (!(await unless(["EEXIST", "ENOTEMPTY", "EPERM"], rename(mine, path)))) await clear(file, path); // EPERM: Windows, where any folder stands
  } finally {
    await rm(mine, { recursive: true, force: true });
  }
};

/** Take away what a process left that is gone. @param {string} file @param {string} path */
const clear = async (file, path) => {
  const entries = await readdir(path).catch((error) => {
    if (error.code !== "ENOENT") throw error;
    return [];
  });
  for (const entry of entries) {
    if (holds(entry)) throw new StoreInUse(`${file}: process ${entry.split("-")[0]} has it open; one process for each file (${path} says so)`);
    await unless(["ENOENT"], unlink(join(path, entry)));
  }
  await empty(path);
};

/** Take the folder away, unless there is something in it. @param {string} path */
const empty = (path) => unless(["ENOENT", "ENOTEMPTY", "EEXIST"], rmdir(path));

/** Whether something was done: false where it failed in one of these ways. @param {string[]} codes @param {Promise<void>} step */
const unless = (codes, step) =>
  step.then(() => true, (error) => {
    if (!codes.includes(error.code)) throw error;
    return false;
  });

/** @param {string} file */
export const unlock = async (file) => {
  const path = `${file}.lock`;
  try {
    await unlink(join(path, own()));
    await empty(path);
  } finally {
    ours.delete(path);
  }
};
