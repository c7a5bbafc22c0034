// Who is signed in. A token, or the operator's secret, is in this tab's sessionStorage and nowhere else; a password is kept nowhere.

const KEY = "tideline-console";

let kept = JSON.parse(sessionStorage.getItem(KEY) || "{}");

export const me = { user: "", operator: false };

export const authorization = () => (kept.secret ? `Bearer ${kept.secret}` : "");

export const tokenId = () => kept.id || "";

export const signedIn = () => Boolean(kept.secret);

export const keep = (secret, id = "") => {
  kept = { secret, id };
  sessionStorage.setItem(KEY, JSON.stringify(kept));
};

export const forget = () => {
  kept = {};
  sessionStorage.removeItem(KEY);
};

// Basic authentication of UTF-8 text, which btoa alone does not take.
export const basic = (name, password) => `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(`${name}:${password}`)))}`;
