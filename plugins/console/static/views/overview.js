// How the broker is: its figures now, and over the last ten minutes.

import { h, show } from "../lib/dom.js";
import { history, onFigures } from "../lib/figures.js";
import { bytes, compact, duration, number, seconds } from "../lib/format.js";
import { badge, card, facts, heading } from "../lib/parts.js";
import { plot, roundBytes } from "../lib/plot.js";
import { table } from "../lib/table.js";

const rate = (value) => `${compact(value)}/s`;
const bits = (value) => `${bytes(value)}/s`;
const percent = (value) => `${Math.round(value)} %`;

const TILES = [
  ["Clients connected", (point) => number(point.clients), (point) => `sessions waiting: ${number(point.away)}`],
  ["Published to us", (point) => rate(point.received), (point) => `${rate(point.stored)} stored`],
  ["Delivered", (point) => rate(point.sent), (point) => `${number(point.inflight)} in flight`],
  ["Acknowledged in", (point) => seconds(point.ack), (point) => `99 % within ${seconds(point.ackSlow)}`],
  ["Lag", (point) => number(point.lag), (point) => `entries, ${number(point.answer.sum("tideline_lagging_devices"))} devices`],
  ["Stored", (point) => compact(point.answer.sum("tideline_messages_stored_total")), (point) => since(point)],
];

const since = ({ answer }) => {
  const begun = answer.one("process_start_time_seconds");
  return begun ? `in ${duration(answer.time / 1000 - begun)}` : "since the start";
};

const PLOTS = () => [
  plot("Messages", [{ name: "published", of: "received" }, { name: "delivered", of: "sent" }], rate),
  plot("Time to the acknowledgement", [{ name: "half within", of: "ack" }, { name: "99 % within", of: "ackSlow" }], seconds),
  plot("Time to the subscriber", [{ name: "half within", of: "delivery" }, { name: "99 % within", of: "deliverySlow" }], seconds),
  plot("Network", [{ name: "in", of: "bytesIn" }, { name: "out", of: "bytesOut" }], bits, roundBytes),
  plot("Lag of connected devices", [{ name: "entries", of: "lag" }], compact),
  plot("In flight", [{ name: "to clients", of: "inflight" }], compact),
  plot("Clients", [{ name: "connected", of: "clients" }], compact),
  plot("Processor", [{ name: "of one core", of: "cpu" }], percent),
  plot("Memory", [{ name: "resident", of: "memory" }], bytes, roundBytes),
];

const state = ({ answer }) => [
  ["Version", `${answer.label("tideline_build_info", "version")}, ${answer.label("tideline_build_info", "core")} core`],
  ["Node", answer.label("tideline_node_info", "name")],
  ["Storage", answer.one("tideline_storage_available") ? badge("available", "good") : badge("away", "bad")],
  ["Free on its disk", answer.one("tideline_storage_free_bytes") === null ? "" : bytes(answer.one("tideline_storage_free_bytes"))],
  ["Search index", answer.one("tideline_search_available") === null ? "none"
    : answer.one("tideline_search_available") ? `${number(answer.one("tideline_search_lag_messages") || 0)} messages behind` : badge("not open", "bad")],
  ["Subscriptions", number(answer.one("tideline_subscriptions"))],
  ["Retained messages", number(answer.one("tideline_retained_messages"))],
  ["Waiting to be stored", number(answer.one("tideline_pending_messages"))],
  ["Inboxes behind", answer.one("tideline_lagging_inboxes") === null ? "" : number(answer.one("tideline_lagging_inboxes"))],
];

// What should be nothing, and is not.
const WRONG = [
  ["tideline_storage_errors_total", "commits that failed and were tried again"],
  ["tideline_hook_errors_total", "plugin hooks that raised or took too long"],
  ["tideline_publish_dropped_total", "deliveries dropped"],
  ["tideline_slow_clients_disconnected_total", "clients disconnected for reading too slowly"],
  ["tideline_access_denied_total", "denied by access rules"],
  ["tideline_protocol_errors_total", "connections closed for what the client sent"],
  ["tideline_keep_alive_timeouts_total", "connections that went silent"],
  ["tideline_handshakes_failed_total", "sockets that did not get as far as MQTT"],
  ["tideline_events_dropped_total", "plugin events dropped"],
];

const troubles = ({ answer }) => [
  ...WRONG.map(([name, what]) => ({ what, count: answer.sum(name) })),
  ...answer.list("tideline_limit_reached_total").map((one) => ({ what: `limit reached: ${one.labels.limit.replaceAll("_", " ")}`, count: one.value })),
  ...answer.list("tideline_connects_total").filter((one) => one.labels.result === "refused").map((one) => ({ what: "logins refused", count: one.value })),
].filter((row) => row.count > 0);

export const overview = (place, _, signal) => {
  const tiles = TILES.map(([name]) => ({ value: h("strong", {}, "–"), more: h("span", {}, " "), name }));
  const plots = PLOTS();
  const facts_ = h("div");
  const wrong = table({
    caption: "What went wrong since the start", empty: "Nothing went wrong since the start.", key: (row) => row.what,
    columns: [{ name: "What", cell: (row) => row.what }, { name: "Times", number: true, cell: (row) => number(row.count) }],
  });
  const listeners = table({
    caption: "Connections by listener", key: (row) => row.labels.listener,
    columns: [{ name: "Listener", cell: (row) => row.labels.listener }, { name: "Connections", number: true, cell: (row) => number(row.value) }],
  });
  show(place,
    heading("Overview", "This node, as it is now. Figures come every two seconds, and are kept in this page for ten minutes."),
    h("dl", { class: "tiles" }, tiles.map((tile) => h("div", {}, h("dt", {}, tile.name), h("dd", {}, tile.value, tile.more)))),
    h("div", { class: "plots" }, plots.map((one) => one.element)),
    h("div", { class: "columns" }, card("State", facts_), card("Listeners", listeners.element), card("Trouble", wrong.element)));
  onFigures(() => {
    const point = history.at(-1);
    TILES.forEach(([, value, more], number) => {
      tiles[number].value.textContent = value(point);
      tiles[number].more.textContent = more(point);
    });
    for (const one of plots) one.draw();
    show(facts_, facts(state(point)));
    wrong.update(troubles(point));
    listeners.update(point.answer.list("tideline_connections"));
  }, signal);
};
