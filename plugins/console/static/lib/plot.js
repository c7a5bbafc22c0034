// A plot of figures over the last minutes, ten at most, drawn as SVG. What it shows is in words too, for who cannot see it.

import { h, show, svg } from "./dom.js";
import { history, STEP } from "./figures.js";
import { duration } from "./format.js";

const WIDTH = 360;
const HEIGHT = 132;
const LEFT = 58;
const BOTTOM = 20;
const SPANS = [1, 2, 5, 10].map((minutes) => minutes * 60_000);

// The least round number that is not below a value.
const round = (value) => {
  if (value <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].find((step) => step * size >= value) * size;
};

// The same of bytes, which people count in powers of 1024.
export const roundBytes = (value) => {
  const unit = 1024 ** Math.max(0, Math.floor(Math.log(Math.max(1, value)) / Math.log(1024)));
  return round(value / unit) * unit;
};

// Series: {name, of: the figure's name}; `text` writes a value, and `above` gives the round one that is not below it.
export const plot = (title, series, text, above = round) => {
  const lines = series.map((_, place) => svg("path", { class: `line line-${place + 1}`, fill: "none" }));
  const grid = svg("g", { class: "grid" });
  const cursor = svg("line", { class: "cursor", y1: 4, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0, preserveAspectRatio: "none" }, grid, lines, cursor);
  const values = series.map(() => h("b", {}, "–"));
  const when = h("span", { class: "when" });
  const legend = h("figcaption", {}, h("h2", {}, title), when,
    h("ul", {}, series.map((one, place) => h("li", {}, h("i", { class: `key line-${place + 1}` }), one.name, " ", values[place]))));
  const element = h("figure", { class: "plot" }, legend, picture);
  let picked = null;

  const span = () => SPANS.find((one) => one >= history.at(-1).time - history[0].time) || SPANS.at(-1);
  const x = (time, now) => LEFT + ((time - now + span()) / span()) * (WIDTH - LEFT - 6);
  const y = (value, top) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - 8);

  const tell = (now) => {
    const point = picked === null ? history.at(-1) : history[picked];
    series.forEach((one, place) => { values[place].textContent = point[one.of] === null ? "–" : text(point[one.of]); });
    when.textContent = picked === null ? "" : new Date(point.time).toLocaleTimeString();
    cursor.setAttribute("visibility", picked === null ? "hidden" : "visible");
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(point.time, now));
  };

  const draw = () => {
    const now = history.at(-1).time;
    const top = above(Math.max(0, ...history.flatMap((point) => series.map((one) => point[one.of] || 0))));
    show(grid, [0, 0.5, 1].map((part) => [
      svg("line", { x1: LEFT, x2: WIDTH - 6, y1: y(part * top, top), y2: y(part * top, top) }),
      svg("text", { x: LEFT - 8, y: y(part * top, top) + 4, "text-anchor": "end" }, text(part * top)),
    ]), [[1, "start"], [0.5, "middle"], [0, "end"]].map(([part, anchor]) =>
      svg("text", { x: x(now - part * span(), now), y: HEIGHT - 5, "text-anchor": anchor }, part ? `−${duration((part * span()) / 1000)}` : "now")));
    series.forEach((one, place) => {
      let path = "";
      let last = 0;
      for (const point of history) {
        if (point[one.of] === null) continue;
        path += `${last && point.time - last < 10 * STEP ? "L" : "M"}${x(point.time, now).toFixed(1)} ${y(point[one.of], top).toFixed(1)}`;
        last = point.time;
      }
      lines[place].setAttribute("d", path);
    });
    tell(now);
    const words = series.map((one) => {
      const known = history.map((point) => point[one.of]).filter((value) => value !== null);
      return known.length ? `${one.name} ${text(known.at(-1))}, between ${text(Math.min(...known))} and ${text(Math.max(...known))}` : `${one.name}: nothing yet`;
    });
    picture.setAttribute("aria-label", `${title}: ${words.join("; ")}`);
  };

  const pick = (place) => {
    picked = place === null ? null : Math.max(0, Math.min(history.length - 1, place));
    if (history.length) tell(history.at(-1).time);
  };
  picture.addEventListener("pointermove", (event) => {
    if (!history.length) return;
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDTH;
    const time = history.at(-1).time - span() + ((at - LEFT) / (WIDTH - LEFT - 6)) * span();
    const nearest = history.findIndex((point) => point.time >= time);
    pick(nearest < 0 ? history.length - 1 : nearest);
  });
  picture.addEventListener("pointerleave", () => pick(null));
  picture.addEventListener("blur", () => pick(null));
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !history.length) return;
    event.preventDefault();
    pick((picked ?? history.length - 1) + step);
  });
  return { element, draw };
};
