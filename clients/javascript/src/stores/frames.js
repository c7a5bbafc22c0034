// The file of a `FileStore`: lines of text, each a digest and the changes that were written at once. No I/O.
//
// - A frame counts when all of it is there. What a crash leaves is one frame at the end that does not count: it is cut off.
// - A frame that does not count and has others behind it was damaged later. Nothing is guessed then.

import { createHash } from "node:crypto";

import { StoreDamaged } from "../errors.js";

const NEW_LINE = 10;
const FORM = "tideline-client-1";
const DIGITS = 16;

/** @param {string} text */
const digest = (text) => createHash("sha256").update(text).digest("hex").slice(0, DIGITS);

/** The line of a frame. @param {unknown[]} changes */
export const frame = (changes) => {
  const text = JSON.stringify(changes);
  return Buffer.from(`${digest(text)} ${text}\n`);
};

/** The line that a file begins with. */
export const beginning = () => frame([FORM]);

/** @param {string} line @returns {any[] | null} */
const read = (line) => {
  const text = line.slice(DIGITS + 1);
  return digest(text) === line.slice(0, DIGITS) ? JSON.parse(text) : null;
};

/**
 * The changes in a file, and how many of its bytes count. Throws `StoreDamaged`.
 * @param {Buffer} bytes
 * @param {string} name of the file, for what is said of it
 * @returns {{changes: any[], length: number}}
 */
export const parsed = (bytes, name) => {
  const changes = [];
  let length = 0;
  let broken = 0;
  let line = 0;
  for (let start = 0; start < bytes.length; ) {
    const end = bytes.indexOf(NEW_LINE, start);
    line += 1;
    const found = end < 0 ? null : read(bytes.toString("utf8", start, end));
    if (line === 1 && found?.[0] !== FORM) {
      throw new StoreDamaged(`${name}: is not a file of this version of tideline-client, or its beginning is damaged; name another file, or bring a copy of it back`);
    }
    if (found && broken) {
      throw new StoreDamaged(`${name}, line ${broken}: is damaged, and others follow it; bring a copy of the file back, or move it away to begin anew`);
    }
    if (found && line > 1) changes.push(...found);
    if (found) length = end + 1;
    else broken ||= line;
    start = end < 0 ? bytes.length : end + 1;
  }
  return { changes, length };
};
