// One device: MQTT 5 over WebSocket, a durable session, QoS 1 both ways, and requests to `$sync/request`.

import { CONNACK, DISCONNECT, Decoder, PUBACK, PUBLISH, SUBACK, connect, disconnect, pingreq, puback, publish, subscribe } from "./packets.js";

const KEEP_ALIVE = 30;
const EXPIRY = 24 * 3600;
const PATIENCE = 30_000;

export class Device {
  // `told({event, …})`: connected, message, closed.
  constructor(url, clientId, told) {
    this.clientId = clientId;
    this.url = url;
    this.told = told;
    this.waiting = new Map();
    this.nextId = 0;
    this.open = false;
  }

  // Resolves when the broker has let it in, and rejects with the reason.
  connect(user, password) {
    const decoder = new Decoder();
    const socket = this.socket = new WebSocket(this.url, ["mqtt"]);
    socket.binaryType = "arraybuffer";
    return new Promise((resolve, reject) => {
      this.refused = reject;
      const late = setTimeout(() => { reject(new Error("the broker did not answer in time")); socket.close(); }, PATIENCE);
      socket.onopen = () => this.send(connect({ clientId: this.clientId, user, password, expiry: EXPIRY, keepAlive: KEEP_ALIVE }));
      socket.onmessage = ({ data }) => {
        for (const packet of decoder.feed(new Uint8Array(data))) {
          if (packet.type === CONNACK) {
            clearTimeout(late);
            if (packet.code) { reject(new Error(packet.reason || REFUSED[packet.code] || `refused with code ${packet.code}`)); socket.close(); }
            else { this.begin(); resolve(packet); }
          } else this.take(packet);
        }
      };
      socket.onclose = () => {
        clearTimeout(late);
        reject(new Error(`no connection to ${this.url}`));
        this.end();
      };
    });
  }

  begin() {
    this.open = true;
    this.beat = setInterval(() => this.send(pingreq()), (KEEP_ALIVE * 1000) / 2);
  }

  end() {
    clearInterval(this.beat);
    for (const { reject } of this.waiting.values()) reject(new Error("the connection has ended"));
    this.waiting.clear();
    if (this.open) this.told({ event: "closed", reason: this.reason || "" });
    this.open = false;
  }

  send(bytes) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(bytes);
  }

  take(packet) {
    if (packet.type === PUBLISH) {
      this.arrived(packet);
      if (packet.id) this.send(puback(packet.id));
    } else if (packet.type === PUBACK || packet.type === SUBACK) {
      const worst = packet.codes ? Math.max(...packet.codes) : packet.code;
      this.settle(packet.id, worst >= 0x80 ? new Error(packet.reason || REFUSED[worst] || `refused with code ${worst}`) : null, packet);
    } else if (packet.type === DISCONNECT) {
      this.reason = packet.reason || REFUSED[packet.code] || `code ${packet.code}`;
    }
  }

  arrived(packet) {
    if (packet.topic === `$sync/reply/${this.clientId}`) {
      const answer = JSON.parse(packet.payload);
      const { error } = answer;
      this.settle(`request ${packet.correlation}`, error ? Object.assign(new Error(error.detail), { status: error.status }) : null, answer);
    } else this.told({ event: "message", topic: packet.topic, payload: packet.payload, user: packet.user, pairs: packet.pairs });
  }

  settle(key, error, value) {
    const one = this.waiting.get(key);
    this.waiting.delete(key);
    if (one) { if (error) one.reject(error); else one.resolve(value); }
  }

  wait(key) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => this.settle(key, new Error("no answer in time")), PATIENCE);
      const ended = (done) => (value) => { clearTimeout(late); done(value); };
      this.waiting.set(key, { resolve: ended(resolve), reject: ended(reject) });
    });
  }

  id() {
    do this.nextId = (this.nextId % 65535) + 1; while (this.waiting.has(this.nextId));
    return this.nextId;
  }

  subscribe(...filters) {
    const id = this.id();
    const done = this.wait(id);
    this.send(subscribe(id, filters.map((filter) => [filter, 1])));
    return done;
  }

  // Resolves when the message is durable: stored, and in every inbox that it is due to.
  publish(topic, payload, options) {
    const id = this.id();
    const done = this.wait(id);
    this.send(publish(id, topic, payload, options));
    return done;
  }

  // Ask the broker (docs/sync.md); resolves with the answer.
  async ask(request) {
    const correlation = String((this.asked = (this.asked || 0) + 1));
    const answer = this.wait(`request ${correlation}`);
    answer.catch(() => null); // where publishing it fails, that is told
    await this.publish("$sync/request", JSON.stringify(request), { response: `$sync/reply/${this.clientId}`, correlation });
    return answer;
  }

  close() {
    this.send(disconnect());
    this.socket?.close();
  }
}

const REFUSED = {
  0x85: "the client id is not valid", 0x86: "wrong user name or password", 0x87: "not allowed", 0x88: "the broker is not available",
  0x8a: "banned", 0x8e: "another connection took this device over", 0x97: "a limit is reached", 0x98: "disconnected by an administrator", 0x9c: "use another server",
};
