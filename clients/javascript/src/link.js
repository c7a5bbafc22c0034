// One MQTT 5 connection, by mqtt.js. A new one is made after it ends, so nothing of it goes on by itself: what goes out again comes from the outbox.

import mqtt from "mqtt";

import { NoAnswer } from "./errors.js";

/** @typedef {import("mqtt").IPublishPacket} Packet */
/** @typedef {Record<string, string | string[]>} UserProperties */
/** @typedef {{code: number, reason: string}} Answer the reason code of an acknowledgement, in words where it is none of success */

/**
 * @typedef {object} Settings
 * @property {string} url
 * @property {string} device
 * @property {string | undefined} user
 * @property {string | undefined} password
 * @property {Record<string, unknown>} mqtt further options of mqtt.js
 */

/**
 * @typedef {object} Hooks
 * @property {(topic: string, payload: Uint8Array, about: UserProperties) => Promise<void>} arrived A message; it is acknowledged when the promise resolves. Where it rejects, the connection ends, so that it comes again.
 */

const FOR_EVER = 0xffffffff;
const LATEST = 30_000;

/** @param {number | undefined} code */
const well = (code) => (code ?? 0) < 0x80;

/** @param {Error | null | undefined} error */
const lost = (error) => new NoAnswer(error?.message || "the connection was lost");

export class Link {
  #mqtt;
  #hooks;
  /** @type {Set<(error: Error) => void>} what waits for an acknowledgement */
  #waiting = new Set();
  /** @type {(() => void)[]} publishes that wait for room in the broker's receive maximum */
  #queue = [];
  #open = 0;
  #most = 65535;
  /** @type {Error | null} */
  #error = null;
  over = false;
  /** The largest packet that the broker takes, in bytes. */
  largest = Infinity;
  /** The reason code of the broker's DISCONNECT or CONNACK; 0 where it sent none. */
  code = 0;
  /** @type {Promise<boolean>} resolves when the broker has let it in: whether it has a session of the device */
  opened;
  /** @type {Promise<Error>} resolves when the connection has ended, with the reason */
  ended;

