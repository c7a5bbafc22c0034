// MQTT 5 packets as far as the chat needs them: bytes in, packets out, no I/O. The rules are those of the OASIS standard.

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export const CONNECT = 1, CONNACK = 2, PUBLISH = 3, PUBACK = 4, SUBSCRIBE = 8, SUBACK = 9, PINGREQ = 12, PINGRESP = 13, DISCONNECT = 14;

const USER_PROPERTY = 0x26, SESSION_EXPIRY = 0x11, CORRELATION = 0x09, RESPONSE_TOPIC = 0x08, REASON = 0x1f;

// --- writing -------------------------------------------------------------------------------------------------------------

const short = (value) => [value >> 8, value & 255];
const long = (value) => [value >>> 24, (value >> 16) & 255, (value >> 8) & 255, value & 255];
const text = (value) => { const found = encoder.encode(value); return [...short(found.length), ...found]; };

const length = (value) => {
  const found = [];
  do {
    const rest = value >> 7;
    found.push((value & 127) | (rest ? 128 : 0));
    value = rest;
  } while (value);
  return found;
};

const properties = (found) => [...length(found.length), ...found];

const packet = (type, flags, ...pieces) => {
  const size = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const head = [(type << 4) | flags, ...length(size)];
  const whole = new Uint8Array(head.length + size);
  whole.set(head);
  let at = head.length;
  for (const piece of pieces) { whole.set(piece, at); at += piece.length; }
  return whole;
};

// A durable session that lasts `expiry` seconds, and deliveries that tell sequence, id and sender.
export const connect = ({ clientId, user, password, expiry, keepAlive }) => {
  const flags = (user ? 0x80 : 0) | (password ? 0x40 : 0);
  const asked = [SESSION_EXPIRY, ...long(expiry), USER_PROPERTY, ...text("tideline-messages"), ...text("on")];
  return packet(CONNECT, 0, text("MQTT"), [5, flags], short(keepAlive), properties(asked), text(clientId), user ? text(user) : [], password ? text(password) : []);
};

export const subscribe = (id, filters) => packet(SUBSCRIBE, 2, short(id), [0], ...filters.map(([filter, options]) => [...text(filter), options]));

// `user` are user properties, [[name, value], …].
export const publish = (id, topic, payload, { response = "", correlation = "", user = [] } = {}) =>
  packet(PUBLISH, 2, text(topic), short(id),
    properties([
      ...(response ? [RESPONSE_TOPIC, ...text(response)] : []), ...(correlation ? [CORRELATION, ...text(correlation)] : []),
      ...user.flatMap(([name, value]) => [USER_PROPERTY, ...text(name), ...text(value)]),
    ]),
    encoder.encode(payload));

export const puback = (id) => packet(PUBACK, 0, short(id));
export const pingreq = () => packet(PINGREQ, 0);
export const disconnect = () => packet(DISCONNECT, 0);

// --- reading -------------------------------------------------------------------------------------------------------------

// How many bytes each property's value has; "text" and "pair" say it themselves, "length" is a variable byte integer.
const KINDS = {
  0x01: 1, 0x02: 4, 0x03: "text", 0x08: "text", 0x09: "text", 0x0b: "length", 0x11: 4, 0x12: "text", 0x13: 2, 0x15: "text", 0x16: "text",
  0x17: 1, 0x18: 4, 0x19: 1, 0x1a: "text", 0x1c: "text", 0x1f: "text", 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1, 0x26: "pair", 0x27: 4,
  0x28: 1, 0x29: 1, 0x2a: 1,
};

class Reader {
  constructor(data) { this.data = data; this.at = 0; }

  byte() { return this.data[this.at++]; }
  short() { return (this.byte() << 8) | this.byte(); }
  take(count) { this.at += count; return this.data.subarray(this.at - count, this.at); }
  text() { return decoder.decode(this.take(this.short())); }
  length() {
    let value = 0;
    for (let place = 0; place < 28; place += 7) {
      const byte = this.byte();
      value |= (byte & 127) << place;
      if (!(byte & 128)) break;
    }
    return value;
  }
  get ended() { return this.at >= this.data.length; }

  properties() {
    const found = { user: {}, pairs: [] };
    const size = this.ended ? 0 : this.length();
    const end = this.at + size;
    while (this.at < end) {
      const name = this.byte();
      const kind = KINDS[name];
      if (kind === "pair") { const pair = [this.text(), this.text()]; found.pairs.push(pair); found.user[pair[0]] = pair[1]; }
      else if (kind === "text") found[name] = this.text();
      else if (kind === "length") found[name] = this.length();
      else if (kind) { found[name] = this.take(kind); }
      else throw new Error(`property ${name} is none of MQTT 5`);
    }
    return found;
  }
}

const read = (first, body) => {
  const type = first >> 4;
  const reader = new Reader(body);
  if (type === CONNACK) {
    const present = reader.byte() & 1;
    const code = reader.byte();
    const props = reader.properties();
    return { type, present: Boolean(present), code, reason: props[REASON] || "" };
  }
  if (type === PUBLISH) {
    const topic = reader.text();
    const id = (first >> 1) & 3 ? reader.short() : 0;
    const props = reader.properties();
    return { type, id, topic, user: props.user, pairs: props.pairs, correlation: props[CORRELATION] || "", payload: decoder.decode(body.subarray(reader.at)) };
  }
  if (type === PUBACK) {
    const id = reader.short();
    const code = reader.ended ? 0 : reader.byte();
    return { type, id, code, reason: reader.properties()[REASON] || "" };
  }
  if (type === SUBACK) {
    const id = reader.short();
    const props = reader.properties();
    return { type, id, codes: [...body.subarray(reader.at)], reason: props[REASON] || "" };
  }
  if (type === DISCONNECT) {
    const code = reader.ended ? 0 : reader.byte();
    return { type, code, reason: reader.properties()[REASON] || "" };
  }
  return { type };
};

// Packets from bytes that come in any pieces.
export class Decoder {
  constructor() { this.rest = new Uint8Array(0); }

  feed(bytes) {
    const data = new Uint8Array(this.rest.length + bytes.length);
    data.set(this.rest);
    data.set(bytes, this.rest.length);
    const found = [];
    let at = 0;
    for (;;) {
      let size = 0;
      let place = at + 1;
      let shift = 0;
      while (place < data.length && data[place] & 128 && shift < 21) { size |= (data[place] & 127) << shift; shift += 7; place += 1; }
      if (place >= data.length) break;
      size |= (data[place] & 127) << shift;
      place += 1;
      if (place + size > data.length) break;
      found.push(read(data[at], data.subarray(place, place + size)));
      at = place + size;
    }
    this.rest = data.slice(at);
    return found;
  }
}
