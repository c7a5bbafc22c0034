// What a call may reject with.

/** The broker said no. `status` and `code` are those of its HTTP API: 404 and `not-found`, say. */
export class RequestFailed extends Error {
  /** @param {{status: number, name: string, detail: string}} error */
  constructor({ status, name, detail }) {
    super(detail);
    this.name = "RequestFailed";
    this.status = status;
    this.code = name;
  }
}

/** The client is not connected, or the broker did not answer in time. What was asked may still happen. */
export class NoAnswer extends Error {
  /** @param {string} words */
  constructor(words) {
    super(words);
    this.name = "NoAnswer";
  }
}

/** The local copy cannot be read. Nothing in it was changed. */
export class StoreDamaged extends Error {
  /** @param {string} words */
  constructor(words) {
    super(words);
    this.name = "StoreDamaged";
  }
}

/** Another process, or another tab, has the local copy open. */
export class StoreInUse extends Error {
  /** @param {string} words */
  constructor(words) {
    super(words);
    this.name = "StoreInUse";
  }
}
