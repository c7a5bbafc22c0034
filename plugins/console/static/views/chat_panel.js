// One of the two devices: it connects, shows the conversation, writes, and tells how far its user has read.

import { h, show } from "../lib/dom.js";
import { number, person, today } from "../lib/format.js";
import { recalls } from "../lib/message.js";
import { badge, button, doing, field, trouble } from "../lib/parts.js";
import { Device } from "../mqtt/client.js";

const PAGE = 50;

export const panel = (name, url, topic) => {
  const wrong = trouble();
  const id = h("input", { value: `console-${name}`, required: true, spellcheck: "false", autocapitalize: "none" });
  const user = h("input", { autocomplete: "off", placeholder: "none", spellcheck: "false", autocapitalize: "none" });
  const password = h("input", { type: "password", autocomplete: "off" });
  const list = h("ol");
  const log = h("div", { class: "log", role: "log", tabindex: 0, "aria-label": `Messages on the ${name}` }, list);
  const words = h("input", { "aria-label": `Message from the ${name}`, placeholder: "Message", autocomplete: "off", dir: "auto", required: true });
  const state = h("span", {}, badge("away"));
  const unread = h("span", { class: "faint" });
  const read = button("Mark as read", doing(wrong, () => mark(last)), { disabled: true });
  const enter = h("button", { class: "strong" }, "Connect");
  const exit = button("Disconnect", () => close(), { hidden: true });
  const login = h("form", { class: "filters", onsubmit: doing(wrong, () => open()) }, field("Client id", id), field("User", user), field("Password", password), enter);
  const write = h("form", { class: "write", onsubmit: doing(wrong, () => send()), hidden: true }, words, h("button", { class: "strong" }, "Send"));
  const element = h("section", { class: "card chat", "aria-label": `The ${name}` },
    h("div", { class: "bar" }, h("h2", {}, name), state, h("span", { class: "spring" }), unread, read, exit), wrong.element, login, log, write);

  let device = null;
  let me = "";
  let last = 0;
  let position = 0;
  let asking = false;
  const messages = new Map();

  const draw = () => {
    const down = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    const found = [...messages.values()].sort((one, other) => one.seq - other.seq);
    last = found.at(-1)?.seq || 0;
    show(list, found.map((one) => h("li", { class: one.sender === me ? "mine" : "theirs" },
      h("div", { class: "meta" }, one.sender === me ? "you" : person(one.sender), " ", h("time", {}, today(one.time)), ` #${one.seq}`, one.seq === position && position < last && " · read to here"),
      one.recalled ? h("div", { class: "words faint" }, "taken back") : h("div", { class: "words", dir: "auto" }, one.text))));
    if (down) log.scrollTop = log.scrollHeight;
  };

  const reached = (told) => {
    position = told.position;
    unread.textContent = told.unread ? `${number(told.unread)} unread` : "all read";
    read.disabled = !told.unread;
    draw();
  };

  const take = (message) => {
    if (message.recalls) { // it has no words of its own: the message that it takes back loses its
      for (const one of messages.values()) if (one.id === message.recalls) one.recalled = true;
      return;
    }
    messages.set(message.seq, {
      id: message.id, recalled: Boolean(message.recalled), seq: message.seq, sender: message.sender, time: message.time,
      text: message.encoding === "json" ? JSON.stringify(message.payload) : message.encoding === "base64" ? "(binary)" : message.payload,
    });
  };

  const told = (news) => {
    if (news.event === "closed") {
      gone();
      if (news.reason) wrong.tell(new Error(`the connection has ended: ${news.reason}`));
    } else if (news.topic === `$sync/events/${id.value}`) {
      const event = JSON.parse(news.payload);
      if (event.event === "read" && event.topic === topic()) reached(event);
    } else if (news.topic === topic()) {
      if (!news.user["tideline-seq"]) { // a broker with message_properties: never says no more than the words
        load().catch(wrong.tell);
        return;
      }
      take({ id: news.user["tideline-id"], recalls: news.user["tideline-recalls"], recalled: news.user["tideline-recalled"], seq: Number(news.user["tideline-seq"]), sender: news.user["tideline-sender"], time: Number(news.user["tideline-time"]), payload: news.payload, encoding: "text" });
      draw();
      count();
    }
  };

  // Ask how many are unread: once for however many come meanwhile.
  const count = () => {
    if (asking) return;
    asking = true;
    setTimeout(() => {
      device.ask({ op: "position", topic: topic() }).then(reached).catch(wrong.tell).finally(() => { asking = false; });
    }, 200);
  };

  const load = async () => {
    messages.clear();
    await device.subscribe(topic(), `$sync/reply/${id.value}`, `$sync/events/${id.value}`);
    me = (await device.ask({ op: "device" })).user;
    try {
      for (const message of (await device.ask({ op: "history", topic: topic(), limit: PAGE })).messages.reverse()) take({ ...message, recalls: recalls(message) });
      reached(await device.ask({ op: "position", topic: topic() }));
    } catch {
      reached({ position: 0, unread: 0 }); // nothing was said there yet, or this user takes no part
    }
    log.scrollTop = log.scrollHeight;
  };

  const open = async () => {
    device = new Device(url, id.value, told);
    await device.connect(user.value, password.value);
    password.value = "";
    for (const part of [login, exit, write]) part.hidden = !part.hidden;
    show(state, badge("connected", "good"));
    await load();
    words.focus();
  };
  const gone = () => {
    login.hidden = false;
    exit.hidden = write.hidden = true;
    read.disabled = true;
    show(state, badge("away"));
  };
  const send = async () => {
    const said = words.value;
    words.value = "";
    await device.publish(topic(), said);
    words.focus();
  };
  const mark = async (seq) => reached(await device.ask({ op: "read", topic: topic(), position: seq }));
  const close = () => device?.close();
  const moved = () => { if (device?.open) load().catch(wrong.tell); };
  return { element, close, moved };
};
