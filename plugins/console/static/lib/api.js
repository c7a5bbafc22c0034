// The HTTP API. No cookie and no password of the browser's own goes along; what is wrong comes as a `Problem` with the API's words.

import { authorization } from "./session.js";

export class Problem extends Error {
  constructor(status, detail, name = "") {
    super(detail);
    this.status = status;
    this.name = name;
  }
}

const target = (path, query) => {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query || {})) {
    if (value !== undefined && value !== null && value !== "") asked.append(name, value);
  }
  return `/v1${path}${asked.size ? `?${asked}` : ""}`;
};

// A topic or client id within a path: its slashes stay.
export const part = (text) => text.split("/").map(encodeURIComponent).join("/");

// `body` is sent as JSON; `raw` as it is, by the headers that say what it is.
export const request = async (method, path, { query, body, raw, headers = {}, signal } = {}) => {
  const all = { ...headers };
  if (!all.Authorization && authorization()) all.Authorization = authorization();
  if (raw === undefined && (body !== undefined || method === "POST" || method === "PUT" || method === "PATCH")) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(target(path, query), {
      method,
      headers: all,
      body: body === undefined ? raw : JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "the broker does not answer", "away");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  if (response.status === 401 && !headers.Authorization) window.dispatchEvent(new CustomEvent("signed-out"));
  throw new Problem(response.status, told.detail || `${response.status} ${response.statusText}`, (told.type || "").split(":").pop());
};

const answer = async (method, path, options) => {
  const response = await request(method, path, options);
  return response.status === 204 ? null : response.json();
};

export const get = (path, query, signal) => answer("GET", path, { query, signal });
export const post = (path, body = {}, options = {}) => answer("POST", path, { ...options, body });
export const put = (path, body, options = {}) => answer("PUT", path, { ...options, body });
export const patch = (path, body, options = {}) => answer("PATCH", path, { ...options, body });
export const remove = (path, query) => answer("DELETE", path, { query });
