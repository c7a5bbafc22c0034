// Two devices side by side, over MQTT in this very page: what one writes, the other gets, also what it missed.

import { h, show } from "../lib/dom.js";
import { field, heading, trouble } from "../lib/parts.js";
import { panel } from "./chat_panel.js";

export const chat = (place, [asked], signal) => {
  const wrong = trouble();
  const topic = h("input", { value: asked || "chat/console", required: true, spellcheck: "false", autocapitalize: "none" });
  const both = h("div", { class: "halves" });
  show(place,
    heading("Chat", "Each side is a device with a durable session: MQTT 5 over WebSocket, QoS 1. Disconnect one, write on the other, and connect it again."),
    wrong.element, h("div", { class: "filters" }, field("Conversation (topic)", topic)), both);
  fetch("mqtt.json", { credentials: "omit", signal }).then((answer) => answer.json()).then(({ url }) => {
    if (!url) {
      wrong.tell(new Error("This broker has no WebSocket listener that this page can reach; plugins.console.websocket names one elsewhere."));
      return;
    }
    const sides = ["laptop", "phone"].map((name) => panel(name, url, () => topic.value, signal));
    show(both, sides.map((side) => side.element));
    topic.addEventListener("change", () => sides.forEach((side) => side.moved()));
    signal.addEventListener("abort", () => sides.forEach((side) => side.close()));
  }).catch((error) => error.name === "AbortError" || wrong.tell(error));
};
