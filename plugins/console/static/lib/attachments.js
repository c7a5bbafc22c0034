// Attachments: uploads that go on where a connection breaks (tus 1.0), and downloads. What a file holds is never shown as part of this page.

import { Problem, request } from "./api.js";
import { after } from "./dom.js";

const PATH = "/attachments";
const TUS = { "Tus-Resumable": "1.0.0" };
const PIECE = 4 << 20;
const TRIES = 5;
const LATER = [0, 409, 423, 429, 503]; // no answer, another offset, or not now

let asked = null;

// Whether the broker takes them (docs/attachments.md).
export const available = () => {
  asked ||= request("OPTIONS", PATH).then(() => true, (error) => {
    if (error.status !== 404 && error.status !== 405) asked = null; // no answer is none
    return false;
  });
  return asked;
};

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

const metadata = (pairs) => Object.entries(pairs).filter(([, value]) => value).map(([name, value]) => `${name} ${base64(value)}`).join(",");

// Resolves to the attachment's id once all of it is durable; `told(done, size)` hears how far it is. `user` is whom an operator acts for.
export const upload = async (file, topic, { user, told = () => {}, signal } = {}) => {
  const query = user ? { user } : {};
  const headers = { ...TUS, "Upload-Length": String(file.size), "Upload-Metadata": metadata({ topic, filename: file.name, filetype: file.type }) };
  const made = await request("POST", PATH, { query, headers, raw: null, signal });
  const id = made.headers.get("Location").split("/").pop();
  let offset = 0;
  let tries = 0;
  while (offset < file.size) {
    told(offset, file.size);
    try {
      if (tries) offset = Number((await request("HEAD", `${PATH}/${id}`, { query, headers: TUS, signal })).headers.get("Upload-Offset"));
      const more = { ...TUS, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
      const answer = await request("PATCH", `${PATH}/${id}`, { query, headers: more, raw: file.slice(offset, offset + PIECE), signal });
      offset = Number(answer.headers.get("Upload-Offset"));
      tries = 0;
    } catch (error) {
      if (!(error instanceof Problem) || !LATER.includes(error.status) || (tries += 1) > TRIES) throw error;
      await after(500 * 2 ** tries, signal);
    }
  }
  told(file.size, file.size);
  return id;
};

const named = (answer) => {
  const found = /filename\*=UTF-8''([^;]*)/.exec(answer.headers.get("Content-Disposition") || "");
  return found ? decodeURIComponent(found[1]) : "";
};

// What is known of one: {id, name, type, size}.
export const about = async (id, signal) => {
  const answer = await request("HEAD", `${PATH}/${encodeURIComponent(id)}`, { signal });
  return { id, name: named(answer), type: answer.headers.get("Content-Type"), size: Number(answer.headers.get("Content-Length")) };
};

// Give it to the browser as a download.
export const save = async (id) => {
  const answer = await request("GET", `${PATH}/${encodeURIComponent(id)}`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = named(answer) || id;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
};
