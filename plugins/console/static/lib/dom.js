// Elements by what they hold. Text stays text: nothing here, or anywhere in the console, takes HTML.

const SVG = "http://www.w3.org/2000/svg";

// What cannot be seen, or turns around what stands beside it, as something that can: control characters, and U+202A to U+202E. A
// name with one of them would look like another name.
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e]/g;

const pictured = (sign) => `‹U+${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;

export const visible = (text) => text.replace(UNSEEN, pictured);

const nodes = (children) =>
  children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false).map((child) => (child instanceof Node ? child : visible(String(child))));

const fill = (element, properties, children) => {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...nodes(children));
  return element;
};

export const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);

export const svg = (tag, properties = {}, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

export const show = (parent, ...children) => {
  parent.replaceChildren(...nodes(children));
  return parent;
};

// Say something to who does not see the page change. Sparingly: only what the user has asked for.
export const say = (text) => {
  document.getElementById("said").textContent = text;
};

let names = 0;
export const unique = (prefix) => `${prefix}-${(names += 1)}`;

export const after = (milliseconds, signal) =>
  new Promise((resolve) => {
    const ended = () => { clearTimeout(timer); signal?.removeEventListener("abort", ended); resolve(); };
    const timer = setTimeout(ended, milliseconds);
    signal?.addEventListener("abort", ended);
  });
