// Numbers, sizes and times as people read them, in the language of the browser.

const whole = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumSignificantDigits: 3 });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });

export const number = (value) => (value === null || value === undefined ? "–" : whole.format(value));

export const compact = (value) => (Math.abs(value) < 10_000 ? whole.format(Math.round(value * 10) / 10) : short.format(value));

export const bytes = (value) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
};

export const seconds = (value) => {
  if (value === null) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} ms`;
  return `${value.toFixed(1)} s`;
};

export const duration = (value) => {
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = parts.findIndex(([, size]) => value >= size);
  if (first < 0) return "0 s";
  const [unit, size] = parts[first];
  const rest = parts[first + 1];
  const more = rest ? Math.floor((value % size) / rest[1]) : 0;
  return `${Math.floor(value / size)} ${unit}${more ? ` ${more} ${rest[0]}` : ""}`;
};

export const time = (milliseconds) => (milliseconds ? moment.format(milliseconds) : "–");

export const today = (milliseconds) =>
  new Date(milliseconds).toDateString() === new Date().toDateString() ? clock.format(milliseconds) : moment.format(milliseconds);

export const ago = (milliseconds) => {
  if (!milliseconds) return "–";
  const passed = (milliseconds - Date.now()) / 1000;
  const [unit, size] = [["day", 86400], ["hour", 3600], ["minute", 60]].find(([, one]) => Math.abs(passed) >= one) || ["second", 1];
  return relative.format(Math.round(passed / size), unit);
};

// A user key as people say it: u/alice is alice, c/sensor the nameless client "sensor".
export const person = (key) => {
  if (key.startsWith("u/")) return key.slice(2);
  if (key.startsWith("c/")) return `${key.slice(2)} (no user)`;
  return { "b/operator": "operator", "b/tideline": "the broker" }[key] || key;
};
