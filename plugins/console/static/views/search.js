// Search as one types, in any language.

import { get } from "../lib/api.js";
import { h, say, show } from "../lib/dom.js";
import { number, person, today } from "../lib/format.js";
import { highlighted } from "../lib/highlight.js";
import { button, code, field, heading, link, select, trouble } from "../lib/parts.js";

const PAUSE = 120;
const LIMIT = 20;

export const search = (place, [asked], signal) => {
  const wrong = trouble();
  const q = h("input", { type: "search", class: "large", placeholder: "kitchen, 会议, \"exact phrase\" …", autocomplete: "off", spellcheck: "false", dir: "auto", value: asked || "" });
  const filter = h("input", { placeholder: "chat/#", spellcheck: "false", autocapitalize: "none" });
  const sender = h("input", { placeholder: "u/alice", spellcheck: "false", autocapitalize: "none" });
  const sort = select([["relevance", "best first"], ["newest", "newest first"], ["oldest", "oldest first"]]);
  const total = h("p", { class: "faint" });
  const hits = h("ol", { class: "hits" });
  const more = button("More", () => find(true), { hidden: true });
  let running = new AbortController();
  let timer = 0;
  let cursor = "";
  signal.addEventListener("abort", () => { running.abort(); clearTimeout(timer); });

  const find = async (further = false) => {
    running.abort();
    const mine = running = new AbortController();
    const words = q.value.trim();
    history.replaceState(null, "", `#/search${words ? `/${encodeURIComponent(words)}` : ""}`);
    if (!words && !filter.value && !sender.value) {
      show(hits);
      total.textContent = "";
      more.hidden = true;
      return;
    }
    try {
      const began = performance.now();
      const page = await get("/search", {
        q: words, topic_filter: filter.value, sender: sender.value, sort: sort.value, limit: LIMIT, cursor: further ? cursor : "",
      }, mine.signal);
      wrong.tell(null);
      if (!further) show(hits);
      hits.append(...page.hits.map(hit));
      cursor = page.next;
      more.hidden = !page.next;
      const count = `${page.total_exact ? "" : "more than "}${number(page.total)} ${page.total === 1 ? "message" : "messages"}`;
      total.textContent = `${count}, in ${Math.round(performance.now() - began)} ms`;
      clearTimeout(timer);
      timer = setTimeout(() => say(count), 700);
    } catch (error) {
      if (error.name !== "AbortError") wrong.tell(error);
    }
  };
  const soon = () => { clearTimeout(timer); timer = setTimeout(() => find(), PAUSE); };
  q.addEventListener("input", soon);
  filter.addEventListener("change", soon);
  sender.addEventListener("change", soon);
  sort.addEventListener("change", soon);

  show(place, heading("Search", "Within what you may read. A word's beginning is enough for the last one; quotes make a phrase."), wrong.element,
    h("form", { role: "search", onsubmit: (event) => { event.preventDefault(); find(); } },
      field("Search for", q),
      h("div", { class: "filters" }, field("Only topics", filter), field("Only from", sender), field("Order", sort))),
    total, hits, more);
  q.focus({ preventScroll: true });
  if (asked) find();
};

const hit = (found) =>
  h("li", {},
    h("div", { class: "meta" },
      h("a", { href: `#/message/${found.id}` }, code(found.topic), ` #${found.seq}`),
      h("span", {}, person(found.sender)),
      h("time", { datetime: new Date(found.time).toISOString() }, today(found.time)),
      link("conversation", "conversations", found.topic)),
    highlighted(found.highlight));
