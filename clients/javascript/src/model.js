// What an app sees: messages, what it sends, and receipts.

const decoder = new TextDecoder();
const encoder = new TextEncoder();

/**
 * What a message is made of.
 * @typedef {object} Fields
 * @property {string} id
 * @property {string} topic
 * @property {number} seq
 * @property {string} sender
 * @property {number} time
 * @property {Uint8Array} payload
 * @property {readonly string[]} [recalls]
 * @property {boolean} [recalled]
 */

/** A message as the broker has it. */
export class Message {
  /** @param {Fields} fields */
  constructor({ id, topic, seq, sender, time, payload, recalls = [], recalled = false }) {
    this.id = id;
    this.topic = topic;
    /** Its place in the conversation `topic`: 1, 2, 3, … */
    this.seq = seq;
    /** The sender's user key: `u/alice`, or `c/phone` of a client without a user. */
    this.sender = sender;
    /** When the broker took it, in ms since 1970. */
    this.time = time;
    this.payload = payload;
    /** The ids of the messages that this one takes back; it has no content of its own then. */
    this.recalls = recalls;
    /** It was taken back: its content is gone. */
    this.recalled = recalled;
  }

  /** The payload as UTF-8; what is none is replaced. */
  get text() {
    return decoder.decode(this.payload);
  }

  /** The same message without its content. */
  without() {
    return new Message({ ...this, payload: new Uint8Array(), recalled: true });
  }

  /**
   * From an answer of the broker (docs/http.md).
   * @param {Record<string, any>} found
   */
  static ofJson(found) {
    const { id, topic, seq, sender, time, encoding, payload, properties = [], recalled } = found;
    const bytes = encoding === "base64" ? fromBase64(payload) : encoder.encode(encoding === "text" ? payload : JSON.stringify(payload));
    const recalls = properties.filter((/** @type {string[]} */ [name]) => name === RECALLS).map((/** @type {string[]} */ pair) => pair[1]);
    return new Message({ id, topic, seq, sender, time, payload: bytes, recalls, recalled: Boolean(recalled) });
  }

  /**
   * From what came over MQTT; null where the broker keeps no such message ($SYS, policy `none`).
   * @param {string} topic
   * @param {Uint8Array} payload
   * @param {Record<string, string | string[]>} about user properties
   */
  static ofPacket(topic, payload, about) {
    const id = last(about["tideline-id"]);
    if (!id) return null;
    return new Message({
      id,
      topic,
      seq: Number(last(about["tideline-seq"])),
      sender: last(about["tideline-sender"]),
      time: Number(last(about["tideline-time"])),
      payload: new Uint8Array(payload), // a copy: what the network gave is a view of a larger buffer
      recalls: [about[RECALLS] ?? []].flat(),
      recalled: Boolean(last(about["tideline-recalled"])),
    });
  }
}

const RECALLS = "tideline-recalls";

/**
 * The last value of a user property: the broker's own follow those of the publisher.
 * @param {string | string[] | undefined} value
 */
export const last = (value) => [value ?? ""].flat().at(-1) ?? "";

/**
 * A message that is still to be stored by the broker.
 * @typedef {object} Outgoing
 * @property {string} key what the broker stores once, and receipts name
 * @property {string} topic
 * @property {Uint8Array} payload
 * @property {readonly string[]} receipt
 * @property {string} reason why the broker never will take it; empty while it waits
 * @property {number} place its place in the outbox: greater than those of all that were sent before
 */

/**
 * How far a message is. `key` is what `Client.send` gave. `count` and `of` are null while the broker has not counted a large group.
 * @typedef {object} Receipt
 * @property {string} message the message's id
 * @property {string | null} key
 * @property {string} topic
 * @property {number} seq
 * @property {"stored" | "delivered" | "acknowledged" | "read"} state
 * @property {number | null} count
 * @property {number | null} of
 * @property {readonly string[]} users who are new since the last one, 20 at most
 */

/**
 * A conversation with members, as the broker lists it (docs/conversations.md).
 * @typedef {object} Conversation
 * @property {string} topic
 * @property {"direct" | "group" | "channel"} kind
 * @property {string} name
 * @property {"read-only" | "member" | "admin" | "owner"} role
 * @property {boolean} invited
 * @property {boolean} muted
 * @property {number} active when something was said last, in ms since 1970
 * @property {Message | null} lastMessage
 * @property {number} position up to where the user has read
 * @property {number} last the last message's sequence
 * @property {number} total
 * @property {number} unread without the user's own messages
 * @property {number} mentions
 */

/**
 * @param {Record<string, any>} found
 * @returns {Conversation}
 */
export const conversationOfJson = ({ last_message: lastMessage, ...found }) =>
  /** @type {Conversation} */ ({ ...found, lastMessage: lastMessage && Message.ofJson(lastMessage) });

/**
 * @param {Record<string, any>} event
 * @returns {Receipt}
 */
export const receiptOfJson = ({ message, message_id: key, topic, seq, state, count, of, users }) => ({
  message, key, topic, seq, state, count, of, users,
});

/** @param {string | Uint8Array} payload */
export const bytesOf = (payload) => (typeof payload === "string" ? encoder.encode(payload) : new Uint8Array(payload));

/** @param {string} text */
export const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** @param {Uint8Array} bytes */
export const toBase64 = (bytes) => {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
};
