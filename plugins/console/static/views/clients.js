// Who is connected, and which sessions wait: lag, in flight, subscriptions; and the end of a connection.

import { get, part, post, remove } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { ago, number, person, time } from "../lib/format.js";
import { badge, button, card, code, confirm, connected, doing, done, facts, field, heading, link, select, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { pager, table } from "../lib/table.js";
import { bans } from "./bans.js";

const LIMIT = 50;

const lag = (row) => (row.lag === null ? "–" : row.lag > 0 ? badge(number(row.lag), row.lag > 1000 ? "bad" : "warn") : "0");
const flight = (row) => (row.inflight_out === null ? "–" : `${number(row.inflight_in ?? 0)} / ${number(row.inflight_out)}`);

const columns = [
  { name: "Client", cell: (row) => link(row.client || "(empty)", "clients", row.client, row.user) },
  { name: "User", cell: (row) => person(row.user) },
  { name: "State", cell: (row) => [connected(row.connected), h("small", { class: "block" }, row.durable ? "durable" : "clean")] },
  { name: "Lag", number: true, cell: lag },
  { name: "In flight, in / out", number: true, cell: flight },
  { name: "Filters", number: true, cell: (row) => number(row.subscriptions) },
  { name: "MQTT", cell: (row) => row.protocol || "–" },
  { name: "Address", cell: (row) => row.address || "–" },
  { name: "Since", moves: true, cell: (row) => (row.since ? ago(row.since) : "–") },
];

export const clients = (place, [client, user], signal) => (client === undefined ? list(place, signal) : one(place, client, user, signal));

const list = (place, signal) => {
  const wrong = trouble();
  const person_ = h("input", { placeholder: "alice, or c/sensor", spellcheck: "false", autocapitalize: "none" });
  const which = select([["", "all"], ["true", "connected"], ["false", "away"]]);
  const found = h("input", { placeholder: "sensor-7", spellcheck: "false", autocapitalize: "none" });
  const rows = table({ caption: "Clients and sessions", columns, key: (row) => `${row.user}\n${row.client}`, empty: "No client matches." });
  const silent = h("p", { class: "trouble", hidden: true });
  const pages = pager(() => load().catch(wrong.tell));

  const load = async () => {
    const key = person_.value.trim();
    const page = await get("/clients", {
      user: key && (/^[uc]\//.test(key) ? key : `u/${key}`), connected: which.value, after: pages.at, limit: LIMIT,
    }, signal);
    rows.update(page.clients);
    pages.update(page.next);
    silent.hidden = !page.silent.length;
    silent.textContent = `Nodes that do not answer, and whose clients are missing here: ${page.silent.join(", ")}`;
  };
  const again = () => { pages.reset(); load().catch(wrong.tell); };
  person_.addEventListener("change", again);
  which.addEventListener("change", again);

  show(place,
    heading("Clients", "Connected clients of all nodes, and durable sessions that wait for theirs."),
    wrong.element,
    h("form", { class: "filters", onsubmit: (event) => {
      event.preventDefault();
      if (found.value.trim()) location.hash = `#/clients/${encodeURIComponent(found.value.trim())}`;
      else again();
    } }, field("User", person_), field("State", which), field("Go to client id", found), h("button", {}, "Show")),
    silent, rows.element, pages.element, bans(signal));
  every(3000, signal, load, wrong.tell);
};

const one = (place, client, user, signal) => {
  const wrong = trouble();
  const about = h("div");
  const buttons = h("div", { class: "buttons" });
  const filters = table({
    caption: "Subscriptions", empty: "It has no subscription.", key: (row) => row.filter,
    columns: [{ name: "Filter", cell: (row) => code(row.filter) }, { name: "QoS", number: true, cell: (row) => row.qos }],
  });
  const pages = pager(() => load().catch(wrong.tell));
  let row = null;

  const end = async (forget) => {
    const sure = await confirm({
      title: forget ? `End the session of ${client}?` : `Disconnect ${client}?`,
      text: forget ? "Its subscriptions, its offset and what is in flight to it are forgotten. The conversations keep their messages."
        : "Its session stays, and it may connect again. A ban keeps it out.",
      yes: forget ? "End the session" : "Disconnect",
    });
    if (!sure) return;
    await remove(`/clients/${part(client)}`, { user: row.user, forget: forget || null });
    done(forget ? `The session of ${client} has ended.` : `${client} is disconnected.`);
    if (forget) location.hash = "#/clients";
  };
  const ban = async () => {
    const sure = await confirm({ title: `Ban client ${client} for an hour?`, text: "It is disconnected, and refused until then. Bans are listed, and lifted, below the clients.", yes: "Ban for an hour" });
    if (!sure) return;
    await post("/bans", { client, seconds: 3600, reason: "by the console" });
    done(`${client} is banned for an hour.`);
  };
  show(buttons,
    button("Disconnect", doing(wrong, () => end(false))),
    button("End the session", doing(wrong, () => end(true)), { class: "danger" }),
    button("Ban for an hour", doing(wrong, ban), { class: "danger" }));
  const body = h("div", { class: "columns", hidden: true }, card("Client", about, buttons), card("Subscriptions", filters.element, pages.element));
  show(place, heading(client || "(empty)", "A client, and its session.", h("a", { href: "#/clients" }, "All clients")), wrong.element, body);

  const load = async () => {
    row = await get(`/clients/${part(client)}`, { user }, signal);
    show(about, facts([
      ["User", person(row.user)],
      ["State", connected(row.connected)],
      ["Session", row.durable ? "durable" : "clean: it ends with the connection"],
      ["Address", row.address],
      ["Listener", row.listener],
      ["MQTT", row.protocol],
      ["Connected", row.since && `${time(row.since)}, ${ago(row.since)}`],
      ["Keep alive", row.keep_alive === null ? null : `${row.keep_alive} s`],
      ["In flight to it", row.inflight_out === null ? null : number(row.inflight_out)],
      ["In flight from it", row.inflight_in === null ? null : number(row.inflight_in)],
      ["Offset", row.offset === null ? null : number(row.offset)],
      ["Lag", row.lag === null ? null : lag(row)],
      ["Session expires", row.expires_at && time(row.expires_at)],
      ["Timeline", row.durable && link("its inbox", "timeline", row.user)],
    ]));
    const page = await get("/subscriptions", { user: row.user, client, after: pages.at, limit: LIMIT }, signal);
    filters.update(page.subscriptions.filter((each) => each.client === client)); // an empty id is asked for as any
    pages.update(page.next);
    body.hidden = false;
  };
  every(2000, signal, load, (error) => {
    wrong.tell(error);
    if (error?.status === 404) body.hidden = true;
  });
};
