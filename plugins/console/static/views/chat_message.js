// One message of a chat, and what its reader may do with it.

import { h } from "../lib/dom.js";
import { attached, files } from "../lib/files.js";
import { number, person, today } from "../lib/format.js";
import { REACTIONS, text } from "../lib/message.js";
import { button, doing } from "../lib/parts.js";

// How far it is, as its sender is told: "delivered to 1 of 2, read by 1".
const far = (receipt) => {
  if (!receipt || receipt.of === 0) return "";
  const of = receipt.of === null || receipt.of === undefined ? "" : ` of ${number(receipt.of)}`;
  return [
    receipt.delivered ? `delivered to ${number(receipt.delivered)}${of}` : `stored for ${number(receipt.stored ?? receipt.of ?? 0)}`,
    receipt.read ? `read by ${number(receipt.read)}${of}` : "",
  ].filter(Boolean).join(", ");
};

// A button that opens what may be done with a message, and those buttons.
const acts = (message, mine, does) => {
  const opener = button("⋯", () => turn(!bar.hidden), { class: "opener", "aria-expanded": "false", "aria-label": `Actions for message ${message.seq}` });
  const turn = (closed) => { bar.hidden = closed; opener.setAttribute("aria-expanded", String(!closed)); };
  const close = () => { turn(true); opener.focus(); };
  const act = (work) => doing(does.wrong, async () => { close(); await work(); });
  const bar = h("div", { class: "acts", hidden: true, onkeydown: (event) => event.key === "Escape" && close() },
    REACTIONS.map((one) => button(one, act(() => does.react(message, one)), { "aria-label": `React with ${one} to message ${message.seq}` })),
    mine && message.encoding !== "base64" && button("Edit", act(() => does.edit(message)), { "aria-label": `Edit message ${message.seq}` }),
    mine && button("Take back", act(() => does.recall(message)), { class: "danger", "aria-label": `Take message ${message.seq} back` }),
    h("a", { href: `#/message/${message.id}` }, "Who has it"));
  return { opener, bar };
};

export const bubble = (message, { me, readTo, receipt, open, does, signal }) => {
  const mine = message.sender === me;
  const reactions = Object.entries(message.reactions || {});
  const shown = message.encoding === "base64" ? "(binary)" : text(message);
  const { opener, bar } = open && !message.recalled ? acts(message, mine, does) : {};
  return h("li", { class: mine ? "mine" : "theirs" },
    h("div", { class: "meta" }, mine ? "you" : person(message.sender), " ", h("time", {}, today(message.time)), ` #${message.seq}`, message.edited ? " · edited" : "", readTo ? " · read to here" : "", " ", opener),
    message.recalled ? h("div", { class: "words faint" }, "taken back")
      : [(shown || !attached(message).length) && h("div", { class: "words", dir: "auto" }, shown), files(attached(message), does.wrong, signal)],
    reactions.length > 0 && h("div", { class: "marks" }, reactions.map(([one, count]) =>
      button(`${one} ${number(count)}`, doing(does.wrong, () => does.react(message, one)), { class: "chip", dir: "auto", disabled: !open, "aria-label": `${one} ${number(count)}: give it to message ${message.seq}, or take it back` }))),
    mine && !message.recalled && far(receipt) && h("div", { class: "meta far" }, far(receipt)),
    bar);
};

// Mostly it is the very same object.
const same = (told, other) => told.every((part, at) => part === other[at] || JSON.stringify(part) === JSON.stringify(other[at]));

// The messages as list items that stay the same elements until something of theirs is another, so that focus stays where it is.
export const log = (list) => {
  let shown = new Map();
  return (messages, how) => {
    const next = new Map();
    let at = list.firstElementChild;
    for (const message of messages) {
      const context = how(message);
      const told = [message, context.me, context.readTo, context.receipt, context.open];
      let one = shown.get(message.seq);
      if (!one || !same(one.told, told)) {
        const element = bubble(message, context);
        const focused = one?.element.contains(document.activeElement);
        if (one) {
          if (one.element === at) at = element;
          one.element.replaceWith(element);
          if (one.element.querySelector(".opener[aria-expanded=true]")) element.querySelector(".opener")?.click();
          if (focused) element.querySelector("button")?.focus();
        }
        one = { element };
      }
      one.told = told;
      if (one.element === at) at = at.nextElementSibling;
      else list.insertBefore(one.element, at);
      next.set(message.seq, one);
    }
    for (const [seq, one] of shown) if (!next.has(seq)) one.element.remove();
    shown = next;
  };
};
