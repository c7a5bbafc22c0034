// Signing in: a password is sent once, for a token that this tab keeps; the operator's secret is kept by this tab itself.

import { Problem, post, request } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { doing, field, trouble } from "../lib/parts.js";
import { basic, forget, keep } from "../lib/session.js";

const LIFETIME = 12 * 3600;

const enter = async (name, password) => {
  const headers = { Authorization: basic(name, password) };
  const token = await post("/tokens", { label: "console", lifetime: LIFETIME }, { headers });
  keep(token.token, token.id);
};

const operate = async (secret) => {
  const answer = await request("GET", "/me", { headers: { Authorization: `Bearer ${secret}` } });
  if (!(await answer.json()).operator) throw new Problem(401, "that is not the operator's secret");
  keep(secret);
};

const told = (error) => (error.status === 401 ? new Problem(401, "wrong name or password, or a secret that is none") : error);

export const login = (place, begin) => {
  const wrong = trouble();
  const name = h("input", { autocomplete: "username", required: true, autocapitalize: "none", spellcheck: "false" });
  const password = h("input", { type: "password", autocomplete: "current-password", required: true });
  const secret = h("input", { type: "password", autocomplete: "off", required: true });
  const form = (title, act, work, ...children) =>
    h("form", { class: "card", onsubmit: doing(wrong, async () => {
      try {
        await work();
        await begin();
      } catch (error) {
        forget();
        throw told(error);
      }
    }) }, h("h2", {}, title), children, h("button", { class: "strong" }, act));
  show(place, h("div", { class: "login" },
    h("h1", {}, "Sign in to Tideline"),
    wrong.element,
    form("As a user", "Sign in", () => enter(name.value, password.value), field("User name", name), field("Password", password)),
    form("As the operator", "Sign in as the operator", () => operate(secret.value.trim()),
      field("Operator's secret", secret, "What the file operator.secret on the broker's machine holds. This tab forgets it when it is closed."))));
  name.focus();
};
