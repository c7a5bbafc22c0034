// A tree that is read a level at a time, and a level page by page, for mouse, keyboard and screen reader (WAI-ARIA's tree pattern).

import { h, show } from "./dom.js";

const RENEWED = 20;
const SOUGHT = 20;

// Nodes: {key: tells it from others of its level, name, branch: whether there is more below, topic: whether it can be chosen,
// note: text or nodes beside the name}. `below(node, after)` gives {nodes, next} of those below a node, or below nothing the top.
export const tree = ({ label, below, pick, failed }) => {
  const element = h("ul", { role: "tree", "aria-label": label, class: "tree" });

  const items = () => [...element.querySelectorAll("[role=treeitem]")].filter((item) => !item.parentElement.closest("[hidden]"));

  const focus = (item) => {
    if (!item) return;
    for (const one of element.querySelectorAll("[tabindex='0']")) one.tabIndex = -1;
    item.tabIndex = 0;
    item.focus();
  };

  const choose = (item, told = true) => {
    for (const one of element.querySelectorAll("[aria-selected=true]")) one.setAttribute("aria-selected", "false");
    item.setAttribute("aria-selected", "true");
    if (told) pick(item.node);
  };

  const open = async (item, wanted = item.getAttribute("aria-expanded") !== "true") => {
    if (!item.node.branch) return;
    item.setAttribute("aria-expanded", String(wanted));
    item.group.hidden = !wanted;
    if (wanted && !item.group.childElementCount) await fill(item.group, item.node);
  };

  // What a click, Enter or the space bar does.
  const act = (item) => {
    if (item.more) item.more().catch(failed);
    else if (item.node.topic) choose(item);
    else open(item).catch(failed);
  };

  const branch = (item) => {
    item.group = h("ul", { role: "group", hidden: true });
    item.append(item.group);
    item.setAttribute("aria-expanded", "false");
  };

  const make = (node, depth) => {
    const row = h("span", { class: "row" }, h("span", { class: "twist", "aria-hidden": "true" }), h("span", { class: "name", dir: "auto", title: node.name.length > 60 ? node.name : null }, node.name || "(empty)"), h("span", { class: "faint notes" }, node.note));
    const item = h("li", { role: "treeitem", tabindex: -1, "aria-level": depth, "aria-selected": "false" }, row);
    item.node = node;
    if (node.branch) branch(item);
    row.addEventListener("click", (event) => {
      focus(item);
      if (item.node.branch && event.target.className === "twist") open(item).catch(failed);
      else act(item);
    });
    return item;
  };

  // A node as it is now: its note, and what was a topic alone may have become a level too.
  const update = (item, node) => {
    if (node.topic) show(item.querySelector(".notes"), node.note);
    if (node.branch && !item.node.branch) branch(item);
    const branched = item.node.branch || node.branch;
    item.node = { ...item.node, ...node, topic: node.topic || item.node.topic, below: node.below || item.node.below, branch: branched };
    show(item.querySelector(".name"), branched ? `${node.key}/` : node.key || "(empty)");
  };

  // Puts a page's nodes into a level, after those that come before them; the new ones' items, in order.
  const place = (group, nodes) => {
    const depth = level(group);
    let at = group.firstElementChild;
    return nodes.map((node) => {
      let item = group.known.get(node.key);
      if (item) update(item, node);
      else {
        item = make(node, depth);
        group.known.set(node.key, item);
        while (at && at.node && at.node.key < node.key) at = at.nextElementSibling;
        group.insertBefore(item, at);
      }
      at = item.nextElementSibling;
      return item;
    });
  };

  const level = (group) => Number(group.parentElement.getAttribute?.("aria-level") || 0) + 1;

  const further = (group, node) => {
    const item = h("li", { role: "treeitem", tabindex: -1, "aria-level": level(group), "aria-selected": "false" }, h("span", { class: "row more" }, "More …"));
    item.more = async () => {
      const made = await read(group, node, group.next);
      if (document.activeElement === item) focus(made[0]);
      if (group.next === null) item.remove();
    };
    item.addEventListener("click", () => { focus(item); act(item); });
    return item;
  };

  const read = async (group, node, after) => {
    const found = await below(node, after);
    const made = place(group, found.nodes);
    group.pages.push({ after, first: made[0], last: made.at(-1) });
    group.next = found.next;
    return made;
  };

  const fill = async (group, node) => {
    group.known = new Map();
    group.pages = [];
    show(group, h("li", { class: "faint", role: "none" }, "Loading …"));
    try {
      const loading = group.firstElementChild;
      await read(group, node, "");
      loading.remove();
      if (group.next !== null) group.append(further(group, node));
    } catch (error) {
      show(group);
      throw error;
    }
  };

  const seen = ({ first, last }) => {
    const box = element.parentElement.getBoundingClientRect();
    return !first || (first.getBoundingClientRect().top < Math.min(box.bottom, innerHeight) && last.getBoundingClientRect().bottom > Math.max(box.top, 0));
  };

  // The pages that can be seen again: what is new comes in, and notes are as they are now.
  const renew = async (group, node) => {
    for (const page of group.pages.filter(seen)) {
      const made = place(group, (await below(node, page.after)).nodes);
      page.first ??= made[0];
      page.last ??= made.at(-1);
    }
  };

  element.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = items();
    const at = all.indexOf(item);
    const expanded = item.getAttribute("aria-expanded");
    const keys = {
      ArrowDown: () => focus(all[at + 1]),
      ArrowUp: () => focus(all[at - 1]),
      Home: () => focus(all[0]),
      End: () => focus(all.at(-1)),
      ArrowRight: () => (expanded === "false" ? open(item, true).catch(failed) : expanded === "true" && focus(item.group.querySelector("[role=treeitem]"))),
      ArrowLeft: () => (expanded === "true" ? open(item, false) : focus(item.parentElement.closest("[role=treeitem]"))),
      Enter: () => act(item),
      " ": () => act(item),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  });

  return {
    element,
    async load() {
      await fill(element, null);
      if (items()[0]) items()[0].tabIndex = 0;
    },
    async renew() {
      const open = [...element.querySelectorAll("[aria-expanded=true]")].filter((item) => !item.parentElement.closest("[hidden]"));
      await renew(element, null);
      for (const item of open.filter((one) => one.group.pages?.some(seen)).slice(0, RENEWED)) await renew(item.group, item.node);
      if (!element.querySelector("[tabindex='0']") && items()[0]) items()[0].tabIndex = 0;
    },
    // Open what leads to a node, and mark it; `way(node)` says of a branch whether it does, and `is(node)` which it is.
    async reveal(way, is) {
      let group = element;
      for (let pages = 0; group && pages < SOUGHT; pages += 1) {
        const nodes = [...group.known.values()];
        const found = nodes.find((item) => is(item.node));
        if (found) {
          choose(found, false);
          found.scrollIntoView({ block: "nearest" });
          return;
        }
        const next = nodes.find((item) => item.node.branch && way(item.node));
        if (next) {
          await open(next, true);
          group = next.group;
        } else {
          if (group.next === null) return;
          await group.lastElementChild.more();
        }
      }
    },
  };
};
