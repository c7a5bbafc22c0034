// A tree that is read a level at a time, for mouse, keyboard and screen reader (WAI-ARIA's tree pattern).

import { h, show } from "./dom.js";

const RENEWED = 20;

// Nodes: {name, branch: whether there is more below, topic: whether it can be chosen, note: text or nodes beside the name}.
// `below(node)` gives those below a node, or below nothing the top.
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

  const make = (node, depth) => {
    const row = h("span", { class: "row" }, h("span", { class: "twist", "aria-hidden": "true" }), h("span", { class: "name", dir: "auto" }, node.name || "(empty)"), h("span", { class: "faint notes" }, node.note));
    const item = h("li", { role: "treeitem", tabindex: -1, "aria-level": depth, "aria-selected": "false", "aria-expanded": node.branch ? "false" : null }, row);
    item.node = node;
    if (node.branch) {
      item.group = h("ul", { role: "group", hidden: true });
      item.append(item.group);
    }
    row.addEventListener("click", (event) => {
      focus(item);
      if (node.branch && (event.target.className === "twist" || !node.topic)) open(item).catch(failed);
      if (node.topic) choose(item);
    });
    return item;
  };

  const fill = async (group, node) => {
    const depth = Number(group.parentElement.getAttribute?.("aria-level") || 0) + 1;
    show(group, h("li", { class: "faint", role: "none" }, "Loading …"));
    try {
      const found = await below(node);
      show(group, found.nodes.map((one) => make(one, depth)), found.more && h("li", { class: "faint", role: "none" }, found.more));
    } catch (error) {
      show(group);
      throw error;
    }
  };

  // Those below a node again: what is new comes in, and notes are as they are now.
  const renew = async (group, node) => {
    const depth = Number(group.parentElement.getAttribute?.("aria-level") || 0) + 1;
    const { nodes } = await below(node);
    const items = new Map([...group.children].filter((item) => item.node).map((item) => [item.node.name, item]));
    let at = group.firstElementChild;
    for (const one of nodes) {
      const item = items.get(one.name);
      if (item) {
        show(item.querySelector(".notes"), one.note);
        at = item.nextElementSibling;
      } else group.insertBefore(make(one, depth), at);
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
      Enter: () => (item.node.topic ? choose(item) : open(item).catch(failed)),
      " ": () => (item.node.topic ? choose(item) : open(item).catch(failed)),
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
      for (const item of open.slice(0, RENEWED)) await renew(item.group, item.node);
    },
    // Open what leads to a node, and mark it; `way(node)` says of a branch whether it does, and `is(node)` which it is.
    async reveal(way, is) {
      let group = element;
      while (group) {
        const nodes = [...group.children].filter((item) => item.node);
        const found = nodes.find((item) => is(item.node));
        if (found) {
          choose(found, false);
          found.scrollIntoView({ block: "nearest" });
          return;
        }
        const next = nodes.find((item) => item.node.branch && way(item.node));
        if (next) await open(next, true);
        group = next?.group;
      }
    },
  };
};
