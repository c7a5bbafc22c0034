// Attachments on the page: those of a message, to download, and those that are to go with the next one.

import { about, available, save, upload } from "./attachments.js";
import { h, show } from "./dom.js";
import { bytes } from "./format.js";
import { button, doing } from "./parts.js";

// The ids of a message's attachments.
export const attached = (message) => message.properties.filter(([name]) => name === "attachment").map(([, id]) => id);

const one = (id, wrong, signal) => {
  const place = h("li", { class: "file" }, h("span", { class: "faint" }, "an attachment"));
  about(id, signal).then(({ name, type, size }) => {
    const title = name || "attachment";
    show(place, button(`⤓ ${title}`, doing(wrong, () => save(id)), { class: "download", dir: "auto", "aria-label": `Download ${title}` }), h("small", {}, `${bytes(size)}, ${type}`));
  }).catch((error) => {
    if (error.name !== "AbortError") show(place, h("span", { class: "faint" }, error.status === 404 ? "an attachment that is gone, or is not yours to read" : error.message));
  });
  return place;
};

export const files = (ids, wrong, signal) => ids.length > 0 && h("ul", { class: "files", "aria-label": "Attachments" }, ids.map((id) => one(id, wrong, signal)));

// A button for files that are to go with the next message. `send(topic, user)` uploads them, and gives the properties that name them.
export const chosen = (label) => {
  const input = h("input", { type: "file", multiple: true, class: "unseen", tabindex: -1, "aria-hidden": "true" });
  const told = h("span", { class: "faint told" });
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Uploaded" });
  const clear = button("×", () => { input.value = ""; list(); }, { hidden: true, "aria-label": "Attach none" });
  const list = () => {
    told.textContent = [...input.files].map((file) => `${file.name} (${bytes(file.size)})`).join(", ");
    clear.hidden = !input.files.length;
  };
  input.addEventListener("change", list);
  const element = h("span", { class: "attach", hidden: true }, button("Attach", () => input.click(), { "aria-label": label }), input, told, clear, bar);
  return {
    element,
    offer: async (wanted = true) => { element.hidden = !(wanted && await available()); },
    get any() { return input.files.length > 0; },
    async send(topic, user, signal) {
      const found = [];
      bar.hidden = !input.files.length;
      try {
        for (const file of input.files) {
          found.push(["attachment", await upload(file, topic, { user, signal, told: (done, size) => { bar.value = size ? done / size : 1; } })]);
        }
      } finally {
        bar.hidden = true;
      }
      input.value = "";
      list();
      return found;
    },
  };
};
