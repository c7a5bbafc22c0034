// What is shown is asked for again and again while it can be seen, one question at a time; after a failure with longer pauses.

import { after } from "./dom.js";

const LONGEST = 15_000;

const seen = (signal) =>
  document.visibilityState === "visible"
    ? Promise.resolve()
    : new Promise((resolve) => {
        const done = () => document.visibilityState === "visible" && resolve();
        document.addEventListener("visibilitychange", done, { signal });
        signal.addEventListener("abort", resolve, { once: true });
      });

// `work` may throw; `failed` is told of the error, and of null once it works again.
export const every = async (milliseconds, signal, work, failed = () => {}) => {
  let pause = milliseconds;
  while (!signal.aborted) {
    try {
      await work();
      if (pause !== milliseconds) failed(null);
      pause = milliseconds;
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      failed(error);
      pause = Math.min(LONGEST, pause * 2);
    }
    await after(pause, signal);
    await seen(signal);
  }
};
