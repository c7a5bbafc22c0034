// The page around the views: who is signed in, which view is shown, light and dark.

import { get, remove } from "./lib/api.js";
import { h, show } from "./lib/dom.js";
import { followFigures, forgetFigures, history, onFigures } from "./lib/figures.js";
import { person } from "./lib/format.js";
import { badge, trouble } from "./lib/parts.js";
import { authorization, forget, me, signedIn, tokenId } from "./lib/session.js";
import { GROUPS, VIEWS, start } from "./views.js";
import { login } from "./views/login.js";

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const state = document.getElementById("state");
const broken = trouble();
let shown = new AbortController();
let whole = new AbortController();

// --- light and dark ----------------------------------------------------------------------------------------------------

const THEMES = { auto: "as the system", light: "light", dark: "dark" };
const theme = document.getElementById("theme");

const dress = (name) => {
  document.documentElement.dataset.theme = name;
  theme.textContent = { auto: "◐", light: "☀", dark: "☾" }[name];
  theme.setAttribute("aria-label", `Colours: ${THEMES[name]}. Change`);
  theme.title = `Colours: ${THEMES[name]}`;
};
theme.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
  localStorage.setItem("tideline-theme", next);
  dress(next);
});
dress(localStorage.getItem("tideline-theme") in THEMES ? localStorage.getItem("tideline-theme") : "auto");

// --- views -------------------------------------------------------------------------------------------------------------

const path = () => (location.hash.startsWith("#/") ? location.hash.slice(2).split("/").map(decodeURIComponent) : []);

const mine = () => VIEWS.filter((view) => view.label && (me.operator || !view.operator));

const mark = (name) => {
  for (const link of nav.querySelectorAll("a")) {
    if (link.dataset.view !== name) link.removeAttribute("aria-current");
    else {
      link.setAttribute("aria-current", "page");
      if (nav.scrollWidth > nav.clientWidth) nav.scrollLeft = link.offsetLeft - nav.clientWidth / 2; // the menu of a narrow screen
    }
  }
};

const menu = () =>
  show(nav, GROUPS.map((group) => {
    const views = mine().filter((view) => view.group === group);
    return views.length > 0 && h("div", {}, h("h2", {}, group),
      h("ul", {}, views.map((view) => h("li", {}, h("a", { href: `#/${view.name}`, "data-view": view.name }, view.label)))));
  }));

const go = (moveFocus = true) => {
  const [name, ...rest] = path();
  const first = me.operator ? start.operator : start.user;
  const view = VIEWS.find((one) => one.name === (name || first)) || VIEWS.find((one) => one.name === first);
  shown.abort();
  shown = new AbortController();
  mark(view.marks || view.name);
  document.title = `${view.label || view.title} · Tideline`;
  const place = h("div", { class: `view view-${view.name}` });
  show(main, broken.element, place);
  if (view.operator && !me.operator) {
    show(place, h("h1", {}, view.label), h("p", {}, "This is for the operator. Sign out, and sign in with the operator's secret."));
  } else {
    view.show(place, rest, shown.signal);
  }
  if (moveFocus) {
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
};

window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#/") && me.user) go();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

// --- who ---------------------------------------------------------------------------------------------------------------

const leave = document.getElementById("leave");

const signOut = async () => {
  const id = tokenId();
  if (id) await remove(`/tokens/${id}`).catch(() => null);
  out();
};
leave.addEventListener("click", signOut);

const out = () => {
  whole.abort();
  shown.abort();
  forget();
  forgetFigures();
  me.user = "";
  leave.hidden = true;
  show(nav);
  show(state);
  document.getElementById("who").textContent = "";
  document.title = "Sign in · Tideline";
  login(main, begin);
};
window.addEventListener("signed-out", () => {
  if (me.user || signedIn()) out();
});

const ready = () => {
  const answer = history.at(-1).answer;
  const away = answer.one("tideline_storage_available") === 0;
  const name = answer.label("tideline_node_info", "name");
  const text = away ? "storage is away" : answer.one("tideline_ready") ? "ready" : "not ready";
  if (state.textContent !== text + name) show(state, badge(text, text === "ready" ? "good" : "bad"), name && h("span", { class: "faint" }, name));
};

const begin = async () => {
  Object.assign(me, await get("/me"));
  whole.abort();
  whole = new AbortController();
  show(document.getElementById("who"), person(me.user));
  leave.hidden = !authorization();
  menu();
  if (me.operator) {
    followFigures(whole.signal, (error) => broken.tell(error));
    onFigures(ready, whole.signal);
  }
  go(false);
};

begin().catch((error) => {
  if (error.status === 401) out();
  else show(main, h("h1", {}, "The broker does not answer as it should"), h("p", { class: "trouble", role: "alert" }, error.message));
});
