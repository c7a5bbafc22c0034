// What may be a topic or a filter. The broker ends the connection of who gets it wrong, so it is told before it is kept.

const LONGEST = 65535;

/** @param {string} value @param {string} kind */
const common = (value, kind) => {
  if (typeof value !== "string") throw new TypeError(`${kind} ${String(value)}: must be text`);
  const shown = `${kind} ${JSON.stringify(value.slice(0, 80))}`;
  if (!value) throw new RangeError(`${shown}: must have at least one character`);
  const bytes = new TextEncoder().encode(value).length;
  if (bytes > LONGEST) throw new RangeError(`${shown}: has ${bytes} bytes of UTF-8, ${LONGEST} is the most`);
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f-\u009f]/.test(value) || /[\ud800-\udfff]/u.test(value)) {
    throw new RangeError(`${shown}: may have no control characters and no half of a surrogate pair`);
  }
  return shown;
};

/** Throws where a message cannot be published to `topic`. @param {string} topic */
export const checkTopic = (topic) => {
  const shown = common(topic, "topic");
  if (/[+#]/.test(topic)) throw new RangeError(`${shown}: a message goes to one topic; + and # are for filters`);
};

/** Throws where `filter` is none. @param {string} filter */
export const checkFilter = (filter) => {
  const shown = common(filter, "filter");
  const levels = filter.split("/");
  const wrong = levels.some((level, at) => (level.includes("+") && level !== "+") || (level.includes("#") && (level !== "#" || at < levels.length - 1)));
  if (wrong) throw new RangeError(`${shown}: + stands for one whole level, # for all levels at the end`);
};
