// The live figures: asked for every two seconds while an operator is signed in, with ten minutes of them kept in this page.

import { get } from "./api.js";
import { every } from "./refresh.js";

export const STEP = 2000;
const KEPT = 300;
const MOST_STRANGE = 10; // answers of another node, until that is the one that is shown

export const history = [];
const heard = new Set();
let before = null;
let strange = 0;

export const onFigures = (told, signal) => {
  heard.add(told);
  signal.addEventListener("abort", () => heard.delete(told), { once: true });
  if (history.length) told();
};

// The figures of one answer, by name.
class Answer {
  constructor({ time, figures }) {
    this.time = time;
    this.named = Map.groupBy ? Map.groupBy(figures, (one) => one.name) : grouped(figures);
  }

  get node() { return this.label("tideline_node_info", "number"); }

  list(name) { return this.named.get(name) || []; }

  sum(name, labels = {}) {
    return this.list(name).filter((one) => Object.entries(labels).every(([label, value]) => one.labels[label] === value))
      .reduce((sum, one) => sum + one.value, 0);
  }

  one(name) { return this.list(name)[0]?.value ?? null; }

  label(name, label) { return this.list(name)[0]?.labels[label] ?? ""; }
}

const grouped = (figures) => {
  const found = new Map();
  for (const one of figures) found.set(one.name, [...(found.get(one.name) || []), one]);
  return found;
};

// The quantile of what a histogram counted between two answers, in seconds; null where that was nothing.
const quantile = (name, part, now, then) => {
  const earlier = new Map(then.list(`${name}_bucket`).map((one) => [one.labels.le, one.value]));
  const buckets = now.list(`${name}_bucket`).map((one) => [one.labels.le, one.value - (earlier.get(one.labels.le) || 0)]);
  const wanted = (buckets.at(-1)?.[1] || 0) * part;
  if (!wanted) return null;
  let low = 0;
  let below = 0;
  for (const [bound, count] of buckets) {
    const high = bound === "+Inf" ? low : Number(bound);
    if (count >= wanted) return low + (high - low) * ((wanted - below) / Math.max(1, count - below));
    low = high;
    below = count;
  }
  return low;
};

const point = (now, then) => {
  const passed = (now.time - then.time) / 1000;
  const rate = (name, labels) => Math.max(0, now.sum(name, labels) - then.sum(name, labels)) / passed;
  return {
    time: now.time,
    answer: now,
    received: rate("tideline_publish_packets_total", { direction: "received" }),
    sent: rate("tideline_publish_packets_total", { direction: "sent" }),
    bytesIn: rate("tideline_network_bytes_total", { direction: "received" }),
    bytesOut: rate("tideline_network_bytes_total", { direction: "sent" }),
    stored: rate("tideline_messages_stored_total"),
    ack: quantile("tideline_ack_seconds", 0.5, now, then),
    ackSlow: quantile("tideline_ack_seconds", 0.99, now, then),
    delivery: quantile("tideline_delivery_seconds", 0.5, now, then),
    deliverySlow: quantile("tideline_delivery_seconds", 0.99, now, then),
    clients: now.sum("tideline_sessions", { state: "connected" }),
    away: now.sum("tideline_sessions", { state: "disconnected" }),
    lag: now.sum("tideline_lag_entries"),
    inflight: now.sum("tideline_inflight_messages", { direction: "sent" }),
    cpu: rate("process_cpu_seconds_total") * 100,
    memory: now.one("process_resident_memory_bytes"),
  };
};

export const followFigures = (signal, failed) =>
  every(STEP, signal, async () => {
    const now = new Answer(await get("/metrics", {}, signal));
    if (before && now.node !== before.node && (strange += 1) < MOST_STRANGE) return; // of several workers on one port another one
    strange = 0;
    if (before && now.node !== before.node) forgetFigures();
    if (before && now.time > before.time) {
      if (history.length) history.at(-1).answer = null; // only the last one's is looked at, and each is some hundred objects
      history.push(point(now, before));
      if (history.length > KEPT) history.shift();
      for (const told of heard) told();
    }
    before = now;
  }, failed);

export const forgetFigures = () => {
  history.length = 0;
  before = null;
};
