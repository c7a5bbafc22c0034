// Small things that many views are made of.

import { h, say, show, unique } from "./dom.js";

export const heading = (title, about, ...more) =>
  h("div", { class: "heading" }, h("div", {}, h("h1", { dir: "auto" }, title), about && h("p", { class: "about" }, about)), h("div", { class: "tools" }, more));

export const card = (title, ...children) => {
  const id = unique("card");
  return h("section", { class: "card", "aria-labelledby": title ? id : null }, title && h("h2", { id }, title), children);
};

export const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);

export const connected = (yes) => badge(yes ? "connected" : "away", yes ? "good" : "");

export const field = (label, input, hint) => {
  input.id ||= unique("field");
  const id = hint && unique("hint");
  if (hint) input.setAttribute("aria-describedby", id);
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, hint && h("small", { id }, hint));
};

export const select = (options, properties = {}) =>
  h("select", properties, options.map(([value, text]) => h("option", { value }, text)));

export const button = (text, onclick, properties = {}) => h("button", { type: "button", onclick, ...properties }, text);

const LONG = 24;

// What somebody else named: it keeps its own direction, and a long one is shortened where there are many (parts.css).
const naming = (text) => (text.length > LONG ? { class: "name", dir: "auto", title: text } : { dir: "auto" });

export const link = (text, ...path) => h("a", { href: `#/${path.map(encodeURIComponent).join("/")}`, ...naming(text) }, text);

export const code = (text) => h("code", naming(text), text);

export const words = (text) => h("bdi", naming(text), text);

export const facts = (pairs) =>
  h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

// A place for what went wrong, which is read out when it comes.
export const trouble = () => {
  const element = h("p", { class: "trouble", role: "alert", hidden: true });
  return {
    element,
    tell(error) {
      element.hidden = !error;
      element.textContent = error ? error.message : "";
    },
  };
};

// Do what a button asks for: it waits meanwhile, and what goes wrong is told.
export const doing = (trouble, work) => async (event) => {
  event.preventDefault();
  const pressed = event.submitter || event.currentTarget;
  pressed.disabled = true;
  try {
    trouble.tell(null);
    await work(event);
  } catch (error) {
    trouble.tell(error);
  } finally {
    pressed.disabled = false;
  }
};

// Ask before what cannot be taken back. Resolves to the text of `ask`'s field, "yes" without one, or "" for no. What `ask.must`
// says has to be typed before the answer can be yes.
export const confirm = ({ title, text, yes, no = "Cancel", danger = false, ask = null }) =>
  new Promise((resolve) => {
    const input = ask && h("input", { type: ask.type || "text", required: true, autocomplete: "off", spellcheck: "false", autocapitalize: "none", dir: "auto" });
    const id = unique("dialog");
    const agree = h("button", { value: "yes", class: danger ? "strong danger" : "strong", disabled: Boolean(ask?.must) }, yes);
    const dialog = h("dialog", { "aria-labelledby": id },
      h("form", { method: "dialog" },
        h("h2", { id }, title), text && h("p", {}, text), ask && field(ask.label, input),
        h("div", { class: "buttons" }, button(no, () => dialog.close("")), agree))); // Enter in the field means the one that submits
    if (ask?.must) input.addEventListener("input", () => { agree.disabled = input.value !== ask.must; });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? (input ? input.value : "yes") : "");
    });
    document.body.append(dialog);
    dialog.showModal();
    if (!input) dialog.querySelector("button").focus();
  });

// A short message that what was asked for was done.
export const done = (text) => {
  say(text);
  const note = h("div", { class: "note", "aria-hidden": "true" }, text);
  document.body.append(note);
  setTimeout(() => note.remove(), 4000);
};

export const loading = (parent) => show(parent, h("p", { class: "empty" }, "Loading …"));
