// A table whose rows stay the same elements while their values change, so that focus and selection stay where they are.

import { h, show } from "./dom.js";
import { words } from "./parts.js";

// What is wider than its place is scrolled by the keyboard too: it can be focused, as long as it is.
const reachable = (element, grid, name) => {
  const watch = new ResizeObserver(() => {
    const wide = element.scrollWidth > element.clientWidth;
    for (const [attribute, value] of [["tabindex", 0], ["role", "group"], ["aria-label", name]]) {
      if (wide) element.setAttribute(attribute, value);
      else element.removeAttribute(attribute);
    }
  });
  watch.observe(element);
  watch.observe(grid);
};

// Columns: {name, cell(row) → text or node, number: aligned right, once: made once for a row and given a function that gets the
// row as it is now (buttons)}. `key(row)` tells rows apart; `selected(row)` marks one.
export const table = ({ caption, columns, key, empty = "Nothing here.", visible = false, selected = () => false }) => {
  const body = h("tbody", { role: "rowgroup" });
  const none = h("p", { class: "empty", hidden: true }, empty);
  const heads = columns.map((column) => h("th", { scope: "col", role: "columnheader", class: column.number && "number" }, column.name));
  // The roles are those of the elements: a narrow screen shows each row as a card, and what is no table any more loses them.
  const grid = h("table", { role: "table" }, h("caption", { class: visible ? "" : "unseen" }, caption), h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), body);
  const element = h("div", { class: "scroll" }, grid, none);
  reachable(element, grid, caption);
  let rows = new Map();

  const make = (row) => {
    const one = { row, told: "", cells: [], element: h("tr", { role: "row" }) };
    one.cells = columns.map((column, place) => {
      const first = place === 0 && !column.once;
      const cell = h(first ? "th" : "td", {
        class: column.number ? "number" : column.moves && "moves", scope: first && "row", role: first ? "rowheader" : "cell", "data-name": column.name,
      });
      if (column.once) cell.append(...[column.cell(() => one.row)].flat().filter(Boolean));
      return cell;
    });
    one.element.append(...one.cells);
    return one;
  };

  const update = (list) => {
    const next = new Map();
    for (const row of list) {
      const id = key(row);
      const one = rows.get(id) || make(row);
      const told = JSON.stringify(row);
      one.row = row;
      if (told !== one.told || columns.some((column) => column.moves)) {
        columns.forEach((column, place) => {
          if (column.once || (told === one.told && !column.moves)) return;
          const made = column.cell(row);
          const cell = one.cells[place];
          const focused = cell.contains(document.activeElement);
          if (made instanceof Node || Array.isArray(made)) show(cell, made);
          else if (cell.textContent !== String(made)) show(cell, words(String(made)));
          if (focused) cell.querySelector("button, a")?.focus();
        });
        one.told = told;
      }
      one.element.classList.toggle("selected", selected(row));
      next.set(id, one);
    }
    for (const [id, one] of rows) if (!next.has(id)) one.element.remove();
    let place = body.firstElementChild;
    for (const one of next.values()) {
      if (one.element === place) place = place.nextElementSibling;
      else body.insertBefore(one.element, place);
    }
    rows = next;
    none.hidden = list.length > 0;
    grid.hidden = list.length === 0;
  };
  grid.hidden = true;
  return { element, update };
};

// A page of a list that came as a whole, and the cursor of the next one.
export const cut = (list, at, limit) => {
  const first = Number(at || 0);
  return { page: list.slice(first, first + limit), next: first + limit < list.length ? String(first + limit) : null };
};

// Earlier and later pages of a list that goes by cursors; `turn(cursor)` loads one.
export const pager = (turn) => {
  let before = [];
  let at = "";
  let next = null;
  const back = h("button", { type: "button", disabled: true, onclick: () => { at = before.pop(); turn(at); } }, "Previous page");
  const on = h("button", { type: "button", disabled: true, onclick: () => { before.push(at); at = next; turn(at); } }, "Next page");
  return {
    element: h("div", { class: "pager" }, back, on),
    get at() { return at; },
    update(cursor) { next = cursor; back.disabled = !before.length; on.disabled = !cursor; },
    reset() { before = []; at = ""; },
  };
};
