// A local copy in one file, for Node. What is in it is in memory as well.
//
// - What is asked for while the disk is busy is written at once, as one frame (frames.js), and is there for good when fdatasync has returned.
// - Only then it is done in memory too, so that nobody sees what a crash would take back.
// - When most of the file is of no use any more, a new one is written beside it, and takes its name.

import { open, readFile, rename, rm } from "node:fs/promises";
import { dirname, resolve } from "node:path";

import { beginning, frame, parsed } from "./frames.js";
import { lock, unlock } from "./lock.js";
import { MemoryStore } from "./memory.js";
import { State, change as read, written } from "./state.js";

/** @typedef {import("./state.js").Change} Change */
/** @typedef {import("./store.js").Store} Store */
/** @typedef {{change: Change, done: (news: boolean) => void, failed: (error: unknown) => void}} Asked */

const SMALL = 1 << 20;
const FRAME = 1000;

/** @implements {Store} */
export class FileStore extends MemoryStore {
  #path;
  /** @type {import("node:fs/promises").FileHandle | null} */
  #file = null;
  /** Bytes that count. */
  #length = 0;
  /** Bytes that were of use when they were last counted. */
  #useful = 0;
  /** @type {Asked[]} */
  #asked = [];
  /** @type {Promise<void> | null} */
  #writing = null;

  /** @param {string} path of the file; it is made where there is none */
  constructor(path) {
    super();
    if (typeof path !== "string" || !path) throw new TypeError(`path ${JSON.stringify(path)}: must name a file, such as "chat.log"`);
    this.#path = resolve(path);
  }

  /** @override */
  async open() {
    await lock(this.#path);
    try {
      await this.#load();
    } catch (error) {
      await this.#file?.close();
      this.#file = null;
      await unlock(this.#path);
      throw error;
    }
  }

  async #load() {
    this.state = new State();
    const bytes = await readFile(this.#path).catch((error) => {
      if (error.code !== "ENOENT") throw error;
      return null;
    });
    if (!bytes) return this.#rewrite();
    const { changes, length } = parsed(bytes, this.#path);
    for (const one of changes) this.state.apply(read(one));
    this.#file = await open(this.#path, "r+");
    await this.#cut(length);
    this.#useful = this.#length;
  }

  /** @override */
  async close() {
    await this.#writing;
    if (!this.#file) return;
    await this.#file.close();
    this.#file = null;
    await unlock(this.#path);
  }

  /**
   * @override
   * @protected
   * @param {Change} change
   * @returns {Promise<boolean>}
   */
  async write(change) {
    if (!this.#file) throw new Error(`${this.#path}: is not open`);
    if (!this.#writing && !this.state.differs(change)) return this.state.apply(change);
    return new Promise((done, failed) => {
      this.#asked.push({ change, done, failed });
      this.#writing ??= this.#work();
    });
  }

  async #work() {
    while (this.#asked.length) {
      const some = this.#asked.splice(0, FRAME);
      try {
        await this.#append(some.map(({ change }) => change));
      } catch (error) {
        for (const { failed } of some) failed(error);
        continue;
      }
      for (const { change, done } of some) done(this.state.apply(change));
      await this.#tidy();
    }
    this.#writing = null;
  }

  /** @param {Change[]} changes */
  async #append(changes) {
    const length = this.#length;
    try {
      await this.#bytes(frame(changes.map(written)));
      await this.#handle.datasync();
    } catch (error) {
      await this.#cut(length); // else what did not happen would be there after a start; where this fails too, that is what is told
      throw error;
    }
  }

  get #handle() {
    return /** @type {import("node:fs/promises").FileHandle} */ (this.#file);
  }

  /** @param {Buffer} bytes */
  async #bytes(bytes) {
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, at, bytes.length - at, this.#length);
      at += bytesWritten;
      this.#length += bytesWritten;
    }
  }

  /** Let the file end where the last frame that counts does. @param {number} length */
  async #cut(length) {
    this.#length = length;
    if ((await this.#handle.stat()).size === length) return;
    await this.#handle.truncate(length);
    await this.#handle.datasync();
  }

  /** Write the file anew where more than half of it is of no use. Where that fails the old one goes on. */
  async #tidy() {
    if (this.#length < SMALL + 2 * this.#useful) return;
    try {
      await this.#rewrite();
    } catch (error) {
      this.#useful = this.#length; // not again at each change
      console.warn(`${this.#path}: could not be written anew, and goes on as it is:`, error);
    }
  }

  async #rewrite() {
    const [old, length] = [this.#file, this.#length];
    const path = `${this.#path}.new`;
    try {
      await rm(path, { force: true });
      this.#file = await open(path, "wx+", 0o600);
      this.#length = 0;
      await this.#bytes(beginning());
      let some = [];
      for (const one of this.state.changes()) {
        some.push(written(one));
        if (some.length === FRAME) await this.#bytes(frame(some.splice(0)));
      }
      await this.#bytes(frame(some));
      await this.#handle.datasync();
      await rename(path, this.#path);
      await folder(dirname(this.#path));
      this.#useful = this.#length;
    } catch (error) {
      if (this.#file !== old) await this.#file?.close();
      [this.#file, this.#length] = [old, length];
      throw error;
    }
    await old?.close();
  }
}

/** Have the names in a folder be there for good. @param {string} path */
const folder = async (path) => {
  const handle = await open(path, "r").catch(() => null); // Windows opens no folders
  try {
    await handle?.sync();
  } finally {
    await handle?.close();
  }
};