  /** @param {Settings} settings @param {Hooks} hooks */
  constructor(settings, hooks) {
    this.#hooks = hooks;
    this.#mqtt = mqtt.connect(settings.url, {
      ...settings.mqtt,
      clientId: settings.device,
      ...(settings.user === undefined ? {} : { username: settings.user }),
      ...(settings.password === undefined ? {} : { password: settings.password }),
      protocolVersion: 5,
      clean: false,
      properties: { sessionExpiryInterval: FOR_EVER, requestProblemInformation: true, userProperties: { "tideline-messages": "on" } },
      connectTimeout: LATEST,
      reconnectPeriod: 0,
      resubscribe: false,
      customHandleAcks: (topic, payload, packet, done) => this.#arrived(topic, payload, packet, () => done(0)),
    });
    this.#mqtt.handleMessage = (packet, done) => {
      if (packet.qos) done(); // it was seen to before its acknowledgement, above
      else this.#arrived(packet.topic, /** @type {Buffer} */ (packet.payload), packet, done);
    };
    this.#mqtt.on("error", (error) => {
      this.#error ??= error;
      if ("code" in error && typeof error.code === "number") this.code ||= error.code;
      this.end(); // mqtt.js leaves the connection open after some
    });
    this.#mqtt.on("disconnect", (packet) => {
      this.code = packet.reasonCode ?? 0;
      const words = packet.properties?.reasonString ?? mqtt.ReasonCodes[/** @type {keyof typeof mqtt.ReasonCodes} */ (this.code)];
      this.#error ??= new Error(`the broker ends the connection: ${words || `reason code ${this.code}`}`);
    });
    this.opened = new Promise((resolve, reject) => {
      this.#waiting.add(reject);
      this.#mqtt.on("connect", (packet) => {
        this.#waiting.delete(reject);
        this.#most = packet.properties?.receiveMaximum ?? 65535;
        this.largest = packet.properties?.maximumPacketSize ?? Infinity;
        resolve(packet.sessionPresent);
      });
    });
    this.opened.catch(() => {}); // it is told by `ended`, too
    this.ended = new Promise((resolve) => this.#mqtt.once("close", () => resolve(this.#closed())));
  }

  #closed() {
    this.over = true;
    const error = this.#error ?? new Error("the connection was lost");
    for (const reject of this.#waiting) reject(new NoAnswer(error.message));
    this.#waiting.clear();
    for (const go of this.#queue.splice(0)) go();
    this.#mqtt.end(true);
    return error;
  }

  /** @param {string} topic @param {Uint8Array} payload @param {Packet} packet @param {() => void} done */
  #arrived(topic, payload, packet, done) {
    const about = /** @type {UserProperties} */ (packet.properties?.userProperties ?? {});
    this.#hooks.arrived(topic, payload, about).then(
      () => {
        if (!this.over) done();
      },
      (error) => {
        this.#error ??= error;
        this.end();
      },
    );
  }

  /**
   * Publish at QoS 1; resolves with what the broker answers, and rejects with `NoAnswer` where the connection ends before.
   * @param {string} topic
   * @param {Uint8Array} payload
   * @param {UserProperties} [userProperties]
   * @returns {Promise<Answer>}
   */
  async publish(topic, payload, userProperties) {
    if (this.#open >= this.#most) await new Promise((go) => this.#queue.push(() => go(undefined)));
    else this.#open += 1;
    try {
      return await this.#acknowledged(topic, payload, userProperties);
    } finally {
      const next = this.#queue.shift();
      if (next) next(); // it has the place now
      else this.#open -= 1;
    }
  }

  /** @param {string} topic @param {Uint8Array} payload @param {UserProperties} [userProperties] @returns {Promise<Answer>} */
  #acknowledged(topic, payload, userProperties) {
    return this.#settled((resolve, reject) => {
      const properties = userProperties ? { userProperties } : {};
      const bytes = /** @type {Buffer} */ (payload); // any Uint8Array is written as it is
      this.#mqtt.publish(topic, bytes, { qos: 1, properties }, (error, packet) => {
        const code = error && "code" in error ? error.code : 0;
        if (typeof code === "number" && (code || !error)) {
          const told = /** @type {{properties?: {reasonString?: string}} | undefined} */ (packet)?.properties?.reasonString;
          resolve({ code: well(code) ? 0 : code, reason: told ?? error?.message ?? "" });
        } else reject(lost(error));
      });
    });
  }

  /**
   * SUBSCRIBE at QoS 1; resolves with those that the broker refuses.
   * @param {string[]} filters
   * @returns {Promise<string[]>}
   */
  subscribe(filters) {
    return this.#settled((resolve, reject) => {
      this.#mqtt.subscribe(filters, { qos: 1, rh: 1 }, (error, granted, packet) => {
        const codes = packet?.granted ?? [];
        if (error && !codes.length) reject(lost(error));
        else resolve(filters.filter((_, at) => !well(Number(codes[at] ?? granted?.[at]?.qos))));
      });
    });
  }

  /** UNSUBSCRIBE. @param {string} filter @returns {Promise<void>} */
  unsubscribe(filter) {
    return this.#settled((resolve, reject) => {
      this.#mqtt.unsubscribe(filter, (error) => (error ? reject(lost(error)) : resolve(undefined)));
    });
  }

  /**
   * @template T
   * @param {(resolve: (value: T) => void, reject: (error: Error) => void) => void} begin
   * @returns {Promise<T>}
   */
  #settled(begin) {
    return new Promise((resolve, reject) => {
      if (this.over) {
        reject(new NoAnswer("not connected"));
        return;
      }
      this.#waiting.add(reject);
      const done = () => this.#waiting.delete(reject);
      begin((value) => { done(); resolve(value); }, (error) => { done(); reject(error); });
    });
  }

  /** End the connection at once. */
  end() {
    this.#mqtt.stream.destroy();
  }

  /** Say goodbye, then end it. */
  leave() {
    if (this.#mqtt.connected) this.#mqtt.end(false, { reasonCode: 0 });
    const late = setTimeout(() => this.end(), this.#mqtt.connected ? 1000 : 0);
    return this.ended.finally(() => clearTimeout(late));
  }
}
