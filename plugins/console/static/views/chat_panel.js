// One of the two devices: it connects, shows the conversation, writes, edits, reacts, and tells how far its user has read.

import { h, show } from "../lib/dom.js";
import { chosen } from "../lib/files.js";
import { number } from "../lib/format.js";
import { text } from "../lib/message.js";
import { badge, button, confirm, doing, field, trouble } from "../lib/parts.js";
import { me } from "../lib/session.js";
import { Device } from "../mqtt/client.js";
import { log } from "./chat_message.js";
import { Present } from "./chat_present.js";
import { Talk } from "./chat_talk.js";

const ASKS = ["tideline-receipt", "delivered,read"];
const NO_ID = "0".repeat(16);

export const panel = (name, url, topic, signal) => {
  const wrong = trouble();
  const id = h("input", { value: `console-${name}`, required: true, spellcheck: "false", autocapitalize: "none" });
  const user = h("input", { autocomplete: "off", placeholder: "none", spellcheck: "false", autocapitalize: "none" });
  const password = h("input", { type: "password", autocomplete: "off" });
  const list = h("ol");
  const earlier = button("Earlier messages", doing(wrong, () => talk.load(true)), { hidden: true });
  const place = h("div", { class: "log", role: "log", tabindex: 0, "aria-label": `Messages on the ${name}` }, earlier, list);
  const words = h("input", { "aria-label": `Message from the ${name}`, placeholder: "Message", autocomplete: "off", dir: "auto" });
  const files = chosen(`Attach files on the ${name}`);
  const state = h("span", {}, badge("away"));
  const unread = h("span", { class: "faint" });
  const read = button("Mark as read", doing(wrong, () => talk.read()), { disabled: true });
  const exit = button("Disconnect", () => close(), { hidden: true });
  const login = h("form", { class: "filters", onsubmit: doing(wrong, () => open()) },
    field("Client id", id), field("User", user), field("Password", password), h("button", { class: "strong" }, "Connect"));
  const editing = h("p", { class: "meta editing", hidden: true });
  const around = h("div");
  const types = h("div");
  const write = h("form", { class: "write", onsubmit: doing(wrong, () => send()), hidden: true }, words, files.element, h("button", { class: "strong" }, "Send"));
  const element = h("section", { class: "card chat", "aria-label": `The ${name}` },
    h("div", { class: "bar" }, h("h2", {}, name), state, h("span", { class: "spring" }), unread, read, exit), around, wrong.element, login, place, types, editing, write);

  let device = null;
  let talk = null;
  let present = null;
  let own = "";
  let receipts = false;
  let edited = null;

  const does = {
    wrong,
    react: (message, reaction) => talk.react(message, reaction),
    recall: async (message) => {
      if (await confirm({ title: "Take this message back?", text: "Its content is removed, and who has it is told.", yes: "Take it back", no: "Keep it" })) await talk.recall(message);
    },
    edit: async (message) => edit(message),
  };
  const fill = log(list);
  let drawing = 0;
  const draw = () => {
    cancelAnimationFrame(drawing);
    drawing = 0;
    const down = place.scrollHeight - place.scrollTop - place.clientHeight < 60;
    const open = Boolean(device?.open);
    if (down) talk.trim();
    fill(talk.list, (message) => ({
      me: own, readTo: message.seq === talk.position && talk.position < talk.last, receipt: talk.receipts.get(message.id), open, does, signal,
    }));
    unread.textContent = talk.unread ? `${number(talk.unread)} unread` : "all read";
    read.disabled = !talk.behind || !open;
    earlier.hidden = !talk.older || !open;
    present.follow([...talk.list].reverse().map((one) => one.sender));
    if (down) place.scrollTop = place.scrollHeight;
  };
  const soon = () => { drawing ||= requestAnimationFrame(draw); }; // once for however much comes meanwhile

  const told = (news) => {
    if (news.event === "closed") {
      gone();
      if (news.reason) wrong.tell(new Error(`the connection has ended: ${news.reason}`));
    } else if (news.topic === `$sync/events/${id.value}`) {
      const event = JSON.parse(news.payload);
      if (event.event === "read" && event.topic === talk?.topic) talk.reached(event);
    } else if (news.topic === `$sync/receipts/${id.value}`) {
      const receipt = JSON.parse(news.payload);
      if (receipt.topic === talk?.topic) talk.receipt(receipt);
    } else if (!present?.take(news) && news.topic === talk?.topic) {
      present.stopped(news.user["tideline-sender"]);
      talk.arrived(news);
    }
  };

  // Begin with a conversation, which is another where the topic was changed.
  const load = async () => {
    talk?.end();
    present?.end();
    edit(null);
    read.disabled = true;
    await device.subscribe(...["reply", "events", "receipts"].map((one) => `$sync/${one}/${id.value}`));
    own = (await device.ask({ op: "device" })).user;
    const begun = device;
    talk = new Talk(device, topic(), own, soon, (error) => begun.open && wrong.tell(error));
    present = new Present(device, talk.topic, own);
    await device.subscribe(talk.topic);
    show(around, present.element);
    show(types, present.line);
    receipts = await device.ask({ op: "counts", message: NO_ID }).then(() => true, (error) => error.status === 404);
    await present.begin();
    await talk.load();
    draw();
    place.scrollTop = place.scrollHeight;
    await files.offer(me.operator || me.user === own); // they go over HTTP, as who is signed in here
  };

  const open = async () => {
    device = new Device(url, id.value, told);
    await device.connect(user.value, password.value);
    password.value = "";
    for (const part of [login, exit, write]) part.hidden = !part.hidden;
    show(state, badge("connected", "good"));
    toWords();
    await load();
  };
  const gone = () => {
    talk?.end();
    present?.end();
    edit(null);
    login.hidden = false;
    exit.hidden = write.hidden = true;
    show(state, badge("away"));
    if (talk && present) draw();
  };
  const edit = (message) => {
    edited = message;
    editing.hidden = !message;
    if (!message) { show(editing); return; }
    show(editing, `Editing message ${message.seq} `, button("Stop editing", () => { words.value = ""; edit(null); words.focus(); }));
    words.value = text(message);
    words.focus();
  };
  const send = async () => {
    const said = words.value;
    if (!said && !files.any) { words.focus(); return; }
    words.value = "";
    try {
      if (edited) {
        await talk.edit(edited, said);
        edit(null);
      } else {
        const attachments = await files.send(talk.topic, me.operator ? own : undefined, signal);
        await device.publish(talk.topic, said, { user: [...attachments, ...(receipts ? [ASKS] : [])] });
      }
    } catch (error) {
      words.value ||= said; // it is not lost with what went wrong
      throw error;
    }
    present.typing(false);
    toWords();
  };
  // Not away from where somebody writes meanwhile, such as on the other device.
  const toWords = () => { if (element.contains(document.activeElement) || document.activeElement === document.body) words.focus(); };
  words.addEventListener("input", () => { if (!edited) present?.typing(true); });
  const close = () => device?.close();
  const moved = () => { if (device?.open) load().catch(wrong.tell); };
  return { element, close, moved };
};
