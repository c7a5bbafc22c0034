// The users in storage.

import { get, part, patch, post, remove } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { ago, time } from "../lib/format.js";
import { badge, button, card, confirm, doing, done, field, heading, trouble } from "../lib/parts.js";
import { signedIn } from "../lib/session.js";
import { pager, table } from "../lib/table.js";

const LIMIT = 50;

export const users = (place, _, signal) => {
  const wrong = trouble();
  const name = h("input", { required: true, autocomplete: "off", spellcheck: "false", autocapitalize: "none" });
  const password = h("input", { type: "password", required: true, autocomplete: "new-password" });
  const pages = pager(() => load().catch(wrong.tell));

  const load = async () => {
    const page = await get("/users", { after: pages.at, limit: LIMIT }, signal);
    rows.update(page.users);
    pages.update(page.next);
    return page;
  };
  const change = (work) => (row) => doing(wrong, async () => { if (await work(row)) await load(); });

  const add = async () => {
    const first = !(await get("/users", { limit: 1 }, signal)).users.length;
    if (first && !signedIn()) {
      const sure = await confirm({
        title: "Add the first user?",
        text: "From then on nobody comes in without a name and password, this page included. To be the operator again you sign in with what the file operator.secret on the broker's machine holds.",
        yes: "Add the first user",
      });
      if (!sure) return;
    }
    await post("/users", { name: name.value, password: password.value });
    done(`User ${name.value} is added.`);
    name.value = "";
    password.value = "";
    await load();
  };
  const another = change(async (row) => {
    const next = await confirm({ title: `Another password for ${row.name}`, text: "Their connections end, and their tokens are revoked.", yes: "Set the password", ask: { label: "New password", type: "password" } });
    if (!next) return false;
    await patch(`/users/${part(row.name)}`, { password: next });
    done(`${row.name} has another password.`);
    return true;
  });
  const shut = change(async (row) => {
    await patch(`/users/${part(row.name)}`, { disabled: !row.disabled });
    done(row.disabled ? `${row.name} may come in again.` : `${row.name} is shut out.`);
    return true;
  });
  const forget = change(async (row) => {
    const sure = await confirm({ title: `Delete user ${row.name}?`, text: "Connections end and tokens are revoked. Sessions and messages stay.", yes: "Delete" });
    if (!sure) return false;
    await remove(`/users/${part(row.name)}`);
    done(`User ${row.name} is deleted.`);
    return true;
  });

  const rows = table({
    caption: "Users", key: (row) => row.name, empty: "There is no user in storage: whoever connects from this machine may do everything.",
    columns: [
      { name: "User", cell: (row) => row.name },
      { name: "State", cell: (row) => (row.disabled ? badge("shut out", "bad") : badge("let in", "good")) },
      { name: "Added", moves: true, cell: (row) => h("span", { title: time(row.created) }, ago(row.created)) },
      { name: "Changed", moves: true, cell: (row) => h("span", { title: time(row.changed) }, ago(row.changed)) },
      { name: "Actions", cell: (row) => h("div", { class: "actions" },
        button("Password", another(row), { "aria-label": `Another password for ${row.name}` }),
        button(row.disabled ? "Let in" : "Shut out", shut(row), { "aria-label": `${row.disabled ? "Let in" : "Shut out"} ${row.name}` }),
        button("Delete", forget(row), { class: "danger", "aria-label": `Delete ${row.name}` })) },
    ],
  });
  show(place, heading("Users", "Those kept in storage, the same on every node. Password files and tokens of others are not shown here."), wrong.element,
    card("New user", h("form", { class: "filters", onsubmit: doing(wrong, add) },
      field("User name", name), field("Password", password), h("button", { class: "strong" }, "Add the user"))),
    rows.element, pages.element);
  load().catch(wrong.tell);
};
