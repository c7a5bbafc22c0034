// A hit's highlight, which the API gives as escaped text with the matches in <mark>, as nodes: nothing but text and marks.

import { h } from "./dom.js";

const ENTITIES = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'", "&#39;": "'", "&amp;": "&" };

const plain = (escaped) => escaped.replace(/&(lt|gt|quot|#x27|#39|amp);/g, (entity) => ENTITIES[entity]);

export const highlighted = (text) =>
  h("span", { class: "payload", dir: "auto" },
    text.split(/(<mark>.*?<\/mark>)/s).map((piece) =>
      piece.startsWith("<mark>") ? h("mark", {}, plain(piece.slice(6, -7))) : plain(piece)));
