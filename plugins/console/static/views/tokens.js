// The caller's own bearer tokens.

import { get, post, remove } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { ago, time } from "../lib/format.js";
import { badge, button, card, confirm, doing, done, field, heading, select, trouble } from "../lib/parts.js";
import { tokenId } from "../lib/session.js";
import { table } from "../lib/table.js";

const LIFETIMES = [[86400, "a day"], [30 * 86400, "30 days"], [365 * 86400, "a year"]];

export const tokens = (place, _, signal) => {
  const wrong = trouble();
  const label = h("input", { required: true, maxlength: 200, placeholder: "backup script" });
  const lifetime = select(LIFETIMES);
  lifetime.value = String(30 * 86400);
  const issued = h("div", { class: "issued", hidden: true });

  const load = async () => rows.update((await get("/tokens", {}, signal)).tokens);
  const revoke = (row) => doing(wrong, async () => {
    const sure = await confirm({ title: `Revoke the token ${row().label || row().id}?`, text: "Whoever uses it is refused from then on.", yes: "Revoke" });
    if (!sure) return;
    await remove(`/tokens/${row().id}`);
    done("The token is revoked.");
    await load();
  });
  const issue = async () => {
    const token = await post("/tokens", { label: label.value, lifetime: Number(lifetime.value) });
    label.value = "";
    issued.hidden = false;
    show(issued, h("p", {}, "The token, shown this once:"), h("code", { tabindex: 0 }, token.token), " ",
      button("Copy", async () => { await navigator.clipboard.writeText(token.token); done("Copied."); }),
      button("Hide", () => { issued.hidden = true; show(issued); }));
    await load();
  };
  const rows = table({
    caption: "Tokens", key: (row) => row.id, empty: "You have no token.",
    columns: [
      { name: "Label", cell: (row) => [row.label || "(none)", row.id === tokenId() ? [" ", badge("this sign-in", "good")] : ""] },
      { name: "Id", cell: (row) => h("code", {}, row.id) },
      { name: "Made", cell: (row) => time(row.created) },
      { name: "Expires", cell: (row) => h("span", { title: time(row.expires) }, ago(row.expires)) },
      { name: "Actions", once: true, cell: (row) => button("Revoke", (event) => revoke(row)(event), { class: "danger", "aria-label": `Revoke token ${row().label || row().id}` }) },
    ],
  });
  show(place, heading("Tokens", "For programs that call the HTTP API as you. Each can do what you can."), wrong.element,
    card("New token",
      h("form", { class: "filters", onsubmit: doing(wrong, issue) }, field("What for", label), field("Valid for", lifetime), h("button", { class: "strong" }, "Make a token")),
      issued),
    rows.element);
  load().catch(wrong.tell);
};
